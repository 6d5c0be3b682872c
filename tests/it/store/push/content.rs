//! What a push tells of, from the decision to the request: alone or gathered, read or seen meanwhile.

use syncline::store::Store;
use syncline::store::push::{Decided, InboxQuery, Reads, View};

use super::{SEND, SETTINGS, arm, delivery, phone, to_device, user};
use crate::support::plan::{self, project};
use crate::support::site::Site;

on_both_engines!(
    a_gathered_push_lasts_until_all_of_it_was_read,
    what_was_scheduled_gets_its_place_when_it_is_shown,
);

/// All that is due in one push of the latest.
fn gather(device: i64) -> impl Fn(&View) -> Decided + Sync {
    move |view: &View| {
        let leader = view.due.iter().max_by_key(|due| &due.nid).unwrap();
        let led = view.due.iter().filter(|due| due.id != leader.id);
        Decided {
            ended: view.due.iter().map(|due| (due.id, "done", "")).collect(),
            gathered: led.map(|due| (due.id, leader.nid.clone())).collect(),
            deliveries: vec![delivery(leader, device)],
            ..Decided::default()
        }
    }
}

/// Ben's notifications, the latest first.
async fn inbox(store: &Store) -> Vec<String> {
    let reads = vec![Reads::all(project("p"))];
    let query = InboxQuery { reads, limit: 10, ..InboxQuery::default() };
    let page = store.inbox(&user("ben"), &query).await.unwrap();
    page.into_iter().map(|row| row.nid).collect()
}

async fn a_gathered_push_lasts_until_all_of_it_was_read(site: Site) {
    let store = site.open().await;
    let (ben, reads) = (user("ben"), [Reads::all(project("p"))]);
    let device = store.register_device(&ben, &phone("phone", "t1")).await.unwrap();
    store.begin_gate("expo").await.unwrap();
    arm(&store, "p", 3).await;
    arm(&store, "q", 1).await;
    store.dispatch(9, &to_device(device)).await.unwrap();
    site.run("DELETE FROM push_deliveries WHERE project = 'p'").await;
    site.run("UPDATE push_intents SET state = 'waiting' WHERE project = 'p'").await;
    store.dispatch(9, &gather(device)).await.unwrap();
    let queued = async || {
        let queue = store.push_queue().await.unwrap();
        queue.iter().filter(|line| line.stage == "delivery").map(|line| line.count).sum::<i64>()
    };
    let nids = inbox(&store).await;
    let read = async |nid: &str| store.mark_read(&ben, &reads, Some(nid), None).await.unwrap();
    assert_eq!((read(&nids[0]).await, queued().await), (1, 2), "the latest alone");

    let held = store.claim_deliveries("expo", &SEND, SETTINGS, 0, "w").await.unwrap();
    let gathered = held.iter().find(|claimed| claimed.project == "p").unwrap();
    assert_eq!((&gathered.nid, gathered.locale.as_deref()), (&nids[0], Some("de")));
    let content = store.content(&held).await.unwrap();
    let members = &content.members[&nids[0]];
    let told: Vec<_> =
        members.iter().map(|m| (m.evt_seq, m.read_at.is_some(), m.in_time)).collect();
    let named: Vec<_> = members.iter().rev().map(|m| (&m.nid, m.lane.as_str())).collect();
    assert_eq!(named, nids.iter().map(|nid| (nid, "high")).collect::<Vec<_>>());
    assert_eq!(told, [(1, false, true), (2, false, true), (3, true, true)], "in their order");
    assert_eq!((&*members[0].title, members[0].link.as_deref()), ("hello", Some("app://task")));
    assert_eq!(content.members.len(), 2, "each stands for its own");
    assert_eq!(content.unread["ben"].iter().map(|unread| unread.count).sum::<i64>(), 3);
    assert_eq!(content.known(gathered), 0);
    let ack = async |client: &str, seq, active| {
        plan::ack(&store, ("p", "ben", client), seq, active, 1200).await;
        store.content(&held).await.unwrap().known(gathered)
    };
    assert_eq!(ack("tablet", 3, false).await, 0, "the other device has it, and nobody has looked");
    assert_eq!(ack("", 1, true).await, 1, "somebody has looked, nobody knows where");
    assert_eq!(ack("phone", 2, false).await, 2, "the device itself has it");
    assert_eq!(ack("web", 900, true).await, 2, "nobody has seen what is not there");
    assert_eq!(ack("web", 3, true).await, 3);
    let other = held.iter().find(|claimed| claimed.project == "q").unwrap();
    assert_eq!(store.content(&held).await.unwrap().known(other), 0, "another project");

    // It goes by the name of any of them.
    let reported = async |nid: &str| store.push_reported(nid, device, false).await.unwrap().len();
    assert_eq!((reported("no such").await, reported(&nids[1]).await), (0, 1));
    assert_eq!((reported(&nids[1]).await, reported(&nids[0]).await), (0, 0), "once");

    assert_eq!(store.reap_deliveries(&[]).await.unwrap().returned, 2);
    assert_eq!((read(&nids[2]).await, queued().await), (1, 2));
    assert_eq!((read(&nids[1]).await, queued().await), (1, 1), "nothing is left of it");
}

async fn what_was_scheduled_gets_its_place_when_it_is_shown(site: Site) {
    let store = site.open().await;
    arm(&store, "p", 1).await;
    let was = inbox(&store).await.remove(0);
    site.run("UPDATE push_intents SET state = 'scheduled'; UPDATE notifications SET hidden = 1")
        .await;
    assert_eq!(inbox(&store).await, [] as [String; 0]);
    let announce = |view: &View| Decided {
        announced: view.due.iter().map(|due| (due.id, view.now)).collect(),
        ..Decided::default()
    };
    let shown = store.dispatch(9, &announce).await.unwrap().0.due.remove(0).nid;
    assert_ne!(shown, was);
    assert_eq!(inbox(&store).await, std::slice::from_ref(&shown));
    let due = store.dispatch(9, &|_: &View| Decided::default()).await.unwrap().0.due.remove(0);
    assert_eq!((due.nid, due.state.as_str()), (shown, "waiting"));
}
