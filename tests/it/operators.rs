//! What operators see: health, readiness, and metrics under the names the dashboards use.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use crate::support::eventually;
use crate::support::hub::TestHub;
use crate::support::postgres;
use crate::support::proxy::Proxy;

async fn get(hub: &TestHub, path: &str) -> (u16, Value) {
    let answer = reqwest::get(hub.operators(path)).await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

#[tokio::test]
async fn an_instance_without_its_store_is_alive_but_not_ready() {
    let database = postgres::fresh_database().await;
    let (server, path) = database.rsplit_once('/').unwrap();
    let port = server.rsplit_once(':').unwrap().1.parse().unwrap();
    let proxy = Proxy::start(port).await;
    let url = format!("postgres://postgres@127.0.0.1:{}/{path}", proxy.port());
    let hub = TestHub::start_with(|config| config.store.url = url).await;
    let (status, body) = get(&hub, "/health/ready").await;
    assert_eq!((status, &body["status"]), (200, &"ready".into()), "{body}");

    proxy.refuse();
    proxy.cut_all();
    eventually("not ready", || async { get(&hub, "/health/ready").await.0 == 503 }).await;
    let (_, body) = get(&hub, "/health/ready").await;
    assert_eq!((&body["status"], &body["store"]), (&"not_ready".into(), &"unavailable".into()));
    assert_eq!(get(&hub, "/health/live").await.0, 200);

    proxy.forward();
    eventually("ready again", || async { get(&hub, "/health/ready").await.0 == 200 }).await;
    hub.stop().await;
}

#[tokio::test]
async fn a_draining_instance_is_alive_but_not_ready() {
    let hub = TestHub::start().await;
    assert_eq!(get(&hub, "/health/ready").await.0, 200);
    hub.hub().draining.cancel();
    let (status, body) = get(&hub, "/health/ready").await;
    assert_eq!((status, &body["draining"]), (503, &true.into()));
    assert_eq!(get(&hub, "/health/live").await.0, 200);
    hub.stop().await;
}

#[tokio::test]
async fn the_operators_endpoints_are_not_on_the_public_listener() {
    let hub = TestHub::start().await;
    for path in ["/metrics", "/health/live", "/health/ready"] {
        assert_eq!(reqwest::get(hub.http(path)).await.unwrap().status(), 404, "{path}");
    }
    hub.stop().await;
}

/// The names of the hub's and of the process's metrics in a text.
fn names(text: &str) -> BTreeSet<String> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = text.split(|c: char| !word(c));
    let named = words.filter(|w| w.starts_with("syncline_") || w.starts_with("process_"));
    named.map(str::to_owned).collect()
}

/// Texts of the expressions in a dashboard.
fn expressions(json: &Value, found: &mut String) {
    match json {
        Value::Object(fields) => {
            for (key, value) in fields {
                match value {
                    Value::String(text) if matches!(&**key, "expr" | "query" | "definition") => {
                        found.push_str(text);
                        found.push('\n');
                    }
                    value => expressions(value, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| expressions(item, found)),
        _ => {}
    }
}

/// What a selector asks of a hub's own labels: `metric{label="value"}`, its alternatives one by one.
fn asked_labels(text: &str) -> BTreeSet<(String, String)> {
    let mut asked = BTreeSet::new();
    for (at, _) in text.match_indices("syncline_") {
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let (name, rest) = text[at..].split_at(text[at..].find(|c| !word(c)).unwrap_or_default());
        let Some((matchers, _)) = rest.strip_prefix('{').and_then(|rest| rest.split_once('}'))
        else {
            continue;
        };
        for matcher in matchers.split(',') {
            let (label, values) = matcher.split_once('=').unwrap();
            let label = label.trim().trim_end_matches('!');
            // What Prometheus adds, and the bounds of buckets.
            if !["instance", "job", "le"].contains(&label) {
                let values = values.trim_start_matches('~').trim_matches('"').split('|');
                let asked_of = |value| (name.to_owned(), format!("{label}=\"{value}\""));
                asked.extend(values.map(asked_of));
            }
        }
    }
    asked
}

fn deployed(path: &str) -> String {
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy");
    std::fs::read_to_string(deploy.join(path)).unwrap()
}

#[tokio::test]
async fn every_metric_and_label_that_dashboards_and_alerts_use_exists() {
    let alerts = deployed("prometheus/alerts.yml"); // prose names metrics too, and rightly so
    let mut used = alerts + &deployed("prometheus/alerts_test.yml");
    let dashboard = serde_json::from_str(&deployed("grafana/dashboards/syncline.json")).unwrap();
    expressions(&dashboard, &mut used);
    let (used, asked) = (names(&used), asked_labels(&used));
    assert!(used.len() > 15 && asked.len() > 5, "not understood: {used:?} {asked:?}");

    let hub = TestHub::start().await;
    reqwest::get(hub.http("/v1/none")).await.unwrap();
    let answer = reqwest::get(hub.operators("/metrics")).await.unwrap();
    assert!(answer.headers()["content-type"].to_str().unwrap().contains("openmetrics"));
    let text = answer.text().await.unwrap();
    let exposed = names(&text);
    let missing: Vec<_> = used.difference(&exposed).collect();
    assert!(missing.is_empty(), "not exposed: {missing:?}");
    for (metric, label) in asked {
        let mut series = text.lines().filter_map(|line| line.strip_prefix(&*metric));
        let is_there = series.any(|rest| rest.starts_with('{') && rest.contains(&label));
        assert!(is_there, "{metric} never has {label}");
    }
    assert!(text.contains("syncline_bus_link_up 1"), "a local bus is up");
    hub.stop().await;
}

#[test]
fn every_alarm_has_a_case_in_which_it_rings() {
    let (alerts, cases) =
        (deployed("prometheus/alerts.yml"), deployed("prometheus/alerts_test.yml"));
    let named = alerts.lines().filter_map(|line| line.trim().strip_prefix("- alert: "));
    let named: Vec<_> = named.collect();
    assert!(named.len() > 15, "not understood: {named:?}");
    for alert in named {
        assert!(cases.contains(&format!("alertname=\"{alert}\"")), "{alert} never rings in a test");
    }
}
