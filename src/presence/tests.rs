//! The pure core against a naive model, and the local variant on a paused clock.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::registry::Registry;
use super::room::RoomCore;
use super::session::OpKind;
use super::{Delta, Departure, News, Presence};
use crate::config;
use crate::id::{Room, UserId};
use crate::protocol::server::{Member, RawState};

fn room() -> Room {
    "room:p:lobby".parse().unwrap()
}

fn user(n: u8) -> UserId {
    UserId::new(&format!("u{n}")).unwrap()
}

fn state(n: u8) -> RawState {
    RawState(RawValue::from_string(n.to_string()).unwrap().into())
}

fn rules() -> config::Presence {
    config::Presence { grace: Duration::from_millis(500), ..config::Presence::default() }
}

#[derive(Debug, Clone)]
enum Act {
    Join(Option<u8>),
    Update(u8),
    Leave(bool),
}

/// What happened in the room: when, to whom, on which connection.
type History = Vec<(Instant, u8, u64, Act)>;

fn acts() -> impl Strategy<Value = Vec<(u64, u8, u64, Act)>> {
    let act = prop_oneof![
        3 => prop::option::of(0_u8..3).prop_map(Act::Join),
        1 => (0_u8..3).prop_map(Act::Update),
        3 => any::<bool>().prop_map(Act::Leave),
    ];
    let pause = prop_oneof![4 => 0_u64..30, 1 => 0_u64..700];
    prop::collection::vec((pause, 0_u8..4, 0_u64..3, act), 1..80)
}

/// Who is here at `now`, by reading the whole history of each user.
fn model(history: &History, grace: Duration, now: Instant) -> BTreeMap<UserId, Option<u8>> {
    let mut present = BTreeMap::new();
    for who in 0..4 {
        // Connections in the order of their last word; the state a lost one left behind; the end of grace.
        let mut here: Vec<(u64, Option<u8>)> = Vec::new();
        let (mut kept, mut until): (Option<u8>, Option<Instant>) = (None, None);
        for (at, _, conn, act) in history.iter().filter(|(_, user, ..)| *user == who) {
            if until.is_some_and(|until| until <= *at) {
                (kept, until) = (None, None);
            }
            let known = here.iter().any(|(c, _)| c == conn);
            let shown = here.iter().rev().find_map(|(_, state)| *state).or(kept);
            match act {
                Act::Join(None) if known => {}
                Act::Join(None) => {
                    here.push((*conn, None));
                    until = None;
                }
                Act::Update(_) if !known => {}
                Act::Join(Some(state)) | Act::Update(state) => {
                    here.retain(|(c, _)| c != conn);
                    here.push((*conn, Some(*state)));
                    (kept, until) = (None, None);
                }
                Act::Leave(_) if !known => {}
                Act::Leave(lost) => {
                    here.retain(|(c, _)| c != conn);
                    let silent = here.iter().all(|(_, state)| state.is_none());
                    if *lost && silent {
                        kept = shown;
                    }
                    if here.is_empty() && *lost {
                        until = Some(*at + grace);
                    } else if here.is_empty() {
                        kept = None;
                    }
                }
            }
        }
        if !here.is_empty() || until.is_some_and(|until| until > now) {
            let shown = here.iter().rev().find_map(|(_, state)| *state).or(kept);
            present.insert(user(who), shown);
        }
    }
    present
}

/// The users in a room, as a client sees them.
type View = BTreeMap<UserId, Option<String>>;

/// What a client that follows the deltas sees. Who joins must be news to it.
fn follow(view: &mut View, delta: Delta) {
    let text = |member: &Member| member.state.as_ref().map(|state| state.0.get().to_owned());
    let changes = delta.joined.len() + delta.left.len() + delta.updated.len();
    assert!(changes > 0, "an empty delta");
    for member in delta.joined {
        let old = view.insert(member.user.clone(), text(&member));
        assert!(old.is_none(), "{} joined twice", member.user);
    }
    for user in delta.left {
        view.remove(&user);
    }
    for member in delta.updated {
        let old = view.insert(member.user.clone(), text(&member));
        assert!(old.is_some(), "{} was not here", member.user);
    }
    assert_eq!(delta.users, view.len() as u64);
}

