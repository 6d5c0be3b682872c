//! Pushes: armed with the change, disarmed by an acknowledgement, held by one worker at a time.

use std::collections::HashSet;

use serde_json::json;
use syncline::id::{Epoch, InstanceId, Seq, UserId};
use syncline::protocol::notify::Lane;
use syncline::store::Store;
use syncline::store::push::{
    Ack, Decided, Due, GateSettings, InboxQuery, NewDelivery, Outcome, Reads, Registration,
    Settled, Settlement, View,
};
use uuid::Uuid;

use crate::support::plan::{ack, acked, commit, notifying, project, set};
use crate::support::site::Site;

mod content;
mod instances;
mod tokens;

on_both_engines!(
    an_acknowledgement_cancels_what_waits,
    many_acknowledgements_are_each_written_for_whose_they_are,
    what_belongs_to_another_sequence_acknowledges_nothing,
    who_has_no_connection_is_not_waited_for,
    two_workers_never_hold_the_same_push,
    a_lost_lease_is_taken_over_and_fenced,
    an_inbox_is_paged_counted_and_read,
    the_latest_pushes_are_told_with_what_became_of_them,
    an_acknowledgement_from_the_background_spares_one_device,
);

const SETTINGS: GateSettings = GateSettings { rate: 100_000, batch: 7, open_ms: 1000 };
const SEND: [Lane; 3] = Lane::ALL;

fn user(name: &str) -> UserId {
    name.parse().unwrap()
}

async fn arm(store: &Store, name: &str, count: usize) {
    let ops: Vec<_> = (0..count)
        .map(|i| notifying(set(&format!("o{i}"), &format!("t{i}"), json!({})), "ben", "hello"))
        .collect();
    commit(store, &project(name), &ops).await.unwrap();
}

fn phone(client: &str, token: &str) -> Registration {
    Registration {
        client: client.parse().unwrap(),
        provider: "expo".into(),
        platform: "ios".into(),
        token: token.into(),
        locale: Some("de".into()),
        tz: Some("Europe/Berlin".into()),
        app_version: None,
        model: None,
    }
}

/// A delivery of each push that is due, to the device.
fn to_device(device: i64) -> impl Fn(&View) -> Decided + Sync {
    move |view: &View| Decided {
        ended: view.due.iter().map(|due| (due.id, "done", "")).collect(),
        deliveries: view.due.iter().map(|due| delivery(due, device)).collect(),
        ..Decided::default()
    }
}

fn delivery(due: &Due, device: i64) -> NewDelivery {
    NewDelivery {
        nid: due.nid.clone(),
        project: due.project.clone(),
        user: due.user_id.clone(),
        evt_seq: due.evt_seq,
        lane: due.lane.clone(),
        provider: "expo".into(),
        token: Some(device),
        category: None,
        payload: "{}".into(),
        expires_at: due.expires_at,
        created_at: due.created_at,
    }
}

/// Everything that is due, left as it is.
async fn due(store: &Store) -> Vec<Due> {
    store.dispatch(100, &|_: &View| Decided::default()).await.unwrap().0.due
}

async fn an_acknowledgement_cancels_what_waits(site: Site) {
    let store = site.open().await;
    let ben = user("ben");
    let device = store.register_device(&ben, &phone("phone", "t1")).await.unwrap();
    arm(&store, "p", 5).await;
    arm(&store, "q", 1).await;
    let ack = async |who, seq, active| ack(&store, ("p", who, "phone"), seq, active, 1200).await;
    assert_eq!(ack("ben", 5, false).await, 0, "nobody has looked");
    assert_eq!(ack("ana", 5, true).await, 0, "somebody else has looked");
    assert_eq!(ack("ben", 2, true).await, 2);
    assert_eq!(ack("ben", 2, true).await, 0, "already canceled");
    let left = due(&store).await;
    let of_p: Vec<_> = left.iter().filter(|d| d.project == "p").map(|d| d.evt_seq).collect();
    assert_eq!((of_p, left.len()), (vec![3, 4, 5], 4));
    assert_eq!((left[0].title.as_str(), left[0].body.as_str()), ("hello", "look"));
    assert_eq!((left[0].link.as_deref(), left[0].data.as_deref()), (Some("app://task"), None));

    store.dispatch(100, &to_device(device)).await.unwrap();
    store.begin_gate("expo").await.unwrap();
    assert_eq!(ack("ben", 3, true).await, 1, "queued for the device, and not sent yet");
    let held = store.claim_deliveries("expo", &SEND, SETTINGS, 60_000, "w").await.unwrap();
    assert_eq!(held.len(), 3);
    assert_eq!(ack("ben", 5, true).await, 0, "a worker has them: the point of no return");
}

