//! Who is to hear of a change: from an operation's `notify` to the notifications to store. Pure.
//!
//! Called by [`super::plan`] for each change; each notification it returns also arms a push, due when
//! its lane's grace has passed.

use std::collections::BTreeSet;

use uuid::Uuid;

use crate::config;
use crate::id::{Seq, UserId};
use crate::protocol::notify::Lane;
use crate::store::{NewNotification, PendingOp};

/// How long an acknowledgement is waited for before a push, in milliseconds by lane.
#[derive(Debug, Clone, Copy)]
pub struct Graces {
    pub(super) critical: i64,
    pub(super) high: i64,
    pub(super) normal: i64,
}

impl From<&config::Push> for Graces {
    fn from(push: &config::Push) -> Self {
        let ms = |d: std::time::Duration| i64::try_from(d.as_millis()).unwrap_or(i64::MAX);
        Self {
            critical: ms(push.grace_critical),
            high: ms(push.grace_high),
            normal: ms(push.grace_normal),
        }
    }
}

impl Graces {
    fn of(&self, lane: Lane) -> i64 {
        match lane {
            Lane::Critical => self.critical,
            Lane::High => self.high,
            Lane::Normal => self.normal,
        }
    }
}

/// The notifications of the change at `seq`. The actor never hears of their own act.
pub(super) fn plan(
    pending: &PendingOp,
    seq: Seq,
    now_ms: i64,
    graces: Graces,
) -> Vec<NewNotification> {
    let Some(notify) = &pending.op.notify else { return Vec::new() };
    let data = notify.data.as_ref();
    let data = data.map(|data| serde_json::to_string(data).expect("data has string keys"));
    let others = notify.users.iter().filter(|user| user.as_str() != pending.actor.user);
    let recipients: BTreeSet<&UserId> = others.collect();
    let each = |user: &UserId| NewNotification {
        nid: Uuid::now_v7().to_string(),
        user: user.clone(),
        seq,
        title: notify.title.clone(),
        body: notify.body.clone(),
        data: data.clone(),
        link: notify.link.clone(),
        lane: notify.lane,
        not_before: now_ms.saturating_add(graces.of(notify.lane)),
        created_at: now_ms,
    };
    recipients.into_iter().map(each).collect()
}
