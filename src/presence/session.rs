//! One session of this instance: what it should be, what Redis knows of it, and the operations between.
//!
//! Kept by `registry`. Pure.

use tokio::time::Instant;

use crate::id::{Room, UserId};
use crate::protocol::server::RawState;

/// What a step does with one session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OpKind {
    /// Joins, or sets its state.
    Put,
    /// Joins again after a loss; not announced if Redis had forgotten everybody.
    Restore,
    /// Left for good.
    Left,
    /// Broke.
    Lost,
}

/// One operation of a step.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Op {
    pub(crate) kind: OpKind,
    pub(crate) room: Room,
    pub(crate) user: UserId,
    pub(crate) conn: u64,
    pub(crate) state: Option<RawState>,
    /// Which setting of the state this is.
    pub(crate) stamp: u64,
}

/// What should become of a session.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Want {
    /// It is here.
    Here,
    /// It left for good.
    Left,
    /// It broke. Kept until the instant, to be told to Redis again if it forgets.
    Lost(Instant),
}

/// One session of this instance.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) user: UserId,
    pub(crate) state: Option<RawState>,
    /// Orders the states of a user's sessions.
    pub(crate) stamp: u64,
    pub(crate) want: Want,
    /// What Redis last confirmed: absent, or here with a state and its stamp.
    pub(crate) known: Option<(u64, Option<RawState>)>,
    /// Redis may have forgotten it.
    pub(crate) restore: bool,
    /// How it left, if it joined again before Redis heard of it.
    pub(crate) again: Option<OpKind>,
    /// Whether it waits in its project's queue.
    pub(crate) queued: bool,
}

impl Session {
    /// A session that Redis knows nothing of.
    pub(crate) fn new(user: &UserId) -> Self {
        Self {
            user: user.clone(),
            state: None,
            stamp: 0,
            want: Want::Here,
            known: None,
            restore: false,
            again: None,
            queued: false,
        }
    }

    /// It is here, also if it was to leave: then it leaves first and has no state.
    pub(crate) fn come_back(&mut self) {
        match std::mem::replace(&mut self.want, Want::Here) {
            Want::Here => return,
            Want::Left => self.again = Some(OpKind::Left),
            Want::Lost(_) => self.again = Some(OpKind::Lost),
        }
        self.state = None;
    }

    /// What leads from what Redis knows to what should be.
    pub(crate) fn operations(&self, room: &Room, conn: u64, now: Instant, ops: &mut Vec<Op>) {
        let mut push = |kind, stamp, state: Option<RawState>| {
            ops.push(Op { kind, room: room.clone(), user: self.user.clone(), conn, state, stamp });
        };
        if let Some((stamp, state)) = &self.known
            && self.restore
        {
            push(OpKind::Restore, *stamp, state.clone());
        }
        if let Some(left) = self.again {
            push(left, 0, None);
        }
        let known = self.known.as_ref().map(|(stamp, _)| *stamp);
        let news = self.again.is_some() || known != Some(self.stamp);
        // Lost before Redis heard of it: its user is here until the grace is over, all the same.
        let over = matches!(self.want, Want::Lost(until) if until <= now);
        if news && self.want != Want::Left && !over {
            push(OpKind::Put, self.stamp, self.state.clone());
        }
        match self.want {
            Want::Here => {}
            Want::Lost(_) if !over => push(OpKind::Lost, 0, None),
            Want::Lost(_) | Want::Left => push(OpKind::Left, 0, None),
        }
    }
}
