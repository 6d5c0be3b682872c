//! Tokens: whose they are, and when they are given up.

use sqlx::{Connection, PgConnection, SqliteConnection};
use syncline::store::push::{Outcome, Settled, Settlement};

use super::{SEND, SETTINGS, arm, phone, to_device, user};
use crate::support::plan::ack;
use crate::support::site::Site;

on_both_engines!(
    a_token_belongs_to_who_registered_it_last,
    who_names_anothers_installation_takes_nothing_from_them,
    tokens_of_before_are_kept_and_their_numbers_not_given_again,
    a_dead_token_is_disabled_unless_it_came_back,
    tokens_that_nobody_uses_are_disabled,
    what_is_queued_for_a_device_comes_whatever_it_is_called_now,
);

async fn what_is_queued_for_a_device_comes_whatever_it_is_called_now(site: Site) {
    let store = site.open().await;
    store.begin_gate("expo").await.unwrap();
    let ben = user("ben");
    let register = async |client: &str, token: &str| {
        store.register_device(&ben, &phone(client, token)).await.unwrap()
    };
    let queue = async |device: i64| {
        arm(&store, &format!("p{}", uuid::Uuid::new_v4()), 1).await;
        store.dispatch(9, &to_device(device)).await.unwrap();
    };
    let claim = async || {
        let held = store.claim_deliveries("expo", &SEND, SETTINGS, 0, "w").await.unwrap();
        store.reap_deliveries(&[]).await.unwrap();
        let mut held: Vec<_> =
            held.into_iter().map(|c| (c.token_id, c.token, c.client, c.scope)).collect();
        held.sort_unstable();
        held
    };
    let to = |id: i64, token: &str, client: &str| {
        (Some(id), Some(token.into()), Some(client.into()), None)
    };
    let device = register("phone", "t1").await;
    store.scope_tokens(&[(device, "@a/x".into())]).await.unwrap();
    queue(device).await;
    assert_eq!(register("phone", "t2").await, device, "it has another token");
    assert_eq!(claim().await, [to(device, "t2", "phone")], "of which nobody knows more");
    assert_eq!(register("anew", "t2").await, device, "it was installed anew");
    assert_eq!(claim().await, [to(device, "t2", "anew")]);
    // Known by both names: once as what it was, with its old token, and once by the token.
    let other = register("old", "t3").await;
    queue(other).await;
    assert_eq!(register("old", "t2").await, device);
    assert_eq!(claim().await, [to(device, "t2", "old"), to(device, "t2", "old")]);
    assert_eq!(store.devices(&ben).await.unwrap().len(), 1);
    // Of somebody else it is another device.
    let eve = store.register_device(&user("eve"), &phone("old", "t2")).await.unwrap();
    assert_eq!((eve != device, claim().await), (true, Vec::new()));
}

async fn a_token_belongs_to_who_registered_it_last(site: Site) {
    let store = site.open().await;
    store.begin_gate("expo").await.unwrap();
    let (ben, ana) = (user("ben"), user("ana"));
    let device = store.register_device(&ben, &phone("phone", "t1")).await.unwrap();
    assert_eq!(store.register_device(&ben, &phone("phone", "t1")).await.unwrap(), device);
    arm(&store, "p", 1).await;
    store.dispatch(9, &to_device(device)).await.unwrap();
    store.register_device(&ana, &phone("phone", "t1")).await.unwrap();
    assert_eq!(store.devices(&ben).await.unwrap(), []);
    assert_eq!(store.devices(&ana).await.unwrap().len(), 1);
    let claim = async || store.claim_deliveries("expo", &SEND, SETTINGS, 1, "w").await.unwrap();
    assert_eq!(claim().await, [], "what was ben's is not ana's");

    let moved = store.register_device(&ana, &phone("tablet", "t1")).await.unwrap();
    assert_ne!(moved, device, "a number is one device's for ever");
    let clients: Vec<_> =
        store.devices(&ana).await.unwrap().into_iter().map(|d| d.client).collect();
    assert_eq!(clients, ["tablet"], "one token is on one device");
    store.register_device(&ana, &phone("tablet", "t2")).await.unwrap();
    let tokens: Vec<_> = store.devices(&ana).await.unwrap().into_iter().map(|d| d.token).collect();
    assert_eq!(tokens, ["t2"], "one device has one token");
    assert_eq!(store.remove_device(&ben, None, Some(&"tablet".parse().unwrap())).await.unwrap(), 0);
    assert_eq!(store.remove_device(&ana, None, Some(&"tablet".parse().unwrap())).await.unwrap(), 1);
}

