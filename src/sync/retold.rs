//! What a commit made true that nobody was told: operations were tried again on behalf of a user, or its
//! outcome was unknown, and when it was run again every operation had its verdict already.
//!
//! The changes are in the log, so the feed is made to look there. The notifications are in the store, and
//! have to be sent as well: a client that sees the changes acknowledges them, and with that disarms pushes
//! of notifications it was never shown.

use serde::Deserialize;

use crate::fanout::{About, Relay};
use crate::id::Seq;
use crate::store::{Answer, Committed, PendingOp, Store};

/// Passes on what an earlier try of this commit made true, if one did.
pub(super) async fn tell(store: &Store, relay: &Relay, committed: &Committed) {
    let known = |answer: &Answer| matches!(answer, Answer::Replayed(_));
    if !committed.answers.iter().all(known) {
        return; // a transaction is whole: the earlier try was rolled back
    }
    let project = &committed.project;
    relay.behind(project);
    let seqs: Vec<Seq> = committed.answers.iter().filter_map(seq).collect();
    match store.waiting_notifications(project, &seqs).await {
        Ok(notifications) => {
            for (notification, kind) in notifications {
                let about = About { project: project.clone(), kind: Some(kind) };
                relay.notification(&about, &notification);
            }
        }
        Err(error) => {
            tracing::warn!(%project, %error, "notifications of a commit are left to their pushes");
        }
    }
}

/// Where the log has the change of an applied operation.
fn seq(answer: &Answer) -> Option<Seq> {
    #[derive(Deserialize)]
    struct Placed {
        seq: Option<Seq>,
    }
    serde_json::from_str::<Placed>(answer.verdict().get()).ok()?.seq
}

/// Tells users what became of operations of the failed lane: nobody waits for these answers but, perhaps, an
/// administrator. If the commit was run `again`, its first run may have decided them.
pub(super) fn verdicts(relay: &Relay, committed: &Committed, ops: &[PendingOp], again: bool) {
    for (op, answer) in ops.iter().zip(&committed.answers).filter(|(op, _)| op.retry) {
        if again || matches!(answer, Answer::New(_)) {
            let (project, kind) = (committed.project.clone(), Some(op.op.entity_type.clone()));
            relay.decided_again(&About { project, kind }, &op.actor.user, answer.verdict());
        }
    }
}