async fn many_acknowledgements_are_each_written_for_whose_they_are(site: Site) {
    let store = site.open().await;
    for project in ["p", "q", "r", "s"] {
        arm(&store, project, 3).await;
    }
    store.register_device(&user("ben"), &phone("phone", "t1")).await.unwrap();
    let of_r = Ack { stored: Some(Seq(3)), ..acked(("r", "ben", "phone"), 2, true) };
    let acks = [
        of_r,
        acked(("q", "ben", ""), 1, true),
        acked(("p", "ben", "phone"), 2, false),
        acked(("p", "ben", "tablet"), 1, true),
        acked(("p", "ana", "web"), 3, true),
        acked(("s", "ben", "phone"), 4, true),
    ];
    assert_eq!(store.acknowledge(&acks, 1200).await.unwrap().total(), 1 + 1 + 2);
    let view = store.dispatch(100, &|_: &View| Decided::default()).await.unwrap().0;
    let mut left: Vec<_> = view.due.iter().map(|due| (&*due.project, due.evt_seq)).collect();
    left.sort_unstable();
    let s = [("s", 1), ("s", 2), ("s", 3)];
    assert_eq!(left[..5], [("p", 2), ("p", 3), ("q", 2), ("q", 3), ("r", 3)]);
    assert_eq!(left[5..], s, "nobody has seen what is not there");
    let mut cursors: Vec<_> = view.acked.iter().collect();
    cursors.sort_unstable();
    let cursors: Vec<_> = cursors.iter().map(|((_, c, p), seq)| (&**p, &**c, **seq)).collect();
    let known = [("q", "", 1), ("p", "phone", 2), ("r", "phone", 3), ("p", "tablet", 1)];
    assert_eq!(cursors, known, "of those who are to be told");
}

async fn what_belongs_to_another_sequence_acknowledges_nothing(site: Site) {
    let store = site.open().await;
    let p = project("p");
    arm(&store, "p", 2).await;
    arm(&store, "q", 1).await;
    let ack =
        async |project, client, seq| ack(&store, (project, "ben", client), seq, true, 1200).await;
    let known = async || {
        let (view, _) = store.dispatch(100, &|_: &View| Decided::default()).await.unwrap();
        let of = |project: &str| {
            view.acked.get(&("ben".to_owned(), "phone".to_owned(), project.to_owned())).copied()
        };
        (view.due.len(), of("p"), of("q"))
    };
    // A client that was ahead of a backup comes back, and does not know yet.
    assert_eq!(ack("p", "phone", 3).await, 0, "nobody can have seen that");
    assert_eq!(ack("p", "", i64::MAX as u64).await, 0);
    assert_eq!(ack("empty", "phone", 1).await, 0);
    assert_eq!(known().await, (3, None, None));
    assert_eq!((ack("p", "phone", 1).await, ack("q", "phone", 1).await), (1, 1));
    assert_eq!(known().await, (1, Some(1), Some(1)));
    // What was acknowledged of the sequence before says nothing of this one.
    assert!(store.set_epoch(&p, Epoch::random()).await.unwrap());
    assert_eq!(known().await, (1, None, Some(1)));
}

async fn an_acknowledgement_from_the_background_spares_one_device(site: Site) {
    let store = site.open().await;
    let ben = user("ben");
    let phone_id = store.register_device(&ben, &phone("phone", "t1")).await.unwrap();
    let tablet_id = store.register_device(&ben, &phone("tablet", "t2")).await.unwrap();
    arm(&store, "p", 1).await;
    let to_both = |view: &View| Decided {
        ended: view.due.iter().map(|due| (due.id, "done", "")).collect(),
        deliveries: view
            .due
            .iter()
            .flat_map(|due| [delivery(due, phone_id), delivery(due, tablet_id)])
            .collect(),
        ..Decided::default()
    };
    store.dispatch(100, &to_both).await.unwrap();
    store.begin_gate("expo").await.unwrap();
    assert_eq!(ack(&store, ("p", "ben", "phone"), 1, false, 1200).await, 1);
    let held = store.claim_deliveries("expo", &SEND, SETTINGS, 60_000, "w").await.unwrap();
    let tokens: Vec<_> = held.iter().map(|claimed| claimed.token.as_deref()).collect();
    assert_eq!(tokens, [Some("t2")], "the other device is told");
}

