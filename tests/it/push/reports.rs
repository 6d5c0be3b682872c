//! What became of pushes: receipts, what devices report, numbers, and the command line.

use std::time::Duration;

use serde_json::{Value, json};
use syncline::push::stand_in::Behaviour;
use syncline::store::push::NoRetry;
use tokio::process::Command;

use super::{
    admin, expo, hub_and_stand_in, notify, number, post, publish, register, sent, settled, stand_in,
};
use crate::support::client::Client;
use crate::support::eventually;
use crate::support::hub::{TestHub, token};

#[tokio::test]
async fn receipts_reports_and_numbers_tell_one_story() {
    let (hub, stand_in) = hub_and_stand_in(|_| {}).await;
    for user in ["fine", "big", "gone"] {
        register(&hub, user, user, json!({})).await;
    }
    stand_in.script(|script| {
        script.receipt_delay = 2;
        script.tickets.insert(expo("big"), "MessageTooBig".into());
        script.receipts.insert(expo("gone"), "missing".into());
    });
    publish(&hub, &["fine", "big", "gone"].map(|user| notify(user, "t", "high"))).await;
    eventually("every end", || async {
        let ended =
            "SELECT count(*) FROM push_deliveries WHERE state IN ('handed', 'failed', 'missing')";
        super::change(&hub, "UPDATE push_deliveries SET next_at = 0 WHERE state = 'accepted'")
            .await;
        number(&hub, ended).await == 3
    })
    .await;
    let push = stand_in.sent().into_iter().find(|sent| sent.to == expo("fine")).unwrap();
    let data = &push.message["data"];
    let (nid, report) = (data["nid"].as_str().unwrap(), data["report"].as_str().unwrap());

    let said = async |path: &str, nid: &str, report: &str| {
        let body = json!({ "nid": nid, "report": report });
        let request = reqwest::Client::new().post(hub.http(path)).body(body.to_string());
        request.send().await.unwrap().status().as_u16()
    };
    let forged = report.replace(|c: char| c.is_ascii_hexdigit() && c != '0', "0");
    for (nid, report) in [(nid, forged.as_str()), (nid, "1.00"), ("another", report)] {
        assert_eq!(said("/v1/push/opened", nid, report).await, 403);
    }
    for _ in 0..2 {
        assert_eq!(said("/v1/push/received", nid, report).await, 204);
        assert_eq!(said("/v1/push/opened", nid, report).await, 204);
    }
    let (status, stats) = admin(&hub, "/v1/push/stats?project=p", None).await;
    assert_eq!(status, 200, "{stats}");
    let line = stats.as_array().unwrap().iter().find(|line| line["provider"] == "expo").unwrap();
    let numbers =
        ["sent", "handed", "delivered", "opened", "missing"].map(|key| line[key].as_i64());
    assert_eq!(numbers, [2, 1, 1, 1, 1].map(Some), "{line}");
    assert_eq!((&line["failed"], &line["lane"]), (&json!({ "MessageTooBig": 1 }), &json!("high")));
    assert!((line["success"].as_f64().unwrap() - 1.0 / 3.0).abs() < 1e-9);
    assert!(line["latency_ms"]["p99"].is_i64(), "{line}");
    for (event, count) in [("sent", 2.0), ("opened", 1.0), ("failed", 1.0)] {
        let name = format!(
            "syncline_push_events_total{{event=\"{event}\",lane=\"high\",provider=\"expo\"}}"
        );
        assert_eq!(hub.metric(&name), count);
    }
    assert_eq!(hub.metric("syncline_push_high_seconds_count"), 2.0);
    let (status, _) = post(&hub, "fine", "/v1/push/stats", &Value::Null).await;
    assert_eq!(status, 405);
    assert_eq!(super::get(&hub, "fine", "/v1/push/stats").await.0, 401, "for operators");
    hub.stop().await;
}

