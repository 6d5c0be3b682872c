//! Who is in which project: read in the order of the changes, each event once.

use std::collections::HashMap;

use serde_json::json;
use syncline::id::{ProjectId, RoleName, UserId};
use syncline::store::{Answer, MemberAnswer, MemberEvent, Membership, Standing, Store};

use crate::support::plan::{commit, project, set};
use crate::support::site::Site;

on_both_engines!(
    a_member_is_set_taken_out_and_forgotten,
    pages_of_members_are_in_the_order_of_names,
    whoever_reads_on_from_a_revision_misses_no_change,
    an_event_about_a_member_counts_once,
);

fn user(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

fn role(name: &str) -> RoleName {
    RoleName::new(name).unwrap()
}

async fn give(store: &Store, project: &ProjectId, name: &str, to: &str) -> Option<Membership> {
    store.set_member(project, &user(name), Some(&role(to)), 1000).await.unwrap()
}

async fn a_member_is_set_taken_out_and_forgotten(site: Site) {
    let store = site.open().await;
    let (p, ana) = (project("p"), user("ana"));
    assert_eq!(store.memberships_after(0, 10).await.unwrap(), []);
    let first = give(&store, &p, "ana", "editor").await.unwrap();
    assert_eq!(first.standing, Standing::Role(role("editor")));
    assert_eq!(give(&store, &p, "ana", "editor").await, None, "nothing changed");
    let other = give(&store, &project("q"), "ana", "viewer").await.unwrap();
    assert!(other.revision > first.revision);
    let out = store.set_member(&p, &ana, None, 2000).await.unwrap().unwrap();
    assert_eq!(out.standing, Standing::Removed);
    assert_eq!(store.set_member(&p, &ana, None, 3000).await.unwrap(), None);
    assert_eq!(store.members(&p, None, 10).await.unwrap(), [(ana.clone(), None, 2000)]);
    assert_eq!(store.memberships_after(0, 10).await.unwrap(), [other.clone(), out.clone()]);
    assert_eq!(store.membership_head().await.unwrap().forgotten, 0);

    let forgotten = store.forget_member(&p, &ana).await.unwrap().unwrap();
    assert_eq!(forgotten.standing, Standing::Forgotten);
    assert_eq!(store.forget_member(&p, &ana).await.unwrap(), None);
    assert_eq!(store.members(&p, None, 10).await.unwrap(), []);
    let head = store.membership_head().await.unwrap();
    assert_eq!(head.forgotten, forgotten.revision);
    assert!(head.revision >= head.forgotten && head.forgotten > out.revision);
    store.close().await;
    assert_eq!(site.open().await.memberships_after(0, 10).await.unwrap(), [other]);
}

async fn pages_of_members_are_in_the_order_of_names(site: Site) {
    let store = site.open().await;
    let p = project("p");
    // Bytes, not the letters of a language, decide the order.
    let names = ["Zoe", "ana", "bo", "Ärne"];
    for name in ["bo", "Ärne", "ana", "Zoe"] {
        give(&store, &p, name, "viewer").await;
    }
    give(&store, &project("q"), "eve", "editor").await;
    let mut read = Vec::new();
    loop {
        let page = store.members(&p, read.last(), 3).await.unwrap();
        read.extend(page.iter().map(|(user, ..)| user.clone()));
        if page.len() < 3 {
            break;
        }
    }
    assert_eq!(read, names.map(user));
    store.set_member(&p, &user("bo"), None, 1).await.unwrap();
    let bo = store.members(&p, Some(&user("ana")), 1).await.unwrap();
    assert_eq!(bo, [(user("bo"), None, 1)], "who was taken out is still there");
}

async fn whoever_reads_on_from_a_revision_misses_no_change(site: Site) {
    const CHANGES: usize = 60;
    let stores = [site.open().await, site.open().await];
    let writers: Vec<_> = (0..4usize)
        .map(|writer| {
            let store = stores[writer % 2].clone();
            tokio::spawn(async move {
                for n in 0..CHANGES {
                    let (p, name) = (project(&format!("p{writer}")), format!("u{}", n % 7));
                    let to = if n % 2 == 0 { "editor" } else { "viewer" };
                    give(&store, &p, &name, to).await.unwrap();
                }
            })
        })
        .collect();
    let (mut at, mut read) = (0, HashMap::new());
    let mut read_on = async |at: &mut i64| {
        let page = stores[1].memberships_after(*at, 1000).await.unwrap();
        for membership in page {
            assert!(membership.revision > *at);
            *at = membership.revision;
            read.insert((membership.project, membership.user), membership.standing);
        }
    };
    while writers.iter().any(|writer| !writer.is_finished()) {
        read_on(&mut at).await;
    }
    read_on(&mut at).await;
    for writer in writers {
        writer.await.unwrap();
    }
    let whole = stores[0].memberships_after(0, 1000).await.unwrap();
    assert_eq!(whole.len(), 28);
    for Membership { project, user, standing, revision } in whole {
        assert_eq!(read.get(&(project, user)), Some(&standing), "revision {revision} was missed");
    }
}

fn event(id: &str, name: &str, to: Option<&str>) -> MemberEvent {
    let mut payload_hash = [0; 32];
    payload_hash[0] = u8::try_from(name.len() + to.map_or(0, str::len)).unwrap();
    MemberEvent {
        op_id: id.parse().unwrap(),
        payload_hash,
        user: user(name),
        role: to.map(role),
        client: "source:crm".into(),
    }
}

async fn an_event_about_a_member_counts_once(site: Site) {
    let store = site.open().await;
    let p = project("p");
    commit(&store, &p, &[set("taken", "t1", json!({}))]).await.unwrap();
    let events = [
        event("1", "ana", Some("editor")),
        event("2", "ana", Some("editor")),
        event("3", "ana", None),
        event("taken", "ana", Some("viewer")),
    ];
    let answers = store.member_events(&p, &events, 1000).await.unwrap();
    let [
        MemberAnswer::New(Some(first)),
        MemberAnswer::New(None),
        MemberAnswer::New(Some(third)),
        MemberAnswer::Reused,
    ] = &answers[..]
    else {
        panic!("{answers:?}")
    };
    assert!(third.revision > first.revision);
    // Late, and in another company: the first event does not come true again.
    let again = [event("1", "ana", Some("editor")), event("1", "robert", Some("viewer"))];
    let answers = store.member_events(&p, &again, 2000).await.unwrap();
    let [MemberAnswer::Replayed(verdict), MemberAnswer::Reused] = &answers[..] else {
        panic!("{answers:?}")
    };
    assert!(verdict.get().contains(r#""outcome":"applied""#), "{verdict}");
    assert_eq!(store.members(&p, None, 10).await.unwrap(), [(user("ana"), None, 1000)]);
    // Nor is the id of a member's event good for a change of the log.
    let reused = commit(&store, &p, &[set("1", "t2", json!({}))]).await.unwrap();
    assert!(matches!(&reused.answers[0], Answer::Replayed(_)), "{:?}", reused.answers);
    assert_eq!(reused.entries.len(), 0);
}