async fn who_has_no_connection_is_not_waited_for(site: Site) {
    let store = site.open().await;
    let (here, there) = (InstanceId(Uuid::new_v4()), InstanceId(Uuid::new_v4()));
    assert!(store.beat(here, 60_000).await.unwrap());
    assert!(!store.beat(here, 60_000).await.unwrap());
    store.live(here, &[user("ben")], &[]).await.unwrap();
    store.live(there, &[user("cy")], &[]).await.unwrap();
    arm(&store, "p", 1).await;
    let ops = [notifying(set("1", "x", json!({})), "cy", "hello")];
    commit(&store, &project("q"), &ops).await.unwrap();
    let now: Vec<_> = due(&store).await.into_iter().map(|due| due.user_id).collect();
    assert_eq!(now, ["cy"], "ben is waited for, cy's instance is silent");
    let wait = store.next_due().await.unwrap().unwrap();
    assert!(wait <= 0, "cy's is due");
    store.live(here, &[], &[user("ben")]).await.unwrap();
    let ops = [notifying(set("2", "y", json!({})), "ben", "hello")];
    commit(&store, &project("q"), &ops).await.unwrap();
    assert_eq!(due(&store).await.len(), 2, "ben has gone");
}

async fn two_workers_never_hold_the_same_push(site: Site) {
    const COUNT: usize = 60;
    let stores = [site.open().await, site.open().await];
    let device = stores[0].register_device(&user("ben"), &phone("phone", "t1")).await.unwrap();
    stores[0].begin_gate("expo").await.unwrap();
    arm(&stores[0], "p", COUNT).await;
    let workers = (0..4usize).map(|worker| {
        let store = stores[worker % 2].clone();
        tokio::spawn(async move {
            let mut held = Vec::new();
            loop {
                store.dispatch(9, &to_device(device)).await.unwrap();
                let owner = format!("worker-{worker}");
                let claimed = store.claim_deliveries("expo", &SEND, SETTINGS, 60_000, &owner);
                let claimed = claimed.await.unwrap();
                assert!(claimed.len() <= 7);
                if claimed.is_empty() && store.next_due().await.unwrap().is_none() {
                    return held;
                }
                held.extend(claimed);
            }
        })
    });
    let mut held = Vec::new();
    for worker in workers.collect::<Vec<_>>() {
        held.extend(worker.await.unwrap());
    }
    // A worker passes over what another is just taking, so the last ones may be left.
    loop {
        let left = stores[0].claim_deliveries("expo", &SEND, SETTINGS, 60_000, "sweeper").await;
        let left = left.unwrap();
        if left.is_empty() {
            break;
        }
        held.extend(left);
    }
    assert_eq!(held.len(), COUNT);
    assert_eq!(held.iter().map(|i| i.id).collect::<HashSet<_>>().len(), COUNT);
    assert_eq!(held.iter().map(|i| &i.nid).collect::<HashSet<_>>().len(), COUNT);
    assert!(held.iter().all(|i| i.fence == 1));
}

async fn a_lost_lease_is_taken_over_and_fenced(site: Site) {
    let store = site.open().await;
    let device = store.register_device(&user("ben"), &phone("phone", "t1")).await.unwrap();
    store.begin_gate("expo").await.unwrap();
    arm(&store, "p", 1).await;
    store.dispatch(9, &to_device(device)).await.unwrap();
    let claim = async |lease| {
        store.claim_deliveries("expo", &SEND, SETTINGS, lease, "w").await.unwrap().pop()
    };
    let first = claim(0).await.unwrap();
    assert_eq!(claim(0).await, None, "nobody takes it before it is given back");
    assert_eq!(store.reap_deliveries(&[]).await.unwrap().returned, 1);
    let second = claim(60_000).await.unwrap();
    assert_eq!((second.id, second.fence, second.attempt), (first.id, first.fence + 1, 2));
    assert_eq!(store.reap_deliveries(&[]).await.unwrap().returned, 0, "its lease holds");
    let settle = async |held: &syncline::store::push::Claimed| {
        let fate = Settlement::Accepted { ticket: None, ask_in: 0 };
        let settled = [Settled { id: held.id, fence: held.fence, fate }];
        store.settle("expo", SETTINGS, &[Outcome::Answered], &settled).await.unwrap().events.len()
    };
    assert_eq!(settle(&first).await, 0, "too late");
    assert_eq!(settle(&second).await, 2, "sent, and handed over: there is no receipt");
    assert_eq!(settle(&second).await, 0, "once");
    assert_eq!(claim(0).await, None);
}

