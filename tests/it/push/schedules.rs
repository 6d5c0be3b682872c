//! Schedules: at an instant, at a time on a wall, and on each recipient's own clock.

use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::{Value, json};

use super::{
    admin, change, get, hub_and_stand_in, notify, number, publish, register, sent, titles,
};
use crate::support::client::Client;
use crate::support::eventually;
use crate::support::hub::{TestHub, token};
use crate::support::postgres;

/// What the clocks of Honolulu, nearly the last place on earth, say in so many minutes.
fn in_honolulu(minutes: i64) -> String {
    let at = Timestamp::from_millisecond(syncline::clock::now_ms() + minutes * 60_000).unwrap();
    TimeZone::get("Pacific/Honolulu").unwrap().to_datetime(at).to_string()
}

#[tokio::test]
async fn a_scheduled_one_comes_when_its_time_has_come_and_can_be_taken_back() {
    let (hub, stand_in) = hub_and_stand_in(|config| {
        config.push.grace_high = Duration::from_millis(200);
    })
    .await;
    register(&hub, "ana", "phone", json!({ "tz": "Asia/Tokyo" })).await;
    let mut ana = Client::connect(&hub.ws(), &token("ana", &json!({ "p": "editor" }))).await;
    let at = |title: &str, send_at: Value| {
        let mut asked = notify("ana", title, "high");
        asked["send_at"] = send_at;
        asked["collapse"] = json!(title);
        asked
    };
    publish(
        &hub,
        &[
            at("instant", json!(4_000_000_000_000_i64)),
            at("wall", json!({ "local": "2030-01-01T09:00", "tz": "Europe/Berlin" })),
            at("own clock", json!({ "local": "2030-01-01T09:00" })),
            at("dropped", json!({ "local": "2030-01-01T09:00" })),
        ],
    )
    .await;
    let scheduled = "SELECT count(*) FROM push_intents WHERE state = 'scheduled'";
    assert_eq!(number(&hub, scheduled).await, 4);
    assert_eq!(get(&hub, "ana", "/v1/notifications").await.1["unread"], 0, "nobody sees it yet");
    let berlin = "SELECT count(*) FROM push_intents WHERE not_before = 1893484800000";
    assert_eq!(number(&hub, berlin).await, 1, "09:00 in Berlin");
    let (_, answer) =
        admin(&hub, "/v1/push/unschedule", Some(&json!({ "project": "p", "collapse": "dropped" })))
            .await;
    assert_eq!(answer, json!({ "canceled": 1 }));

    // The clock of the first place on earth reaches nine; ana's does so later.
    change(&hub, "UPDATE push_intents SET not_before = 0 WHERE local_time IS NOT NULL AND state = 'scheduled'").await;
    let tokyo = "SELECT count(*) FROM push_intents WHERE state = 'scheduled' AND not_before = 1893456000000";
    eventually("moved to 09:00 in Tokyo", || async { number(&hub, tokyo).await == 1 }).await;
    change(&hub, "UPDATE push_intents SET not_before = 0 WHERE not_before > 3000000000000").await;
    assert_eq!(ana.expect("notification").await["title"], "instant", "live first");
    let sent = sent(&stand_in, 1).await;
    assert_eq!(titles(&sent), ["instant"]);
    assert_eq!(get(&hub, "ana", "/v1/notifications").await.1["unread"], 1);
    assert_eq!(number(&hub, scheduled).await, 2);
    hub.stop().await;
}