/// The same for one who was given the list between two deltas, and knows more.
fn catch_up(view: &mut View, delta: &Delta) {
    for member in delta.joined.iter().chain(&delta.updated) {
        let state = member.state.as_ref().map(|state| state.0.get().to_owned());
        view.insert(member.user.clone(), state);
    }
    delta.left.iter().for_each(|user| drop(view.remove(user)));
}

/// What a client is given that asks who is here.
fn listed(core: &RoomCore) -> View {
    let members = core.page(None, 100).members.into_iter();
    members.map(|m| (m.user, m.state.map(|state| state.0.get().to_owned()))).collect()
}

proptest! {
    #[test]
    fn a_follower_of_the_deltas_sees_who_is_here(acts in acts()) {
        let (rules, room) = (rules(), room());
        let mut now = Instant::now();
        let (mut core, mut history, mut view) = (RoomCore::new(now), History::new(), BTreeMap::new());
        // Clients that came later: each has the list of then, and the deltas since.
        let mut later: Vec<View> = Vec::new();
        let mut last: Option<Instant> = None;
        let mut poll = |core: &mut RoomCore, now: Instant, later: &mut [View]| {
            if let Some(delta) = core.poll(&room, now, &rules) {
                assert!(last.is_none_or(|last| last + rules.batch <= now), "two deltas in a batch");
                last = Some(now);
                for view in later.iter_mut() {
                    catch_up(view, &delta);
                }
                follow(&mut view, delta);
                later.iter().for_each(|later| assert_eq!(later, &view));
            }
            view.clone()
        };
        for (pause, who, conn, act) in acts {
            let next = now + Duration::from_millis(pause);
            // The driver comes whenever the core asks it to.
            while let Some(due) = core.due().filter(|due| *due > now && *due <= next) {
                now = due;
                poll(&mut core, now, &mut later);
            }
            now = next;
            history.push((now, who, conn, act.clone()));
            match act {
                Act::Join(s) => core.join(&user(who), conn, s.map(state)),
                Act::Update(s) => core.update(&user(who), conn, state(s)),
                Act::Leave(true) => core.leave(&user(who), conn, Departure::Lost, now + rules.grace),
                Act::Leave(false) => core.leave(&user(who), conn, Departure::Explicit, now),
            }
            later.push(listed(&core));
            let view = poll(&mut core, now, &mut later);
            if core.due().is_none_or(|due| due > now + rules.batch) {
                let expected: BTreeMap<_, _> = model(&history, rules.grace, now)
                    .into_iter()
                    .map(|(user, state)| (user, state.map(|s| s.to_string())))
                    .collect();
                prop_assert_eq!(view, expected);
            }
        }
        now += rules.batch + rules.grace;
        poll(&mut core, now, &mut later);
        now += rules.batch;
        let view = poll(&mut core, now, &mut later);
        let expected: BTreeMap<_, _> = model(&history, rules.grace, now)
            .into_iter()
            .map(|(user, state)| (user, state.map(|s| s.to_string())))
            .collect();
        prop_assert_eq!(view, expected);
        prop_assert_eq!(core.page(None, 10).members.len(), core.page(None, 10).users as usize);
    }
}

fn local() -> (Presence, mpsc::UnboundedReceiver<News>, CancellationToken) {
    let (sender, news) = mpsc::unbounded_channel();
    let presence = Presence::local(&config::Presence::default(), sender);
    let stop = CancellationToken::new();
    tokio::spawn(presence.clone().run(stop.clone()));
    (presence, news, stop)
}

