//! One connection's reading of a project's log, or of one entity in it: which changes it is sent, and what
//! it is told of those its role may not read.

use std::sync::Arc;

use bytes::Bytes;

use super::feed::EncodedChange;
use super::registry::{Sink, Slot};
use crate::auth::Role;
use crate::id::{ProjectId, Seq};
use crate::protocol::server::ServerFrame;

/// One connection's reading of a project's log, or of one entity in it.
#[derive(Debug)]
pub(super) struct Reader {
    pub(super) role: Arc<Role>,
    /// Where its reading began: it gets every change after this.
    pub(super) start: Seq,
    /// The last position this reader was sent, or passed over.
    pub(super) cursor: Seq,
    /// Whether live changes go to it now; otherwise it is still catching up.
    pub(super) live: bool,
    /// Parts of the log, each after the first position up to the second, that the project's room brought
    /// while this reader of an entity was catching up.
    pub(super) brought: Vec<(Seq, Seq)>,
}

impl Reader {
    pub(super) fn take_all(
        &mut self,
        slot: Slot,
        changes: &[Arc<EncodedChange>],
        advance: &mut Advance<'_>,
        sink: &mut impl Sink,
    ) -> usize {
        let mut sent = 0;
        let mut hidden = None;
        for change in changes.iter().filter(|change| change.seq > self.cursor) {
            let Some(frame) = change.seen_by(&self.role) else {
                hidden = Some(change.seq);
                continue;
            };
            if let Some(seq) = hidden.take() {
                sink.push(slot, advance.frame(seq));
                sent += 1;
            }
            sink.push(slot, frame);
            sent += 1;
        }
        if let Some(seq) = hidden {
            sink.push(slot, advance.frame(seq));
            sent += 1;
        }
        if let Some(last) = changes.last() {
            self.cursor = self.cursor.max(last.seq);
        }
        sent
    }

    pub(super) fn take_entity<'a>(
        &mut self,
        slot: Slot,
        changes: impl Iterator<Item = &'a Arc<EncodedChange>>,
        sink: &mut impl Sink,
    ) -> usize {
        let mut sent = 0;
        for change in changes {
            let wanted = change.seq > self.cursor && !self.was_brought(change.seq);
            if let Some(frame) = change.seen_by(&self.role).filter(|_| wanted) {
                sink.push(slot, frame);
                self.cursor = change.seq;
                sent += 1;
            }
        }
        sent
    }

    fn was_brought(&self, seq: Seq) -> bool {
        self.brought.iter().any(|(after, upto)| seq > *after && seq <= *upto)
    }
}

/// The `advance` frame for a position, encoded once for all who need it.
pub(super) struct Advance<'a> {
    project: &'a ProjectId,
    last: Option<(Seq, Bytes)>,
}

impl<'a> Advance<'a> {
    pub(super) fn new(project: &'a ProjectId) -> Self {
        Self { project, last: None }
    }

    pub(super) fn frame(&mut self, seq: Seq) -> &Bytes {
        if self.last.as_ref().is_none_or(|(known, _)| *known != seq) {
            self.last = Some((seq, ServerFrame::Advance { project: self.project, seq }.encode()));
        }
        &self.last.as_ref().expect("it was just set").1
    }
}