async fn an_inbox_is_paged_counted_and_read(site: Site) {
    let store = site.open().await;
    let (ben, both) = (user("ben"), vec![Reads::all(project("p")), Reads::all(project("q"))]);
    arm(&store, "p", 5).await;
    arm(&store, "q", 2).await;
    let query = |reads: &[_], before, unread| InboxQuery {
        reads: reads.to_vec(),
        before,
        unread,
        limit: 4,
    };
    let first = store.inbox(&ben, &query(&both, None, false)).await.unwrap();
    let before = first.last().map(|row| row.nid.clone());
    let second = store.inbox(&ben, &query(&both, before, false)).await.unwrap();
    let nids: Vec<_> = first.iter().chain(&second).map(|row| row.nid.clone()).collect();
    assert_eq!((first.len(), second.len()), (4, 3));
    assert!(nids.windows(2).all(|pair| pair[0] > pair[1]), "the latest first, each once");
    assert_eq!(store.unread(&ben, &both).await.unwrap(), 7);
    assert_eq!(store.unread(&ben, &both[..1]).await.unwrap(), 5);
    assert_eq!(store.unread(&user("ana"), &both).await.unwrap(), 0);
    // Who reads no tasks any more finds nothing about them, and marks nothing.
    for (types, found) in [(vec!["task"], 5), (vec!["note"], 0), (vec![], 0)] {
        let types = types.into_iter().map(|kind| kind.parse().unwrap()).collect();
        let reads = [Reads { project: project("p"), types: Some(types) }];
        assert_eq!(store.unread(&ben, &reads).await.unwrap(), found);
        let page = store.inbox(&ben, &query(&reads, None, false)).await.unwrap();
        assert_eq!(page.is_empty(), found == 0);
        if found == 0 {
            assert_eq!(store.mark_read(&ben, &reads, None, None).await.unwrap(), 0);
            assert_eq!(store.mark_seen(&ben, &reads, None).await.unwrap(), 0);
        }
    }

    assert_eq!(store.mark_read(&user("ana"), &both, Some(&nids[0]), None).await.unwrap(), 0);
    assert_eq!(store.mark_read(&ben, &both[..1], Some(&nids[0]), None).await.unwrap(), 0, "of q");
    assert_eq!(store.mark_read(&ben, &both, Some(&nids[0]), None).await.unwrap(), 1);
    assert_eq!(store.mark_read(&ben, &both, Some(&nids[0]), None).await.unwrap(), 0);
    assert_eq!(due(&store).await.len(), 6, "what was read is not pushed");
    assert_eq!(store.mark_seen(&ben, &both, Some(&nids[3])).await.unwrap(), 4);
    assert_eq!(store.mark_read(&ben, &both, None, Some(&nids[2])).await.unwrap(), 5);
    let unread = store.inbox(&ben, &query(&both, None, true)).await.unwrap();
    assert_eq!(unread.iter().map(|row| &row.nid).collect::<Vec<_>>(), [&nids[1]]);
    assert_eq!(store.mark_read(&ben, &both, None, None).await.unwrap(), 1);
    assert_eq!(due(&store).await.len(), 0);
}

async fn the_latest_pushes_are_told_with_what_became_of_them(site: Site) {
    let store = site.open().await;
    let (p, ben) = (project("p"), user("ben"));
    let device = store.register_device(&ben, &phone("phone", "t1")).await.unwrap();
    arm(&store, "p", 3).await;
    arm(&store, "q", 1).await;
    assert_eq!(ack(&store, ("p", "ben", "phone"), 1, true, 1200).await, 1);
    let states = async |limit| {
        let recent = store.recent_pushes(&p, limit).await.unwrap();
        let state = |push: syncline::store::push::Recent| (push.state, push.reason, push.provider);
        recent.into_iter().map(state).collect::<Vec<_>>()
    };
    let canceled = ("canceled".to_owned(), Some("acknowledged".to_owned()), None);
    let waiting = ("waiting".to_owned(), None, None);
    assert_eq!(states(9).await, [waiting.clone(), waiting.clone(), canceled.clone()]);
    assert_eq!(states(1).await, [waiting]);
    store.dispatch(9, &to_device(device)).await.unwrap();
    let (state, _, provider) = states(9).await.remove(0);
    assert_eq!((state.as_str(), provider.as_deref()), ("queued", Some("expo")));
    assert_eq!(states(9).await[2], canceled);
    let last = store.recent_pushes(&p, 1).await.unwrap().remove(0);
    assert_eq!((last.user_id.as_str(), last.title.as_str()), ("ben", "hello"));
    assert_eq!(last.accepted_at, None);
}
