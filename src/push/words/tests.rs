//! What pushes say of made-up content.

use super::*;
use crate::protocol::notify::Lane;
use crate::push::decide::tests::policy;
use crate::push::sign::Signer;
use crate::store::push::{Cursor, Unread};

fn claimed() -> Claimed {
    Claimed {
        id: 1,
        fence: 1,
        nid: "n3".into(),
        project: "p".into(),
        user_id: "ana".into(),
        lane: "high".into(),
        category: None,
        token_id: Some(7),
        client: Some("phone".into()),
        locale: Some("de".into()),
        token: Some("t".into()),
        scope: None,
        payload: String::new(),
        attempt: 1,
        ttl: 1000,
        created_at: 0,
    }
}

fn member(seq: i64) -> Member {
    Member {
        leader: "n3".into(),
        nid: format!("n{seq}"),
        evt_seq: seq,
        title: format!("title {seq}"),
        body: "body".into(),
        data: Some(format!(r#"{{"n":{seq}}}"#)),
        link: Some(format!("app://{seq}")),
        template: None,
        vars: None,
        lane: if seq == 3 { "high" } else { "normal" }.into(),
        category: Some(format!("c{seq}")),
        entity_type: Some("task".into()),
        standing: None,
        read_at: None,
        in_time: true,
    }
}

fn content(members: Vec<Member>) -> Content {
    Content { members: [("n3".into(), members)].into(), ..Content::default() }
}

fn cursor(client: &str, acked: i64, seen: i64) -> Cursor {
    Cursor { user_id: "ana".into(), client: client.into(), project: "p".into(), acked, seen }
}

/// What the push of the first three says, as its title, and its badge; or why it says nothing.
fn say(content: &Content) -> Result<Message, &'static str> {
    let message = Message {
        nid: "n3".into(),
        user: "ana".into(),
        project: "p".into(),
        seq: 3,
        lane: Lane::High,
        title: String::new(),
        body: String::new(),
        badge: 1,
        link: None,
        data: None,
        category: None,
        collapse: "c".into(),
        report: "7.x".into(),
    };
    policy(|_| {}).say(&claimed(), message, content)
}

#[test]
fn of_several_it_tells_of_those_that_are_left() {
    let title = |content: &Content| say(content).map(|message| message.title);
    let all = content(vec![member(1), member(2), member(3)]);
    assert_eq!(title(&all), Ok("3 neue Mitteilungen".into()));
    let mut two = content(vec![member(1), member(2), Member { read_at: Some(1), ..member(3) }]);
    let message = say(&two).unwrap();
    assert_eq!((&*message.title, &*message.body), ("2 neue Mitteilungen", "title 2"));
    // It is the push of the latest that is left; what it replaces is always the same.
    assert_eq!(
        (message.link.as_deref(), &message.data.unwrap()["n"], message.category.as_deref()),
        (Some("app://2"), &2.into(), Some("c2"))
    );
    assert_eq!((&*message.nid, message.seq, &*message.collapse), ("n2", 2, "c"));
    assert_eq!(Signer::new("key".into()).device("n2", &message.report), Some(7));
    assert_eq!((message.lane, say(&all).unwrap().lane), (Lane::Normal, Lane::High));
    two.cursors = vec![cursor("web", 9, 1)];
    assert_eq!(title(&two), Ok("title 2".into()), "somebody has seen the first, elsewhere");
    two.cursors = vec![cursor("phone", 2, 0)];
    assert_eq!(title(&two), Err(READ), "the device has the others");
}

#[test]
fn what_nobody_has_to_be_told_is_not_said_and_it_says_why() {
    let one = |change: &dyn Fn(&mut Member)| {
        let mut member = member(3);
        change(&mut member);
        say(&content(vec![member])).map(|message| message.title)
    };
    assert_eq!(one(&|_| {}), Ok("title 3".into()));
    assert_eq!(one(&|member| member.read_at = Some(1)), Err(READ));
    assert_eq!(one(&|member| member.in_time = false), Err(TOO_LATE));
    assert_eq!(one(&|member| member.standing = Some(String::new())), Err(NO_ACCESS));
    assert_eq!(say(&content(Vec::new())), Err(FORGOTTEN));
    let mut seen = content(vec![member(3)]);
    for (cursors, said) in [
        (vec![cursor("phone", 2, 0)], Ok("title 3".to_owned())),
        (vec![cursor("tablet", 9, 2)], Ok("title 3".to_owned())),
        (vec![cursor("phone", 3, 0)], Err(ACKNOWLEDGED)),
        (vec![cursor("tablet", 3, 3)], Err(ACKNOWLEDGED)),
    ] {
        seen.cursors = cursors;
        assert_eq!(say(&seen).map(|message| message.title), said);
    }
}

#[test]
fn a_badge_is_what_is_unread_and_may_be_read() {
    let unread = |kind: &str, standing: Option<&str>, count| Unread {
        user_id: "ana".into(),
        entity_type: Some(kind.into()),
        standing: standing.map(str::to_owned),
        count,
    };
    let mut content = content(vec![member(3)]);
    assert_eq!(say(&content).unwrap().badge, 1, "at least the one at hand");
    let types = vec![
        unread("task", Some("viewer"), 4),
        unread("payroll", Some("viewer"), 8),
        unread("payroll", None, 1),
        unread("task", Some(""), 16),
    ];
    content.unread.insert("ana".into(), types);
    assert_eq!(say(&content).unwrap().badge, 5);
    content.unread.insert("ana".into(), vec![unread("", None, 5000)]);
    assert_eq!(say(&content).unwrap().badge, 999);
}
