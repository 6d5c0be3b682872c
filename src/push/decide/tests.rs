//! Decisions about made-up views.

use super::*;
use crate::auth::Roles;
use crate::push::expo::Expo;
use crate::push::log::Log;
use crate::push::provider::{Envelope, Fate, Manners, PushProvider, Receipt, RequestError};
use futures_util::future::BoxFuture;

/// 2026-11-26 22:30 in Berlin.
const NIGHT: i64 = 1_795_728_600_000;
/// 07:00 the next morning there.
const MORNING: i64 = 1_795_759_200_000;

pub(in crate::push) fn policy(change: impl FnOnce(&mut config::Push)) -> Policy {
    let mut config = config::Push::default();
    change(&mut config);
    let expo: Arc<dyn PushProvider> = Arc::new(Expo::new(&config.expo).unwrap());
    Policy {
        config,
        templates: Arc::default(),
        signer: Signer::new("key".into()),
        providers: Arc::new([expo]),
        access: access(),
    }
}

/// Another provider, for what the hub makes of more than one.
#[derive(Debug)]
pub(in crate::push) struct Fcm;

impl PushProvider for Fcm {
    fn name(&self) -> &'static str {
        "fcm"
    }

    fn manners(&self) -> Manners {
        Log.manners()
    }

    fn check(&self, token: &str) -> Result<(), &'static str> {
        if token.len() > 100 { Ok(()) } else { Err("`token` must be one of FCM") }
    }

    fn send<'a>(&'a self, all: &'a [Envelope]) -> BoxFuture<'a, Result<Vec<Fate>, RequestError>> {
        Log.send(all)
    }

    fn receipts<'a>(
        &'a self,
        tickets: &'a [String],
    ) -> BoxFuture<'a, Result<HashMap<String, Receipt>, RequestError>> {
        Log.receipts(tickets)
    }
}

/// Viewers read tasks and nothing else.
fn access() -> Arc<Access> {
    let viewer = config::Role { read: vec!["task".into()], ..config::Role::default() };
    let roles = config::Roles([("viewer".to_owned(), viewer)].into());
    Arc::new(Access::new(Roles::compile(&roles).unwrap(), config::Memberships::Override))
}

fn due(id: i64, lane: Lane) -> Due {
    Due {
        id,
        nid: format!("n{id}"),
        project: "p".into(),
        user_id: "ana".into(),
        evt_seq: id,
        lane: lane.as_str().into(),
        state: "waiting".into(),
        created_at: 0,
        expires_at: i64::MAX,
        grace: 5000,
        local_time: None,
        reason: None,
        title: format!("title {id}"),
        body: "body".into(),
        data: None,
        link: None,
        collapse: None,
        category: None,
        read_at: None,
        entity_type: Some("task".into()),
        standing: None,
    }
}

fn view(now: i64, due: Vec<Due>) -> View {
    let device = Device {
        id: 7,
        user_id: "ana".into(),
        client: "phone".into(),
        provider: "expo".into(),
        platform: "ios".into(),
        token: "t".into(),
        scope: None,
        locale: Some("de".into()),
        tz: Some("Europe/Berlin".into()),
        app_version: None,
        model: None,
        state: "active".into(),
        reason: None,
        registered_at: 1,
        last_success_at: None,
    };
    View { now, due, devices: [("ana".into(), vec![device])].into(), ..View::default() }
}

fn titles(decided: &Decided) -> Vec<String> {
    let message = |d: &NewDelivery| serde_json::from_str::<Message>(&d.payload).unwrap().title;
    decided.deliveries.iter().map(message).collect()
}

#[test]
fn the_morning_brings_what_the_night_held_back_in_one_push() {
    let policy = policy(|config| config.quiet_from = "22:00".into());
    let night = vec![due(1, Lane::Normal), due(2, Lane::Normal), due(3, Lane::Critical)];
    let decided = policy.decide(&view(NIGHT, night.clone()));
    assert_eq!(decided.deferred, [(1, MORNING, QUIET), (2, MORNING, QUIET)]);
    assert_eq!(titles(&decided), ["title 3"], "an emergency knows no night");

    let mut held = vec![night[0].clone(), night[1].clone()];
    held.iter_mut().for_each(|due| due.reason = Some(QUIET.into()));
    let decided = policy.decide(&view(MORNING, held));
    assert_eq!(decided.deliveries.len(), 1);
    assert_eq!((decided.ended.len(), &decided.gathered), (2, &vec![(1, "n2".into())]));
}