#[tokio::test]
async fn a_report_that_is_faster_than_the_providers_answer_counts() {
    let (hub, stand_in) = hub_and_stand_in(|_| {}).await;
    register(&hub, "ana", "phone", json!({})).await;
    // As often as it is tried before it is put off.
    stand_in.script(|script| script.next.extend((0..20).map(|_| Behaviour::AcceptThen504)));
    publish(&hub, &[notify("ana", "t", "high")]).await;
    let unknown = "SELECT count(*) FROM push_deliveries
        WHERE state = 'retry' AND ambiguous = 1 AND accepted_at IS NULL";
    // Nobody tries it again meanwhile.
    let put_off = "UPDATE push_deliveries SET next_at = next_at + 600000 WHERE state = 'retry'";
    eventually("accepted, for all the hub knows not", || async {
        super::change(&hub, put_off).await == 1
    })
    .await;
    assert_eq!(number(&hub, unknown).await, 1);
    let data = stand_in.sent().remove(0).message["data"].clone();
    let report = json!({ "nid": data["nid"], "report": data["report"] }).to_string();
    let opened = reqwest::Client::new().post(hub.http("/v1/push/opened")).body(report);
    assert_eq!(opened.send().await.unwrap().status(), 204);
    let (_, stats) = admin(&hub, "/v1/push/stats?project=p", None).await;
    let numbers = ["delivered", "opened"].map(|key| stats[0][key].as_i64());
    assert_eq!(numbers, [1, 1].map(Some), "{stats}");
    hub.stop().await;
}