async fn next(news: &mut mpsc::UnboundedReceiver<News>) -> Delta {
    match news.recv().await.unwrap() {
        News::Delta(delta) => delta,
        whole => panic!("one instance misses nothing: {whole:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_quiet_room_is_told_at_once_and_a_busy_one_in_batches() {
    let (presence, mut news, _stop) = local();
    let start = Instant::now();
    presence.join(&room(), &user(0), 0, None);
    assert_eq!(next(&mut news).await.joined.len(), 1);
    assert_eq!(start.elapsed(), Duration::ZERO);
    for n in 1..200 {
        presence.join(&room(), &user(n), n.into(), None);
    }
    presence.leave(&room(), &user(7), 7, Departure::Explicit);
    let delta = next(&mut news).await;
    assert_eq!((delta.joined.len(), delta.left.len(), delta.users), (198, 1, 199));
    assert_eq!(start.elapsed().as_millis() / 10, 10);
}

#[tokio::test(start_paused = true)]
async fn a_lost_user_leaves_after_the_grace_and_one_who_said_so_at_once() {
    let (presence, mut news, _stop) = local();
    presence.join(&room(), &user(0), 0, Some(state(1)));
    next(&mut news).await;
    tokio::time::advance(Duration::from_secs(1)).await;

    let lost = Instant::now();
    presence.leave(&room(), &user(0), 0, Departure::Lost);
    tokio::time::advance(Duration::from_secs(14)).await;
    // Back on another connection: nobody hears of it, until the state differs.
    presence.join(&room(), &user(0), 1, None);
    tokio::time::advance(Duration::from_secs(60)).await;
    assert!(news.try_recv().is_err());
    presence.update(&room(), &user(0), 1, state(2));
    let delta = next(&mut news).await;
    assert_eq!((delta.joined.len(), delta.left.len(), delta.updated.len()), (0, 0, 1));
    assert!(lost.elapsed() > Duration::from_secs(60));

    let lost = Instant::now();
    presence.leave(&room(), &user(0), 1, Departure::Lost);
    assert_eq!(next(&mut news).await.left, [user(0)]);
    assert!(lost.elapsed() >= Duration::from_secs(15));

    presence.join(&room(), &user(0), 2, None);
    next(&mut news).await;
    let left = Instant::now();
    presence.leave(&room(), &user(0), 2, Departure::Explicit);
    assert_eq!(next(&mut news).await.left, [user(0)]);
    assert!(left.elapsed() < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn an_empty_room_is_forgotten() {
    let (sender, mut news) = mpsc::unbounded_channel();
    let rooms = std::sync::Arc::new(super::local::Local::new(rules(), sender));
    let (worker, stop) = (rooms.clone(), CancellationToken::new());
    let token = stop.clone();
    let task = tokio::spawn(async move { worker.run(&token).await });
    rooms.change(&room(), |core, _| core.join(&user(0), 0, None));
    next(&mut news).await;
    rooms.leave(&room(), &user(0), 0, Departure::Lost);
    next(&mut news).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(rooms.is_empty());
    stop.cancel();
    task.await.unwrap();
}

#[test]
fn while_redis_is_away_a_session_waits_once() {
    let now = Instant::now();
    let mut registry = Registry::new(Duration::from_secs(15));
    for n in 0..100 {
        registry.join(&room(), &user(1), 1, Some(state(n)), now);
        registry.update(&room(), 1, state(n), now);
    }
    let steps = registry.take(now, 10);
    assert_eq!(steps.len(), 1);
    assert_eq!(steps[0].ops.len(), 1);
    assert_eq!(steps[0].ops[0].state, Some(state(99)));
    registry.fail(&steps[0], now);

    registry.leave(&room(), 1, Departure::Explicit, now);
    let steps = registry.take(now, 10);
    assert_eq!(steps[0].ops.iter().map(|op| op.kind).collect::<Vec<_>>(), [OpKind::Left]);
    registry.confirm(&steps[0], None, now);
    assert_eq!(registry.retire().len(), 1);
}

#[test]
fn what_redis_forgot_is_told_as_it_was_and_then_as_it_is() {
    let now = Instant::now();
    let mut registry = Registry::new(Duration::from_secs(15));
    registry.join(&room(), &user(1), 1, Some(state(1)), now);
    registry.join(&room(), &user(2), 2, None, now);
    let steps = registry.take(now, 10);
    registry.confirm(&steps[0], None, now);
    registry.update(&room(), 1, state(2), now);
    registry.leave(&room(), 2, Departure::Explicit, now);
    registry.restore(now);
    let steps = registry.take(now, 10);
    let said: Vec<_> = steps[0].ops.iter().map(|op| (op.kind, op.conn, op.state.clone())).collect();
    assert_eq!(
        said,
        [
            (OpKind::Restore, 2, None),
            (OpKind::Left, 2, None),
            (OpKind::Restore, 1, Some(state(1))),
            (OpKind::Put, 1, Some(state(2))),
        ]
    );
    assert!(registry.is_restoring());
    registry.confirm(&steps[0], None, now);
    assert!(!registry.is_restoring());
    assert_eq!(registry.list(&room(), 10, now).users, 1);
}
