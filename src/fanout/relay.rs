//! What happens on this instance goes to its shards and to the other instances; what happens on the
//! others comes to its shards. Local delivery never waits for the bus.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::value::RawValue;
use tokio::sync::mpsc;

use super::wire::{self, Signal, Wire};
use super::{About, ConnId, EncodedChange, Fanout, Feed, Feeds, ToShard};
use tokio::time::Instant;

use crate::auth::{Access, Authenticator, Disconnect, Disconnects, RevocationEntry};
use crate::bus::{Bus, Topic};
use crate::id::{Epoch, ProjectId, Room, Seq, UserId};
use crate::presence::{Delta, Presence};
use crate::protocol::conflict::{Conflict, ConflictState};
use crate::protocol::frame;
use crate::protocol::notify::Lane;
use crate::protocol::op::{StoredVerdict, Verdict};
use crate::protocol::server::{Notification, PresenceDelta, PresenceList, ServerFrame};
use crate::store::push::Due;
use crate::store::{Committed, Membership, NewNotification, Parked, Standing};
use crate::telemetry::{Dropped, Metrics};

use super::feed::Offered;

/// Changes of memberships in one message between instances.
const MEMBERS_PER_MESSAGE: usize = 500;

/// Both directions between the local shards and the other instances.
pub struct Relay {
    /// This instance's feeds.
    pub feeds: Feeds,
    /// This instance's shards and users.
    pub fanout: Fanout,
    /// The way to the other instances.
    pub bus: Bus,
    /// The sessions administrators ended lately.
    pub disconnects: Disconnects,
    auth: Arc<Authenticator>,
    access: Arc<Access>,
    presence: Presence,
    metrics: Arc<Metrics>,
    /// Feeds that need the store, for the follower.
    doubtful: mpsc::UnboundedSender<Arc<Feed>>,
}

impl Relay {
    /// Ties the parts together; feeds that need the store are announced on the receiver.
    #[must_use]
    pub fn new(
        feeds: Feeds,
        fanout: Fanout,
        bus: Bus,
        (auth, access): (Arc<Authenticator>, Arc<Access>),
        presence: Presence,
        metrics: Arc<Metrics>,
    ) -> (Self, mpsc::UnboundedReceiver<Arc<Feed>>) {
        let (doubtful, receiver) = mpsc::unbounded_channel();
        let disconnects = Disconnects::default();
        let relay =
            Self { feeds, fanout, bus, disconnects, auth, access, presence, metrics, doubtful };
        (relay, receiver)
    }

    /// Passes on what a commit made true.
    pub fn committed(&self, committed: &Committed) {
        let project = &committed.project;
        let changes: Vec<_> = committed
            .entries
            .iter()
            .map(|entry| Arc::new(EncodedChange::new(project, entry)))
            .collect();
        if !changes.is_empty() {
            let message = wire::changes(committed.epoch, changes.iter().map(|c| &**c));
            self.offer(project, committed.epoch, changes);
            self.bus.publish(&Topic::Project(project.clone()), &message);
        }
        for notification in &committed.notifications {
            let kind = Some(notification.draft.about.clone());
            self.notification(&About { project: project.clone(), kind }, notification);
        }
        for Parked { conflict, .. } in &committed.conflicts {
            self.conflict(project, conflict);
        }
    }

    /// Tells a user of a conflict that waits for them, or was resolved. What a strategy decided at once is in the
    /// verdict.
    pub fn conflict(&self, project: &ProjectId, conflict: &Conflict) {
        if conflict.state != ConflictState::Closed
            && let Ok(user) = UserId::new(&conflict.user)
        {
            let frame = ServerFrame::Conflict { project, conflict }.encode();
            let kind = Some(conflict.entity.kind.clone());
            self.to_user(&user, &About { project: project.clone(), kind }, &frame);
        }
    }

    fn offer(&self, project: &ProjectId, epoch: Epoch, changes: Vec<Arc<EncodedChange>>) {
        if let Some(feed) = self.feeds.get(project)
            && feed.offer(epoch, changes) != Offered::InOrder
        {
            let _closing_down = self.doubtful.send(feed);
        }
    }

    /// The log may hold changes that this instance's feed was not told: the follower looks at once.
    pub fn behind(&self, project: &ProjectId) {
        if let Some(feed) = self.feeds.get(project) {
            let _closing_down = self.doubtful.send(feed);
        }
    }

    /// Sends a notification to its user's connections, on every instance; a scheduled one is shown when its time
    /// comes.
    pub fn notification(&self, about: &About, n: &NewNotification) {
        if n.draft.schedule.is_none() {
            self.to_user(&n.user, about, &Self::shown(about, n));
        }
    }