#[tokio::test]
async fn on_each_clock_it_is_of_use_for_as_long() {
    let (hub, stand_in) = hub_and_stand_in(|_| {}).await;
    // A day lies between the first two.
    register(&hub, "ana", "ana", json!({ "tz": "Pacific/Honolulu" })).await;
    register(&hub, "bo", "bo", json!({ "tz": "Pacific/Kiritimati" })).await;
    register(&hub, "cy", "cy", json!({})).await;
    let at = |title: &str, users: &[&str], local: String| {
        json!({
            "users": users, "title": title, "lane": "high", "ttl": 3600, "send_at": { "local": local },
        })
    };
    publish(&hub, &[at("past", &["ana", "bo", "cy"], in_honolulu(-1))]).await;
    assert_eq!(titles(&sent(&stand_in, 3).await), ["past"; 3], "over on every clock: now");

    publish(&hub, &[at("soon", &["ana", "bo"], in_honolulu(60))]).await;
    assert_eq!(titles(&sent(&stand_in, 4).await)[3], "soon", "over on one of them");
    assert_eq!(stand_in.sent()[3].to, super::expo("bo"));
    let to_come =
        "SELECT count(*) FROM push_intents WHERE state = 'scheduled' AND reason = 'local time'
        AND expires_at - not_before = 3600000";
    eventually("an hour from when it is due to ana", || async { number(&hub, to_come).await == 1 })
        .await;
    hub.stop().await;
}

#[tokio::test]
async fn whether_its_time_has_come_the_databases_clock_says() {
    for wrong_by in [300_000, -300_000] {
        let (stand_in, database) = (super::stand_in().await, postgres::fresh_database().await);
        postgres::skew(&database, wrong_by).await;
        let hub = TestHub::start_with(|config| {
            super::eager(config, &stand_in);
            config.store.url.clone_from(&database);
        })
        .await;
        register(&hub, "ana", "phone", json!({})).await;
        let now = syncline::clock::now_ms() + wrong_by;
        let at = |title: &str, at: i64| {
            let mut asked = notify("ana", title, "high");
            asked["send_at"] = json!(at);
            asked
        };
        publish(&hub, &[at("to come", now + 240_000), at("over", now - 240_000)]).await;
        let scheduled = "SELECT count(*) FROM push_intents WHERE state = 'scheduled'";
        assert_eq!(number(&hub, scheduled).await, 1);
        assert_eq!(titles(&sent(&stand_in, 1).await), ["over"]);
        assert_eq!(get(&hub, "ana", "/v1/notifications").await.1["unread"], 1);
        // An acknowledgement answers what is due at once, and says nothing of what is to come.
        let no_change = "SELECT count(*) FROM push_intents WHERE evt_seq = 9223372036854775807";
        assert_eq!(number(&hub, no_change).await, 1);
        hub.stop().await;
    }
}

#[tokio::test]
async fn a_scheduled_one_is_in_the_inbox_where_it_became_due() {
    let (hub, _stand_in) = hub_and_stand_in(|_| {}).await;
    let mut later = notify("ana", "later", "normal");
    later["send_at"] = json!(4_000_000_000_000_i64);
    publish(&hub, &[later]).await;
    publish(&hub, &["a", "b", "c"].map(|title| notify("ana", title, "normal"))).await;
    let page = async |query: &str| {
        let (_, inbox) = get(&hub, "ana", &format!("/v1/notifications?limit=2{query}")).await;
        let shown = inbox["notifications"].as_array().unwrap().clone();
        let titles: Vec<_> =
            shown.iter().map(|n| n["title"].as_str().unwrap().to_owned()).collect();
        (titles, inbox["unread"].clone(), shown)
    };
    let (first, unread, shown) = page("").await;
    assert_eq!((first, unread), (vec!["c".into(), "b".into()], json!(3)));

    change(&hub, "UPDATE push_intents SET not_before = 0 WHERE state = 'scheduled'").await;
    eventually("it is shown", || async { page("").await.1 == 4 }).await;
    // Who is just reading on finds neither it nor anything twice, and has read no more than they saw.
    let at = |n: usize| shown[n]["nid"].as_str().unwrap();
    assert_eq!(page(&format!("&before={}", at(1))).await.0, ["a"]);
    let up_to = json!({ "up_to": at(0) });
    let (_, answer) = super::post(&hub, "ana", "/v1/notifications/read-all", &up_to).await;
    assert_eq!(answer, json!({ "read": 3 }));
    let (first, unread, _) = page("").await;
    assert_eq!((first, unread), (vec!["later".into(), "c".into()], json!(1)));
    assert_eq!(page("&unread=true").await.0, ["later"]);
    hub.stop().await;
}
