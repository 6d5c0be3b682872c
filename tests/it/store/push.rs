//! Pushes: armed with the change, disarmed by an acknowledgement, held by one worker at a time.

use std::collections::HashSet;

use serde_json::json;
use syncline::id::{ClientId, Seq, UserId};
use syncline::store::{DueIntent, Store};

use crate::support::plan::{commit, notifying, project, set};
use crate::support::site::Site;

on_both_engines!(
    an_acknowledgement_cancels_what_waits,
    two_workers_never_hold_the_same_push,
    a_lost_lease_is_taken_over_and_fenced,
);

async fn arm(store: &Store, name: &str, count: usize) {
    let ops: Vec<_> = (0..count)
        .map(|i| notifying(set(&format!("o{i}"), &format!("t{i}"), json!({})), "ben", "hello"))
        .collect();
    commit(store, &project(name), &ops).await.unwrap();
}

/// Those due long after the grace has passed.
async fn claim_all(store: &Store, now: i64) -> Vec<DueIntent> {
    store.claim_intents(now, 100, 1000, "worker").await.unwrap()
}

async fn an_acknowledgement_cancels_what_waits(site: Site) {
    let store = site.open().await;
    let (p, ben, ana) = (project("p"), UserId::new("ben").unwrap(), UserId::new("ana").unwrap());
    let client = ClientId::new("phone").unwrap();
    arm(&store, "p", 5).await;
    arm(&store, "q", 1).await;
    let ack = async |user, seq, active| {
        store.ack(&p, user, &client, Seq(seq), active, 1200).await.unwrap()
    };
    assert_eq!(ack(&ben, 5, false).await, 0, "nobody has looked");
    assert_eq!(ack(&ana, 5, true).await, 0, "somebody else has looked");
    assert_eq!(ack(&ben, 2, true).await, 2);
    assert_eq!(ack(&ben, 2, true).await, 0, "already canceled");

    assert_eq!(claim_all(&store, 1499).await, [], "not due yet");
    let due = claim_all(&store, 1500).await;
    let of_p: Vec<_> = due.iter().filter(|i| i.project == p).map(|i| i.evt_seq.0).collect();
    assert_eq!((of_p, due.len()), (vec![3, 4, 5], 4));
    assert_eq!(due[0].user, ben);
    assert_eq!((due[0].title.as_str(), due[0].body.as_str()), ("hello", "look"));
    assert_eq!((due[0].link.as_deref(), due[0].data.as_deref()), (Some("app://task"), None));
    assert_eq!(ack(&ben, 5, true).await, 0, "a worker has them: the point of no return");
}

async fn two_workers_never_hold_the_same_push(site: Site) {
    const COUNT: usize = 60;
    let stores = [site.open().await, site.open().await];
    arm(&stores[0], "p", COUNT).await;
    let workers = (0..4usize).map(|worker| {
        let store = stores[worker % 2].clone();
        tokio::spawn(async move {
            let mut held = Vec::new();
            loop {
                let owner = format!("worker-{worker}");
                let due = store.claim_intents(2000, 7, 60_000, &owner).await.unwrap();
                assert!(due.len() <= 7);
                if due.is_empty() {
                    return held;
                }
                held.extend(due);
            }
        })
    });
    let mut held = Vec::new();
    for worker in workers.collect::<Vec<_>>() {
        held.extend(worker.await.unwrap());
    }
    // A worker passes over what another is just taking, so the last ones may be left.
    held.extend(stores[0].claim_intents(2000, 100, 60_000, "sweeper").await.unwrap());
    assert_eq!(held.len(), COUNT);
    assert_eq!(held.iter().map(|i| i.id).collect::<HashSet<_>>().len(), COUNT);
    assert_eq!(held.iter().map(|i| &i.nid).collect::<HashSet<_>>().len(), COUNT);
    assert!(held.iter().all(|i| i.fence == 1));
}

async fn a_lost_lease_is_taken_over_and_fenced(site: Site) {
    let store = site.open().await;
    arm(&store, "p", 1).await;
    let first = store.claim_intents(2000, 10, 1000, "slow").await.unwrap().remove(0);
    assert_eq!(store.claim_intents(2999, 10, 1000, "quick").await.unwrap(), []);
    let second = store.claim_intents(3000, 10, 1000, "quick").await.unwrap().remove(0);
    assert_eq!((second.id, second.fence), (first.id, first.fence + 1));
    assert!(!store.finish_intent(first.id, first.fence, "done", 3001).await.unwrap());
    assert!(store.finish_intent(second.id, second.fence, "done", 3002).await.unwrap());
    assert!(!store.finish_intent(second.id, second.fence, "failed", 3003).await.unwrap());
    assert_eq!(claim_all(&store, 90_000).await, []);
}
