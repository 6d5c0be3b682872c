//! Quiet hours: what waits for the morning, and what comes then.

use serde_json::{Value, json};
use syncline::push::stand_in::Sent;

use super::{
    eager, get, hub_and_stand_in, notify, number, publish, register, sent, settled, stand_in,
    titles,
};
use crate::support::eventually;
use crate::support::hub::TestHub;
use crate::support::postgres;

#[tokio::test]
async fn at_night_only_an_emergency_comes_and_the_rest_in_the_morning() {
    // Quiet everywhere but in an hour that is not now, in the user's zone.
    let now =
        jiff::Timestamp::now().to_zoned_datetime(jiff::tz::TimeZone::get("Asia/Tokyo").unwrap());
    let hour = |hours: i8| format!("{:02}:00", (now.hour() + hours).rem_euclid(24));
    let (hub, stand_in) = hub_and_stand_in(|config| {
        config.push.quiet_from = hour(-2);
        config.push.quiet_to = hour(2);
    })
    .await;
    register(&hub, "ana", "phone", json!({ "tz": "Asia/Tokyo" })).await;
    publish(
        &hub,
        &[
            notify("ana", "later", "normal"),
            notify("ana", "also later", "normal"),
            notify("ana", "SOS", "critical"),
            notify("ana", "high", "high"),
        ],
    )
    .await;
    let mut loud = titles(&sent(&stand_in, 2).await);
    loud.sort();
    assert_eq!(loud, ["SOS", "high"]);
    eventually("the rest waits", || async {
        number(&hub, "SELECT count(*) FROM push_intents WHERE reason = 'quiet hours'").await == 2
    })
    .await;
    let lasts =
        "SELECT max(expires_at - created_at) FROM push_intents WHERE reason = 'quiet hours'";
    assert_eq!(number(&hub, lasts).await, 86_400_000, "waiting makes nothing younger");
    hub.stop().await;
}

/// Puts the database's clock, by which the hub lives, to this time.
async fn it_is(database: &str, time: &str) {
    let time: jiff::Timestamp = time.parse().unwrap();
    postgres::skew(database, time.as_millisecond() - syncline::clock::now_ms()).await;
}

/// What a push shows: title, body, badge, and the title of the notification it is named after.
async fn shown(hub: &TestHub, sent: &Sent) -> (String, String, i64, String) {
    let text = |what: &Value| what.as_str().unwrap().to_owned();
    let (message, nid) = (&sent.message, &sent.message["data"]["nid"]);
    let (_, inbox) = get(hub, "ana", "/v1/notifications").await;
    let all = inbox["notifications"].as_array().unwrap();
    let named = all.iter().find(|notification| notification["nid"] == *nid).unwrap();
    let badge = message["badge"].as_i64().unwrap();
    (text(&message["title"]), text(&message["body"]), badge, text(&named["title"]))
}

#[tokio::test]
async fn a_night_passes() {
    const WAITING: &str = "SELECT count(*) FROM push_intents WHERE state = 'waiting'";
    let (stand_in, database) = (stand_in().await, postgres::fresh_database().await);
    it_is(&database, "2027-01-10T22:30:00+09:00").await;
    let hub = TestHub::start_with(|config| {
        eager(config, &stand_in);
        config.store.url.clone_from(&database);
        config.push.quiet_from = "22:00".into();
    })
    .await;
    register(&hub, "ana", "phone", json!({ "tz": "Asia/Tokyo" })).await;
    register(&hub, "bo", "bos", json!({ "tz": "Europe/Berlin" })).await;
    let of_key = |title: &str| {
        let mut keyed = notify("ana", title, "normal");
        keyed["collapse"] = json!("k");
        keyed
    };
    let mut brief = notify("ana", "brief", "normal");
    brief["ttl"] = json!(3600);
    let normal = |user: &str, title: &str| notify(user, title, "normal");
    let sos = notify("ana", "SOS", "critical");
    let of_night = [normal("ana", "a"), of_key("k1"), brief, sos, normal("bo", "by day")];
    publish(&hub, &of_night).await;
    let mut loud = titles(&sent(&stand_in, 2).await);
    loud.sort();
    assert_eq!(loud, ["SOS", "by day"], "it is half past two where bo is");

    // Later in the night: nothing of before comes, and what is new waits with it for the end of the same night.
    it_is(&database, "2027-01-11T06:59:00+09:00").await;
    publish(&hub, &[normal("ana", "b"), of_key("k2")]).await;
    let until_seven =
        "SELECT count(*) FROM push_intents WHERE state = 'waiting' AND not_before = 1799618400000
        AND reason = 'quiet hours'";
    eventually("all wait until seven", || async { number(&hub, until_seven).await == 5 }).await;
    assert_eq!(stand_in.sent().len(), 2);

    it_is(&database, "2027-01-11T07:00:00+09:00").await;
    let morning = sent(&stand_in, 4).await.split_off(2);
    settled(&hub).await;
    assert_eq!((stand_in.sent().len(), number(&hub, WAITING).await), (4, 0));
    let mut pushes = [shown(&hub, &morning[0]).await, shown(&hub, &morning[1]).await];
    pushes.sort();
    let two =
        |latest: &str| ("2 new notifications".to_owned(), latest.to_owned(), 6, latest.to_owned());
    assert_eq!(pushes, [two("b"), two("k2")], "what has a key is told with its own");
    assert_ne!(morning[0].message["collapseId"], morning[1].message["collapseId"]);
    let expired = "SELECT count(*) FROM push_intents WHERE state = 'expired'";
    assert_eq!(number(&hub, expired).await, 1, "what ended in the night is in the inbox only");

    publish(&hub, &[normal("ana", "of the day")]).await;
    assert_eq!(titles(&sent(&stand_in, 5).await)[4], "of the day", "and waits for nobody");
    hub.stop().await;
}