async fn who_names_anothers_installation_takes_nothing_from_them(site: Site) {
    let store = site.open().await;
    store.begin_gate("expo").await.unwrap();
    let (ben, eve) = (user("ben"), user("eve"));
    let device = store.register_device(&ben, &phone("phone", "t1")).await.unwrap();
    arm(&store, "p", 1).await;
    store.dispatch(9, &to_device(device)).await.unwrap();
    let other = store.register_device(&eve, &phone("phone", "t2")).await.unwrap();
    assert_ne!(other, device);
    let tokens = async |user| {
        let devices = store.devices(user).await.unwrap().into_iter();
        devices.map(|d| (d.id, d.token)).collect::<Vec<_>>()
    };
    assert_eq!(tokens(&ben).await, [(device, "t1".to_owned())], "ben's is ben's still");
    assert_eq!(tokens(&eve).await, [(other, "t2".to_owned())]);
    // What eve stores in the background spares her own device only, though it has the name of ben's.
    assert_eq!(ack(&store, ("p", "eve", "phone"), 1, false, 1200).await, 0);
    let held = store.claim_deliveries("expo", &SEND, SETTINGS, 60_000, "w").await.unwrap();
    let reached: Vec<_> = held.iter().map(|claimed| claimed.token.as_deref()).collect();
    assert_eq!(reached, [Some("t1")], "what was queued for ben comes");
    assert_eq!(store.remove_device(&eve, None, Some(&"phone".parse().unwrap())).await.unwrap(), 1);
    assert_eq!(tokens(&ben).await.len(), 1);
}

/// What stood in the table when an installation was a key of its own.
const BEFORE: &str = "
    INSERT INTO push_tokens (user_id, client, provider, platform, token, token_hash, scope, locale, tz, app_version,
        model, state, reason, state_at, registered_at, last_success_at) VALUES
    ('ben', 'phone', 'expo', 'ios', 't1', 'h1', '@a/x', 'de', 'Europe/Berlin', '1.2', 'Pixel', 'suspect', 'dead',
        5, 6, 7),
    ('ana', 'tablet', 'expo', 'android', 't2', 'h2', NULL, NULL, NULL, NULL, NULL, 'active', NULL, 8, 9, NULL),
    ('cy', 'gone', 'expo', 'ios', 't3', 'h3', NULL, NULL, NULL, NULL, NULL, 'active', NULL, 8, 9, NULL);
    DELETE FROM push_tokens WHERE user_id = 'cy';";

async fn tokens_of_before_are_kept_and_their_numbers_not_given_again(site: Site) {
    site.migrate_to(62).await;
    site.run(BEFORE).await;
    let store = site.open().await;
    let ben = store.devices(&user("ben")).await.unwrap().remove(0);
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    assert_eq!((ben.id, ben.client.as_str(), ben.platform.as_str()), (1, "phone", "ios"));
    assert_eq!(
        (ben.token.as_str(), text(&ben.scope), text(&ben.locale)),
        ("t1", "@a/x".into(), "de".into())
    );
    assert_eq!((text(&ben.tz), text(&ben.app_version)), ("Europe/Berlin".into(), "1.2".into()));
    assert_eq!(
        (text(&ben.model), ben.state.as_str(), text(&ben.reason)),
        ("Pixel".into(), "suspect", "dead".into())
    );
    assert_eq!((ben.registered_at, ben.last_success_at), (6, Some(7)));
    assert_eq!(store.devices(&user("ana")).await.unwrap()[0].id, 2);
    let new = store.register_device(&user("eve"), &phone("phone", "t4")).await.unwrap();
    assert_eq!(new, 4, "3 was a device's, and something may be on its way to it");
    assert_eq!(indexes(&site).await, ["push_tokens_of_user", "push_tokens_user"]);
}

