//! What a commit made true that nobody was told: its outcome was unknown, and when it was run again every
//! operation had its verdict already.
//!
//! The changes are in the log, so the feed is made to look there. The notifications are in the store, and
//! have to be sent as well: a client that sees the changes acknowledges them, and with that disarms pushes
//! of notifications it was never shown.

use serde::Deserialize;

use crate::fanout::Relay;
use crate::id::Seq;
use crate::store::{Answer, Committed, Store};

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
            for notification in &notifications {
                relay.notification(project, notification);
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