#[test]
fn a_morning_that_comes_in_parts_is_still_two_pushes() {
    let policy = policy(|config| config.quiet_from = "22:00".into());
    let late = |id| Due { reason: Some(QUIET.into()), ..due(id, Lane::Normal) };
    // One part was sent; the rest of the night waits with it for the end of the window, and together.
    let window = ("ana".to_owned(), "p".to_owned(), QUIET.to_owned());
    let mut after = view(MORNING + 1, vec![late(3), late(4)]);
    after.windows = [(window, MORNING)].into();
    let ends = MORNING + millis(policy.config.coalesce);
    assert_eq!(policy.decide(&after).deferred, [(3, ends, QUIET), (4, ends, QUIET)]);
    after.now = ends;
    assert_eq!(policy.decide(&after).deliveries.len(), 1);
}

#[test]
fn a_gathered_push_is_as_urgent_as_the_most_urgent_of_it() {
    let policy = policy(|_| {});
    let of_key = |id, lane| Due { collapse: Some("k".into()), ..due(id, lane) };
    let decided = policy.decide(&view(0, vec![of_key(1, Lane::High), of_key(2, Lane::Normal)]));
    let message: Message = serde_json::from_str(&decided.deliveries[0].payload).unwrap();
    assert_eq!((&*decided.deliveries[0].nid, &*decided.deliveries[0].lane), ("n2", "high"));
    assert_eq!(message.lane, Lane::High);
}

#[test]
fn what_is_suppressed_at_night_does_not_come_in_the_morning() {
    let policy = policy(|config| {
        config.quiet_from = "22:00".into();
        config.quiet_action = QuietAction::Suppress;
    });
    let decided = policy.decide(&view(NIGHT, vec![due(1, Lane::Normal), due(2, Lane::High)]));
    assert_eq!(decided.ended, [(1, "suppressed", QUIET), (2, "done", "")]);
}

#[test]
fn critical_ones_are_neither_gathered_nor_capped() {
    let policy = policy(|config| config.cap_per_hour = 1);
    let keyed = |id, lane| Due { collapse: Some("k".into()), ..due(id, lane) };
    let mut view = view(
        1_000_000,
        vec![keyed(1, Lane::Critical), keyed(2, Lane::Critical), keyed(3, Lane::High)],
    );
    view.counts.insert("ana".into(), 1);
    let decided = policy.decide(&view);
    assert_eq!(titles(&decided), ["title 1", "title 2"]);
    assert!(decided.ended.contains(&(3, "suppressed", "cap")));
    view.windows.insert(("ana".into(), "p".into(), "k".into()), 990_000);
    let decided = policy.decide(&view);
    assert_eq!(decided.deferred, [(3, 1_020_000, "gathered")]);
    assert_eq!(titles(&decided).len(), 2);
}

#[test]
fn what_is_gathered_ends_as_the_one_that_stands_for_it() {
    let mut view = view(1_000_000, Vec::new());
    view.due =
        (1..=3).map(|id| Due { collapse: Some("k".into()), ..due(id, Lane::High) }).collect();
    let ends = |decided: &Decided| {
        let mut ends = decided.ended.clone();
        ends.sort_unstable();
        ends
    };
    let all = |state, reason| (1..=3).map(|id| (id, state, reason)).collect::<Vec<_>>();
    let capped = policy(|config| config.cap_per_hour = 2);
    view.counts.insert("ana".into(), 2);
    let decided = capped.decide(&view);
    assert_eq!(ends(&decided), all("suppressed", "cap"), "none of them was sent");
    assert_eq!((decided.windows.len(), decided.deliveries.len()), (0, 0));
    assert_eq!(decided.deferred, [], "and none waits for a window");

    view.counts.insert("ana".into(), 1);
    let decided = capped.decide(&view);
    assert_eq!(ends(&decided), [(1, "done", "gathered"), (2, "done", "gathered"), (3, "done", "")]);
    assert_eq!(decided.gathered, [(1, "n3".into()), (2, "n3".into())]);
    assert_eq!((decided.windows.len(), decided.counted.len()), (1, 1), "one push for three");

    view.devices.clear();
    let decided = policy(|_| {}).decide(&view);
    assert_eq!(ends(&decided), all("done", "no device"));
    assert_eq!((decided.windows.len(), decided.counted.len()), (0, 0));
}