/// The table's indexes by name, those of its keys left out.
async fn indexes(site: &Site) -> Vec<String> {
    const SQLITE: &str = "SELECT name FROM sqlite_master
        WHERE type = 'index' AND tbl_name = 'push_tokens' AND sql IS NOT NULL ORDER BY name";
    const POSTGRES: &str = "SELECT indexname::text FROM pg_indexes WHERE tablename = 'push_tokens'
        AND indexname NOT LIKE '%\\_pkey' AND indexname NOT LIKE '%\\_key' ORDER BY 1";
    if site.config.url.starts_with("sqlite:") {
        let mut db = SqliteConnection::connect(&site.config.url).await.unwrap();
        sqlx::query_scalar(SQLITE).fetch_all(&mut db).await.unwrap()
    } else {
        let mut db = PgConnection::connect(&site.config.url).await.unwrap();
        sqlx::query_scalar(POSTGRES).fetch_all(&mut db).await.unwrap()
    }
}

async fn a_dead_token_is_disabled_unless_it_came_back(site: Site) {
    let store = site.open().await;
    store.begin_gate("expo").await.unwrap();
    let ben = user("ben");
    for back in [false, true] {
        let device = store.register_device(&ben, &phone("phone", "t1")).await.unwrap();
        arm(&store, if back { "p" } else { "q" }, 1).await;
        store.dispatch(9, &to_device(device)).await.unwrap();
        let held = store.claim_deliveries("expo", &SEND, SETTINGS, 60_000, "w").await.unwrap();
        if back {
            // The clock has moved on when it registers again.
            let sent = store.gate("expo").await.unwrap().1;
            while store.gate("expo").await.unwrap().1 <= sent {
                tokio::task::yield_now().await;
            }
            store.register_device(&ben, &phone("phone", "t1")).await.unwrap();
        }
        let fate = Settlement::Dead { error: "DeviceNotRegistered".into() };
        let settled = [Settled { id: held[0].id, fence: held[0].fence, fate }];
        store.settle("expo", SETTINGS, &[Outcome::Answered], &settled).await.unwrap();
        let state = &store.devices(&ben).await.unwrap()[0].state;
        assert_eq!(state, if back { "active" } else { "disabled" });
    }
}

async fn tokens_that_nobody_uses_are_disabled(site: Site) {
    const DAY: i64 = 86_400_000;
    let store = site.open().await;
    let ben = user("ben");
    for client in ["old", "reached", "new"] {
        store.register_device(&ben, &phone(client, client)).await.unwrap();
    }
    let now = store.now_ms().await.unwrap();
    let (old, lately) = (now - 100 * DAY, now - DAY);
    site.run(&format!("UPDATE push_tokens SET registered_at = {old} WHERE client <> 'new'")).await;
    site.run(&format!(
        "UPDATE push_tokens SET last_success_at = {lately} WHERE client = 'reached'"
    ))
    .await;
    assert_eq!(store.disable_idle_devices(90 * DAY).await.unwrap(), 1);
    let states: Vec<_> =
        store.devices(&ben).await.unwrap().into_iter().map(|d| (d.state, d.reason)).collect();
    let active = || ("active".to_owned(), None);
    assert_eq!(states, [("disabled".to_owned(), Some("idle".to_owned())), active(), active()]);
}
