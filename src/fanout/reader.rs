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
            if self.role.can_read(&change.entity.kind) {
                if let Some(seq) = hidden.take() {
                    sink.push(slot, advance.frame(seq));
                    sent += 1;
                }
                sink.push(slot, &change.frame);
                sent += 1;
            } else {
                hidden = Some(change.seq);
            }
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
            if change.seq > self.cursor && self.role.can_read(&change.entity.kind) {
                sink.push(slot, &change.frame);
                self.cursor = change.seq;
                sent += 1;
            }
        }
        sent
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