#[test]
fn a_gathered_push_lasts_as_long_as_the_last_of_it() {
    let keyed = |id, seq, expires_at| Due {
        collapse: Some("k".into()),
        evt_seq: seq,
        expires_at,
        ..due(id, Lane::High)
    };
    let view = view(0, vec![keyed(1, 9, 60_000), keyed(2, 7, 30_000)]);
    let delivery = policy(|_| {}).decide(&view).deliveries.remove(0);
    assert_eq!((delivery.nid.as_str(), delivery.evt_seq, delivery.expires_at), ("n2", 9, 60_000));
}

#[test]
fn a_device_that_has_it_is_spared_and_one_without_a_provider_too() {
    let policy = policy(|_| {});
    let mut view = view(0, vec![due(5, Lane::High)]);
    view.acked.insert(("ana".into(), "phone".into(), "p".into()), 5);
    assert_eq!(policy.decide(&view).ended, [(5, "canceled", "acknowledged")]);
    view.acked.insert(("ana".into(), "phone".into(), "p".into()), 4);
    assert_eq!(policy.decide(&view).deliveries.len(), 1);
    view.devices.get_mut("ana").unwrap()[0].provider = "fcm".into();
    assert_eq!(policy.decide(&view).ended, [(5, "done", "no device")]);
    let both: [Arc<dyn PushProvider>; 2] = [policy.providers[0].clone(), Arc::new(Fcm)];
    let policy = Policy { providers: Arc::new(both), ..policy };
    assert_eq!(policy.decide(&view).deliveries[0].provider, "fcm", "through whom its token is");
}

#[test]
fn what_was_read_or_is_too_late_is_not_sent() {
    let policy = policy(|_| {});
    let read = Due { read_at: Some(1), ..due(1, Lane::Critical) };
    let late = Due { expires_at: 100, ..due(2, Lane::Critical) };
    let decided = policy.decide(&view(100, vec![read, late]));
    assert_eq!(decided.ended, [(1, "canceled", "read"), (2, "expired", "ttl")]);
    assert!(decided.deliveries.is_empty());
}

#[test]
fn a_schedule_waits_for_the_persons_own_clock_and_then_for_who_is_connected() {
    let policy = policy(|_| {});
    let scheduled = |local: Option<&str>| Due {
        state: "scheduled".into(),
        local_time: local.map(str::to_owned),
        ..due(1, Lane::High)
    };
    let decided = policy.decide(&view(NIGHT, vec![scheduled(Some("2026-11-27T07:00"))]));
    assert_eq!(decided.deferred, [(1, MORNING, "local time")]);
    let decided = policy.decide(&view(MORNING, vec![scheduled(Some("2026-11-27T07:00"))]));
    assert_eq!(decided.announced, [(1, MORNING)], "nobody is connected");
    let mut view = view(MORNING, vec![scheduled(None)]);
    view.live.push("ana".into());
    assert_eq!(policy.decide(&view).announced, [(1, MORNING + 5000)]);
    assert!(policy.decide(&view).deliveries.is_empty());
    // It names no change: there is none whose acknowledgement would have disarmed it.
    view.due = vec![Due { evt_seq: NO_CHANGE, ..due(1, Lane::High) }];
    let message = policy.decide(&view).deliveries.remove(0).payload;
    assert_eq!(serde_json::from_str::<serde_json::Value>(&message).unwrap()["seq"], 0);
}

#[test]
fn a_push_replaces_the_one_before_of_its_key_and_no_other() {
    let named = |id, key: Option<&str>, user: &str| {
        let due =
            Due { collapse: key.map(str::to_owned), user_id: user.into(), ..due(id, Lane::High) };
        collapse(&due, "")
    };
    assert_eq!(named(1, Some("k"), "ana"), named(2, Some("k"), "ana"));
    assert_ne!(named(1, Some("k"), "ana"), named(1, Some("k"), "bo"));
    assert_ne!(named(1, Some("k"), "ana"), named(1, Some("l"), "ana"));
    assert_eq!(named(1, None, "ana"), "n1");
    assert!(named(1, Some(&"k".repeat(64)), "ana").len() <= 64);
}

#[test]
fn the_log_provider_needs_no_device() {
    let mut policy = policy(|_| {});
    policy.providers = Arc::new([Arc::new(Log)]);
    let mut view = view(0, vec![due(1, Lane::High)]);
    view.devices.clear();
    let decided = policy.decide(&view);
    assert_eq!((&*decided.deliveries[0].provider, decided.deliveries[0].token), ("log", None));
}