    /// Sends a notification to its user's connections on this instance.
    pub fn notification_here(&self, about: &About, n: &NewNotification) {
        self.to_user_here(&n.user, about, &Self::shown(about, n));
    }

    fn shown(about: &About, n: &NewNotification) -> Bytes {
        let draft = &n.draft;
        let data = draft.data.as_deref().and_then(raw);
        ServerFrame::Notification(Notification {
            nid: &n.nid,
            project: &about.project,
            seq: draft.seq,
            title: &draft.title,
            body: &draft.body,
            data: data.as_deref(),
            link: draft.link.as_deref(),
            lane: draft.lane,
            category: draft.category.as_deref(),
            at: draft.created_at,
        })
        .encode()
    }

    /// Shows a user a notification whose time has come.
    pub fn announce(&self, due: &Due, now_ms: i64) {
        let (Ok(project), Ok(user)) = (due.project.parse(), due.user_id.parse()) else { return };
        let kind = due.entity_type.as_deref().and_then(|kind| kind.parse().ok());
        let data = due.data.as_deref().and_then(raw);
        let frame = ServerFrame::Notification(Notification {
            nid: &due.nid,
            project: &project,
            seq: Seq::ZERO,
            title: &due.title,
            body: &due.body,
            data: data.as_deref(),
            link: due.link.as_deref(),
            lane: Lane::read(&due.lane),
            category: due.category.as_deref(),
            at: now_ms,
        })
        .encode();
        self.to_user(&user, &About { project, kind }, &frame);
    }

    /// Passes on the new verdict of an operation that was tried again.
    pub fn decided_again(&self, about: &About, user: &str, verdict: &StoredVerdict) {
        let verdict = serde_json::from_str::<Verdict>(verdict.get());
        if let (Ok(user), Ok(verdict)) = (UserId::new(user), verdict) {
            let verdict = &Verdict { fields: None, current: None, ..verdict };
            let project = &about.project;
            self.to_user(&user, about, &ServerFrame::Verdict { project, verdict }.encode());
        }
    }

    /// Passes on a finished frame to those connections of a user that may read what it is about.
    fn to_user(&self, user: &UserId, about: &About, frame: &Bytes) {
        self.to_user_here(user, about, frame);
        let payload = frame::payload(frame);
        let frame = String::from_utf8_lossy(&payload).into_owned();
        let about = about.clone();
        self.signal(&Topic::User(user.clone()), &Signal::User { about, frame });
    }

    fn to_user_here(&self, user: &UserId, about: &About, frame: &Bytes) {
        let about = Arc::new(about.clone());
        self.dropped(Dropped::ShardQueue, self.fanout.to_user(user, &about, frame));
    }

    /// Passes on a broadcast's finished frame.
    pub fn event(&self, room: &Arc<Room>, frame: &Bytes, except: Option<ConnId>) {
        let Some(project) = room.project() else { return };
        self.event_here(project, room, frame, except);
        self.bus.publish(&Topic::Project(project.clone()), &wire::event(room, frame));
    }

    fn event_here(
        &self,
        project: &ProjectId,
        room: &Arc<Room>,
        frame: &Bytes,
        except: Option<ConnId>,
    ) {
        if let Some(feed) = self.feeds.get(project) {
            self.dropped(Dropped::ShardQueue, feed.event(room, frame, except));
        }
    }

    /// Passes on who came and went.
    pub fn presence(&self, delta: Delta) {
        self.presence_here(&delta);
        if let Some(project) = delta.room.project().cloned() {
            self.signal(&Topic::Project(project), &Signal::Presence { delta });
        }
    }

    fn presence_here(&self, delta: &Delta) {
        if !self.presence.heard(delta) {
            return;
        }
        self.presence_frame(&PresenceDelta {
            room: &delta.room,
            members: None,
            joined: &delta.joined,
            left: &delta.left,
            updated: &delta.updated,
            users: delta.users,
        });
    }

    /// Tells this instance's clients anew who is in a room: they may have missed something.
    pub fn presence_whole_here(&self, room: &Room, list: &PresenceList) {
        self.presence_frame(&PresenceDelta {
            room,
            members: Some(&list.members),
            joined: &[],
            left: &[],
            updated: &[],
            users: list.users,
        });
    }

    fn presence_frame(&self, presence: &PresenceDelta<'_>) {
        let Some(feed) = presence.room.project().and_then(|project| self.feeds.get(project)) else {
            return;
        };
        let frame = ServerFrame::Presence(presence.clone()).encode();
        let full = feed.presence(&Arc::new(presence.room.clone()), &frame);
        self.dropped(Dropped::ShardQueue, full);
    }

