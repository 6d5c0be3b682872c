//! What a commit made true that nobody was told: operations were tried again on behalf of a user, or its
//! outcome was unknown, and when it was run again every operation had its verdict already, or the bus lost it.
//!
//! The changes are in the log, so the feed is made to look there. Conflicts that wait for their user are in the
//! store, and so are the notifications, which have to be sent as well: a client that sees the changes acknowledges
//! them, and with that disarms pushes of notifications it was never shown.

use serde::Deserialize;

use crate::fanout::{About, Relay};
use crate::id::{ConflictId, ProjectId, Seq};
use crate::store::{Answer, Committed, NewNotification, PendingOp, Retried, Store, StoreError};

/// Passes on what an earlier try of this commit made true, if one did.
pub(super) async fn tell(store: &Store, relay: &Relay, committed: &Committed, ops: &[PendingOp]) {
    let Some(Untold { seqs, conflicts }) = untold(ops, &committed.answers) else { return };
    relay.behind(&committed.project);
    if !conflicts.is_empty() {
        match store.conflicts_by_id(&committed.project, &conflicts).await {
            Ok(found) => found.iter().for_each(|one| relay.conflict(&committed.project, one)),
            Err(error) => {
                let project = &committed.project;
                tracing::warn!(%project, %error, "conflicts are left to their users' next sessions");
            }
        }
    }
    for (about, notification) in notifications(store, &committed.project, &seqs).await {
        relay.notification(&about, &notification);
    }
}

/// Conflicts read at once.
const CONFLICTS: usize = 100;
/// Conflicts, and verdicts of what was tried again, told again at most: every instance tells all of them, and what is
/// older is asked for at the next session.
const TOLD_AGAIN: u32 = 1000;

/// Tells users again, on every instance, of the conflicts that were opened or resolved and of the verdicts that were
/// given since a time: a broken link may have lost it, in either direction, and they have no positions whose gap
/// would reveal that. Clients know both by their ids.
pub(super) async fn since(store: &Store, relay: &Relay, since_ms: i64) -> Result<(), StoreError> {
    for (project, ids) in store.conflicts_since(since_ms, TOLD_AGAIN).await? {
        for ids in ids.chunks(CONFLICTS) {
            let conflicts = store.conflicts_by_id(&project, ids).await?;
            conflicts.iter().for_each(|conflict| relay.conflict(&project, conflict));
        }
    }
    for Retried { project, user, kind, verdict } in
        store.retried_since(since_ms, TOLD_AGAIN).await?
    {
        relay.decided_again(&About { project, kind: Some(kind) }, &user, &verdict);
    }
    Ok(())
}

/// The notifications of these changes whose push still waits: nobody may have been shown them.
pub(super) async fn notifications(
    store: &Store,
    project: &ProjectId,
    seqs: &[Seq],
) -> Vec<(About, NewNotification)> {
    let about = |kind| About { project: project.clone(), kind: Some(kind) };
    match store.waiting_notifications(project, seqs).await {
        Ok(waiting) => waiting.into_iter().map(|(n, kind)| (about(kind), n)).collect(),
        Err(error) => {
            tracing::warn!(%project, %error, "notifications of some changes are left to their pushes");
            Vec::new()
        }
    }
}

/// What an earlier try of a commit left behind.
#[derive(Debug, Default, PartialEq)]
struct Untold {
    /// Where the log has it.
    seqs: Vec<Seq>,
    /// Entries of the conflict log.
    conflicts: Vec<ConflictId>,
}

/// What an earlier try of a commit wrote; none if that was rolled back.
fn untold(ops: &[PendingOp], answers: &[Answer]) -> Option<Untold> {
    // A transaction is whole: one new verdict, and there was no earlier one. But what is tried again and
    // rejected again has a new one at every run.
    let rolled_back =
        |(op, answer): (&PendingOp, &Answer)| matches!(answer, Answer::New(_)) && !op.retry;
    if ops.iter().zip(answers).any(rolled_back) {
        return None;
    }
    let mut untold = Untold::default();
    for answer in answers.iter().filter(|answer| matches!(answer, Answer::Replayed(_))) {
        let Traces { seq, conflict } = traces(answer);
        untold.seqs.extend(seq);
        untold.conflicts.extend(conflict);
    }
    Some(untold)
}

/// Where the store has what became of an operation.
#[derive(Default, Deserialize)]
struct Traces {
    seq: Option<Seq>,
    conflict: Option<ConflictId>,
}

fn traces(answer: &Answer) -> Traces {
    serde_json::from_str(answer.verdict().get()).unwrap_or_default()
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

#[cfg(test)]
mod tests {
    use serde_json::json;
    use serde_json::value::to_raw_value;

    use super::*;
    use crate::protocol::op::Outcome;
    use crate::store::{Actor, Given};

    fn op(retry: bool) -> PendingOp {
        let op = json!({ "op_id": "1", "kind": "update", "type": "task", "id": "t1", "base": 1 });
        let actor = Actor { user: "ana".into(), client: "phone".into() };
        let op = serde_json::from_value(op).unwrap();
        PendingOp { retry, ..PendingOp::new(op, actor, [0; 32]) }
    }

    fn replayed(seq: u64) -> Answer {
        Answer::Replayed(to_raw_value(&json!({ "outcome": "applied", "seq": seq })).unwrap())
    }

    fn new(seq: Option<u64>) -> Answer {
        Answer::New(Given {
            verdict: to_raw_value(&json!({ "outcome": "rejected", "seq": seq })).unwrap(),
            outcome: Outcome::Rejected,
            code: None,
            id: "t1".parse().unwrap(),
            again: true,
        })
    }

    #[test]
    fn what_is_rejected_again_hides_no_earlier_try() {
        let ops = [op(false), op(true), op(true)];
        let told = |answers: [Answer; 3]| untold(&ops, &answers).map(|untold| untold.seqs);
        let tried_before = [replayed(7), new(None), replayed(8)];
        assert_eq!(told(tried_before), Some(vec![Seq(7), Seq(8)]));
        assert_eq!(told([new(Some(7)), new(None), new(Some(8))]), None, "it was rolled back");
        // The commit itself tells of what is new in it.
        assert_eq!(told([replayed(7), new(None), new(Some(8))]), Some(vec![Seq(7)]));
    }
}
