//! What becomes of a push that is due: a pure function of what the store shows.
//!
//! Read, too late, not theirs to read any more, quiet hours, gathered, capped, or sent to each device. Critical ones
//! know neither quiet hours nor caps nor gathering. What is said is made when it is sent: `super::words`.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::log;
use super::provider::{Message, Providers};
use super::sign::Signer;
use crate::auth::{Access, Told};
use crate::config;
use crate::config::push::{QuietAction, millis};
use crate::localtime;
use crate::protocol::notify::Lane;
use crate::store::push::{Decided, Device, Due, NO_ACCESS, NO_CHANGE, NewDelivery, View};
use crate::templates::Templates;

/// Why an intent waits for the end of quiet hours.
const QUIET: &str = "quiet hours";

/// How an intent ends, and why.
type End = (&'static str, &'static str);
/// It was made a push.
const SENT: End = ("done", "");

/// What decisions are made with.
#[derive(Debug, Clone)]
pub struct Policy {
    /// The configuration.
    pub config: config::Push,
    /// The words.
    pub templates: Arc<Templates>,
    /// Signs what devices report back with.
    pub signer: Signer,
    /// Those who reach devices.
    pub providers: Providers,
    /// Who may be told of what.
    pub access: Arc<Access>,
}

/// A text's key and the notifications gathered under it, each of which may be told.
type Groups<'v> = HashMap<(&'v str, &'v str, &'v str), (Told, Vec<&'v Due>)>;

impl Policy {
    /// Decides on everything in the view.
    #[must_use]
    pub fn decide(&self, view: &View) -> Decided {
        let mut decided = Decided::default();
        let mut groups: Groups<'_> = HashMap::new();
        for due in &view.due {
            if due.state == "scheduled" {
                self.scheduled(view, due, &mut decided);
            } else if due.read_at.is_some() {
                decided.ended.push((due.id, "canceled", "read"));
            } else if due.expires_at <= view.now {
                decided.ended.push((due.id, "expired", "ttl"));
            } else if let Some(told) = self.told(due) {
                self.due(view, due, told, &mut groups, &mut decided);
            } else {
                decided.ended.push((due.id, "canceled", NO_ACCESS));
            }
        }
        for (key, (told, members)) in groups {
            self.gathered(view, key, (&told, &members), &mut decided);
        }
        decided
    }

    /// Whether its recipient may be told of it now.
    fn told(&self, due: &Due) -> Option<Told> {
        self.access.told(due.standing.as_deref(), due.entity_type.as_deref())
    }

    /// One that is to be pushed: now, when quiet hours end, or with others of its key.
    fn due<'v>(
        &self,
        view: &View,
        due: &'v Due,
        told: Told,
        groups: &mut Groups<'v>,
        decided: &mut Decided,
    ) {
        if lane(due) == Lane::Critical {
            return self.alone(view, due, &told, decided);
        }
        if let Some(until) = self.quiet(view, due) {
            return match self.config.quiet_action {
                QuietAction::Defer => decided.deferred.push((due.id, until, QUIET)),
                QuietAction::Suppress => decided.ended.push((due.id, "suppressed", QUIET)),
            };
        }
        match key(due) {
            None => self.alone(view, due, &told, decided),
            Some(key) => {
                let key = (due.user_id.as_str(), due.project.as_str(), key);
                groups.entry(key).or_insert_with(|| (told, Vec::new())).1.push(due);
            }
        }
    }

    /// One that stands for itself.
    fn alone(&self, view: &View, due: &Due, told: &Told, decided: &mut Decided) {
        let (state, reason) = self.send(view, due, (told, &[due]), "", decided);
        decided.ended.push((due.id, state, reason));
    }

    /// One whose time may have come: it is shown now, and pushed after the grace unless it was read by then.
    fn scheduled(&self, view: &View, due: &Due, decided: &mut Decided) {
        if let Some(local) = &due.local_time
            && let Some(at) = localtime::instant(local, self.zone(view, &due.user_id))
            && at > view.now
        {
            return decided.deferred.push((due.id, at, "local time"));
        }
        if self.told(due).is_none() {
            return decided.ended.push((due.id, "canceled", NO_ACCESS));
        }
        let grace = if view.live.contains(&due.user_id) { due.grace } else { 0 };
        decided.announced.push((due.id, view.now.saturating_add(grace)));
    }

    /// The zone of the user's latest device that has one.
    fn zone<'a>(&'a self, view: &'a View, user: &str) -> &'a str {
        let devices = view.devices.get(user).map_or(&[][..], Vec::as_slice);
        let latest = devices.iter().filter(|d| d.tz.is_some()).max_by_key(|d| d.registered_at);
        latest.and_then(|device| device.tz.as_deref()).unwrap_or(&self.config.time_zone)
    }

    fn quiet(&self, view: &View, due: &Due) -> Option<i64> {
        let config = &self.config;
        if config.quiet_from.is_empty() || !config.quiet_lanes.contains(&lane(due)) {
            return None;
        }
        let zone = self.zone(view, &due.user_id);
        localtime::quiet_until(view.now, zone, &config.quiet_from, &config.quiet_to)
    }

    /// Pushes of one key: at once if the last one is long ago, else together when its window ends. If nothing is
    /// sent, no window begins, and all of them end as the one did that was to stand for them.
    fn gathered(
        &self,
        view: &View,
        (user, project, key): (&str, &str, &str),
        (told, members): (&Told, &[&Due]),
        decided: &mut Decided,
    ) {
        let window = (user.to_owned(), project.to_owned(), key.to_owned());
        let ends = view.windows.get(&window).map(|at| at + millis(self.config.coalesce));
        if let Some(ends) = ends.filter(|ends| *ends > view.now) {
            // What waited for the morning stays of one kind, and is gathered then as well.
            let reason = if key == QUIET { QUIET } else { "gathered" };
            return decided.deferred.extend(members.iter().map(|due| (due.id, ends, reason)));
        }
        let Some(leader) = members.iter().max_by_key(|due| &due.nid) else { return };
        let end = self.send(view, leader, (told, members), key, decided);
        let mut others = end;
        if end == SENT {
            decided.windows.push(window);
            others = ("done", "gathered");
            let led = members.iter().filter(|due| due.id != leader.id);
            decided.gathered.extend(led.map(|due| (due.id, leader.nid.clone())));
        }
        decided.ended.extend(members.iter().map(|due| {
            let (state, reason) = if due.id == leader.id { end } else { others };
            (due.id, state, reason)
        }));
    }

    /// Sends to each of the user's devices, `due` standing for all `members`. Returns how it ends.
    fn send(
        &self,
        view: &View,
        due: &Due,
        (_, members): (&Told, &[&Due]),
        key: &str,
        decided: &mut Decided,
    ) -> End {
        let cap = i64::from(self.config.cap_per_hour);
        let capped = cap > 0 && lane(due) != Lane::Critical;
        if capped {
            let planned = decided.counted.iter().filter(|user| **user == due.user_id).count();
            let had = view.counts.get(&due.user_id).copied().unwrap_or(0);
            if had + planned as i64 >= cap {
                return ("suppressed", "cap");
            }
        }
        let last = last_change(members);
        let known: HashSet<&str> = self.providers.iter().map(|p| p.name()).collect();
        if known.contains(log::NAME) {
            decided.deliveries.push(self.delivery(due, members, key, None));
        } else {
            let devices = view.devices.get(&due.user_id).map_or(&[][..], Vec::as_slice);
            let devices = devices.iter().filter(|d| known.contains(d.provider.as_str()));
            let (silent, loud): (Vec<_>, Vec<_>) = devices.partition(|device| {
                let cursor = (due.user_id.clone(), device.client.clone(), due.project.clone());
                view.acked.get(&cursor).is_some_and(|seq| *seq >= last)
            });
            if loud.is_empty() {
                let nobody = ("done", "no device");
                return if silent.is_empty() { nobody } else { ("canceled", "acknowledged") };
            }
            let deliveries = loud.into_iter().map(Some);
            decided
                .deliveries
                .extend(deliveries.map(|device| self.delivery(due, members, key, device)));
        }
        if capped {
            decided.counted.push(due.user_id.clone());
        }
        SENT
    }

    /// For one device; what it says, and of which of them it bears the name, is made when it is sent.
    fn delivery(
        &self,
        due: &Due,
        members: &[&Due],
        key: &str,
        device: Option<&Device>,
    ) -> NewDelivery {
        let urgent = members.iter().map(|due| lane(due)).min_by_key(|lane| lane.rank());
        let urgent = urgent.unwrap_or_else(|| lane(due));
        let message = Message {
            nid: due.nid.clone(),
            user: due.user_id.clone(),
            project: due.project.clone(),
            seq: if due.evt_seq == NO_CHANGE { 0 } else { due.evt_seq },
            lane: urgent,
            title: due.title.clone(),
            body: due.body.clone(),
            badge: 1,
            link: None,
            data: None,
            category: due.category.clone(),
            collapse: collapse(due, key),
            report: device.map_or_else(String::new, |d| self.signer.report(&due.nid, d.id)),
        };
        NewDelivery {
            nid: due.nid.clone(),
            project: due.project.clone(),
            user: due.user_id.clone(),
            evt_seq: last_change(members),
            lane: urgent.as_str().into(),
            provider: device.map_or(log::NAME, |device| &device.provider).to_owned(),
            token: device.map(|device| device.id),
            category: due.category.clone(),
            payload: serde_json::to_string(&message).expect("a message has string keys"),
            // As long as one of them is of use.
            expires_at: members.iter().map(|due| due.expires_at).max().unwrap_or(due.expires_at),
            created_at: due.created_at,
        }
    }
}

/// Only whose acknowledgement disarms all of them.
fn last_change(members: &[&Due]) -> i64 {
    members.iter().map(|due| due.evt_seq).max().unwrap_or(NO_CHANGE)
}

/// What is gathered with what: its key, or with all that waited for the morning.
fn key(due: &Due) -> Option<&str> {
    let waited = || (due.reason.as_deref() == Some(QUIET)).then_some(QUIET);
    due.collapse.as_deref().or_else(waited)
}

fn lane(due: &Due) -> Lane {
    Lane::read(&due.lane)
}

/// What replaces what on the device: the same for every attempt, and for every push of a key.
fn collapse(due: &Due, key: &str) -> String {
    let key = if key.is_empty() { due.collapse.as_deref().unwrap_or_default() } else { key };
    if key.is_empty() {
        return due.nid.clone();
    }
    let identity = format!("{}\n{}\n{key}", due.project, due.user_id);
    hex::encode(&Sha256::digest(identity)[..16])
}

#[cfg(test)]
pub(super) mod tests;