    /// Closes every connection whose token was revoked, on every instance.
    pub fn revoked(&self, entry: RevocationEntry) {
        self.revoked_here(entry.clone());
        self.signal(&Topic::Control, &Signal::Revoked { entry });
    }

    /// Enforces a revocation on this instance; whether it was news here. A shard whose queue is full
    /// finds out by itself when it next sweeps.
    pub fn revoked_here(&self, entry: RevocationEntry) -> bool {
        let revocation = Arc::new(entry.revocation.clone());
        let new = self.auth.revocations().add(entry);
        if new {
            self.fanout.to_all(&ToShard::Revoke(revocation));
        }
        new
    }

    /// Puts changes of memberships in force, on every instance.
    pub fn members(&self, changes: &[Membership]) {
        self.members_here(changes);
        for changes in changes.chunks(MEMBERS_PER_MESSAGE) {
            self.signal(&Topic::Control, &Signal::Members { changes: changes.to_vec() });
        }
    }

    /// Puts changes of memberships in force on this instance; how many were news here.
    pub fn members_here(&self, changes: &[Membership]) -> usize {
        let Some(memberships) = self.access.memberships() else { return 0 };
        let news: Vec<_> =
            changes.iter().filter(|change| memberships.apply(change)).map(|c| &c.user).collect();
        for user in news.iter().collect::<BTreeSet<_>>() {
            self.fanout.regrant(user);
        }
        news.len()
    }

    /// Whether a user may have another role in a project now than this one, which was `stored` or their token's.
    /// What the token says instead of a stored one that was forgotten is not known here.
    #[must_use]
    pub fn role_changed(
        &self,
        user: &str,
        project: &ProjectId,
        (role, stored): (&str, bool),
    ) -> bool {
        let Ok(user) = UserId::new(user) else { return false };
        match self.access.standing(&user, project) {
            Standing::Role(now) => now.as_str() != role,
            Standing::Removed => true,
            Standing::Forgotten => stored,
        }
    }

    /// Ends a user's sessions, on every instance.
    pub fn disconnect(&self, disconnect: &Disconnect) {
        self.disconnect_here(disconnect);
        self.signal(&Topic::Control, &Signal::Disconnect(disconnect.clone()));
    }

    /// Ends a user's sessions on this instance; whether it was news here. While a shard's queue is full
    /// it stays news, and is met again in the store.
    pub fn disconnect_here(&self, disconnect: &Disconnect) -> bool {
        let new = self.disconnects.add(disconnect);
        if new
            && let Some(until) = self.disconnects.until(disconnect.at, Instant::now())
            && self.fanout.to_all(&ToShard::Disconnect(disconnect.user.clone(), until)) > 0
        {
            self.disconnects.forget(disconnect);
        }
        new
    }

    fn dropped(&self, reason: Dropped, count: usize) {
        self.metrics.drops.of(reason).inc_by(count as u64);
    }

    fn signal(&self, topic: &Topic, signal: &Signal) {
        self.bus.publish(topic, &wire::signal(signal));
    }

    /// Takes a message of another instance.
    pub fn receive(&self, topic: Topic, payload: Bytes) {
        let message = match wire::decode(payload) {
            Ok(message) => message,
            Err(error) => {
                tracing::warn!(%error, "skipped a message of another instance");
                return self.dropped(Dropped::BusMessage, 1);
            }
        };
        match (topic, message) {
            (Topic::Project(project), Wire::Changes(epoch, changes)) => {
                self.offer(&project, epoch, changes.into_iter().map(Arc::new).collect());
            }
            (Topic::Project(project), Wire::Event(room, frame)) => {
                self.event_here(&project, &Arc::new(room), &frame, None);
            }
            (topic, Wire::Signal(signal)) => match (topic, *signal) {
                (Topic::Project(_), Signal::Presence { delta }) => self.presence_here(&delta),
                (Topic::User(user), Signal::User { about, frame: text }) => {
                    let frame = frame::text(|p| p.extend(text.bytes()));
                    self.to_user_here(&user, &about, &frame);
                }
                (Topic::Control, Signal::Revoked { entry }) => {
                    self.revoked_here(entry);
                }
                (Topic::Control, Signal::Members { changes }) => {
                    self.members_here(&changes);
                }
                (Topic::Control, Signal::Disconnect(disconnect)) => {
                    self.disconnect_here(&disconnect);
                }
                _ => self.dropped(Dropped::BusMessage, 1),
            },
            _ => self.dropped(Dropped::BusMessage, 1),
        }
    }
}

fn raw(text: &str) -> Option<Box<RawValue>> {
    RawValue::from_string(text.to_owned()).ok()
}