/// What a command prints.
async fn run(hub: &TestHub, arguments: &[&str]) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_syncline"))
        .arg("--config")
        .arg(hub.dir.path().join("syncline.toml"))
        .args(arguments)
        .env_clear()
        .output()
        .await
        .unwrap();
    let text =
        String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
    (output.status.success(), text)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_tries_and_mends_pushes_from_the_command_line() {
    let stand_in = stand_in().await;
    let hub = TestHub::start_with(|config| {
        super::eager(config, &stand_in);
        config.push.templates = concat!(env!("CARGO_MANIFEST_DIR"), "/config/templates").into();
    })
    .await;
    let text = toml::to_string(&hub.hub().config).unwrap();
    std::fs::write(hub.dir.path().join("syncline.toml"), text).unwrap();
    let device = register(&hub, "ana", "phone", json!({})).await["id"].to_string();

    let (ok, text) = run(&hub, &["push", "tokens", "--user", "ana"]).await;
    assert!(ok && text.contains("client=phone") && text.contains("active"), "{text}");
    assert!(!text.contains("ExponentPushToken"), "{text}");
    let (ok, text) = run(&hub, &["push", "test", "--device", &device, "--dry-run"]).await;
    assert!(ok && text.contains("nothing was sent"), "{text}");
    assert_eq!(stand_in.sent(), []);
    let (ok, text) = run(&hub, &["push", "test", "--device", &device, "--wait-receipt"]).await;
    assert!(ok && text.contains("handed over"), "{text}");
    let (ok, text) = run(&hub, &["push", "test", "--token", "nonsense"]).await;
    assert!(!ok && text.contains("looks like"), "{text}");
    let (ok, text) = run(&hub, &["push", "test", "--token", &expo("bare"), "--wait-receipt"]).await;
    assert!(ok && text.contains("accepted") && text.contains("handed over"), "{text}");
    assert_eq!(stand_in.sent()[1].to, expo("bare"));
    let (ok, text) = run(&hub, &["push", "test", "--user", "ana", "--dry-run"]).await;
    assert!(ok && text.contains("client=phone") && text.contains("nothing was sent"), "{text}");
    assert_eq!(number(&hub, "SELECT count(*) FROM push_intents").await, 0, "nor armed");
    let (ok, text) = run(&hub, &["push", "test", "--user", "bo", "--wait-receipt"]).await;
    assert!(!ok && text.contains("not sent: done (no device)"), "{text}");
    let arm = ["push", "test", "--user", "ana", "--project", "p", "--wait-receipt"];
    let (ok, text) = run(&hub, &arm).await;
    assert!(ok && text.contains("armed") && text.contains("expo: handed"), "{text}");
    sent(&stand_in, 3).await;
    settled(&hub).await;

    stand_in.script(|script| script.down = true);
    publish(&hub, &[notify("ana", "t", "high")]).await;
    eventually("it waits", || async {
        number(&hub, "SELECT count(*) FROM push_deliveries WHERE state = 'retry'").await == 1
    })
    .await;
    let (ok, text) = run(&hub, &["push", "queue"]).await;
    assert!(ok && text.contains("delivery high expo retry: 1"), "{text}");
    stand_in.script(|script| script.down = false);
    let (ok, text) = run(&hub, &["push", "retry"]).await;
    assert!(ok && text.contains("breakers closed"), "{text}");
    sent(&stand_in, 4).await;
    settled(&hub).await;
    let (ok, text) = run(&hub, &["push", "stats"]).await;
    assert!(ok && text.contains("p high expo: sent 2"), "{text}");
    let vars = r#"{"title":"Leck","risk":"hoch"}"#;
    let preview = ["push", "preview", "--template", "alert", "--locale", "de", "--vars", vars];
    let (ok, text) = run(&hub, &preview).await;
    assert!(ok && text.contains("Risiko: hoch"), "{text}");
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_failed_is_sent_again_if_an_operator_says_so() {
    let (hub, stand_in) = hub_and_stand_in(|_| {}).await;
    let text = toml::to_string(&hub.hub().config).unwrap();
    std::fs::write(hub.dir.path().join("syncline.toml"), text).unwrap();
    for user in ["ticket", "receipt"] {
        register(&hub, user, user, json!({})).await;
    }
    let error = "DeveloperError".to_owned();
    stand_in.script(|script| {
        script.tickets.insert(expo("ticket"), error.clone());
        script.receipts.insert(expo("receipt"), error);
    });
    publish(&hub, &["ticket", "receipt"].map(|user| notify(user, "again", "high"))).await;
    let failed = "SELECT count(*) FROM push_deliveries WHERE state = 'failed'";
    eventually("both failed", || async { number(&hub, failed).await == 2 }).await;
    stand_in.script(|script| {
        script.tickets.clear();
        script.receipts.clear();
    });
    for id in ["1", "2"] {
        let (ok, text) = run(&hub, &["push", "retry", "--id", id]).await;
        assert!(ok && text.contains("is tried again"), "{text}");
    }
    let sent = sent(&stand_in, 3).await;
    assert!(sent.iter().all(|sent| sent.message["title"] == "again"), "{sent:?}");
    let handed = "SELECT count(*) FROM push_deliveries WHERE state = 'handed'";
    eventually("both got there", || async { number(&hub, handed).await == 2 }).await;
    let (_, stats) = admin(&hub, "/v1/push/stats?project=p", None).await;
    assert_eq!((&stats[0]["failed"], &stats[0]["success"]), (&json!({}), &json!(1.0)), "{stats}");
    assert_eq!((&stats[0]["sent"], &stats[0]["handed"]), (&json!(2), &json!(2)), "{stats}");

    let (ok, text) = run(&hub, &["push", "retry", "--id", "1"]).await;
    assert!(!ok && text.contains("its state is `handed`"), "{text}");
    let store = &hub.hub().store;
    assert_eq!(store.retry_failed(9).await.unwrap(), Err(NoRetry::Unknown));
    super::change(
        &hub,
        "UPDATE push_deliveries SET state = 'failed', payload = 'x', expires_at = 0",
    )
    .await;
    assert_eq!(store.retry_failed(1).await.unwrap(), Err(NoRetry::TooLate));
    super::change(&hub, "UPDATE push_deliveries SET payload = '', expires_at = 4000000000000")
        .await;
    assert_eq!(store.retry_failed(1).await.unwrap(), Err(NoRetry::Forgotten));
    hub.stop().await;
}

#[tokio::test]
async fn what_a_receipt_has_sent_again_is_counted_once() {
    let (hub, stand_in) = hub_and_stand_in(|_| {}).await;
    register(&hub, "ana", "phone", json!({})).await;
    stand_in.script(|script| {
        script.receipts.insert(expo("phone"), "ProviderError".into());
    });
    publish(&hub, &[notify("ana", "t", "high")]).await;
    let again = "SELECT count(*) FROM push_deliveries WHERE state = 'retry'";
    eventually("its receipt has it sent again", || async { number(&hub, again).await == 1 }).await;
    stand_in.script(|script| script.receipts.clear());
    sent(&stand_in, 2).await;
    let handed = "SELECT count(*) FROM push_deliveries WHERE state = 'handed'";
    eventually("it got there", || async { number(&hub, handed).await == 1 }).await;
    let (_, stats) = admin(&hub, "/v1/push/stats?project=p", None).await;
    let numbers = ["sent", "handed", "missing"].map(|key| stats[0][key].as_i64());
    assert_eq!(numbers, [1, 1, 0].map(Some), "{stats}");
    assert_eq!(stats[0]["success"], 1.0);
    let name = r#"syncline_push_events_total{event="sent",lane="high",provider="expo"}"#;
    assert_eq!(hub.metric(name), 1.0);
    assert_eq!(hub.metric("syncline_push_high_seconds_count"), 1.0);
    hub.stop().await;
}

#[tokio::test]
async fn what_was_not_sent_is_counted_once_under_its_reason() {
    let (hub, stand_in) = hub_and_stand_in(|config| {
        config.push.grace_normal = Duration::from_secs(600);
        config.push.grace_critical = Duration::ZERO;
    })
    .await;
    let device = register(&hub, "ana", "phone", json!({})).await["id"].clone();
    let bearer = token("ana", &json!({ "p": "editor" }));
    let mut ana = Client::connect(&hub.ws(), &bearer).await;
    eventually("the store knows", || async {
        number(&hub, "SELECT count(*) FROM live_users").await > 0
    })
    .await;
    let canceled = async |reason: &str| {
        let (_, stats) = admin(&hub, "/v1/push/stats?project=p", None).await;
        let lines = stats.as_array().unwrap().iter();
        lines.filter_map(|line| line["canceled"][reason].as_i64()).sum::<i64>()
    };
    let seq = publish(&hub, &[notify("ana", "a", "normal")]).await.remove(0)["seq"].clone();
    for _ in 0..2 {
        ana.ask(json!({ "type": "ack", "project": "p", "seq": seq })).await;
        eventually("counted", || async { canceled("acknowledged").await == 1 }).await;
    }
    publish(&hub, &[notify("ana", "b", "normal")]).await;
    for _ in 0..2 {
        post(&hub, "ana", "/v1/notifications/read-all", &json!({})).await;
        assert_eq!(canceled("read").await, 1);
    }
    let mut later = notify("ana", "c", "normal");
    (later["send_at"], later["collapse"]) = (json!(4_000_000_000_000_i64), json!("k"));
    publish(&hub, &[later]).await;
    for _ in 0..2 {
        let body = json!({ "project": "p", "collapse": "k" });
        admin(&hub, "/v1/push/unschedule", Some(&body)).await;
        assert_eq!(canceled("unscheduled").await, 1);
    }
    stand_in.script(|script| script.down = true);
    publish(&hub, &[notify("ana", "d", "critical")]).await;
    // Nobody is just sending it when the device goes.
    let put_off = "UPDATE push_deliveries SET next_at = next_at + 600000 WHERE state = 'retry'";
    eventually("it met the provider", || async { super::change(&hub, put_off).await == 1 }).await;
    let path = hub.http(&format!("/v1/push/devices/{device}"));
    let delete = reqwest::Client::new().delete(path).bearer_auth(bearer).send();
    assert_eq!(delete.await.unwrap().status(), 204);
    assert_eq!(canceled("removed").await, 1);
    let all = "SELECT CAST(sum(count) AS BIGINT) FROM push_stats WHERE event = 'canceled'";
    assert_eq!(number(&hub, all).await, 4);
    ana.close().await;
    hub.stop().await;
}
