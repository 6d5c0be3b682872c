//! Cache policies: seeded, read by role, written by administrators, refused when they make no sense.

use reqwest::{Method, Response};
use serde_json::{Value, json};

use crate::support::hub::{ADMIN_TOKEN, TestHub, token};

const PATH: &str = "/v1/cache-policies";

async fn send(hub: &TestHub, method: Method, path: &str, token: &str, body: &Value) -> Response {
    let request = reqwest::Client::new().request(method, hub.http(path)).bearer_auth(token);
    request.body(body.to_string()).send().await.unwrap()
}

async fn admin(hub: &TestHub, method: Method, entity_type: &str, body: &Value) -> u16 {
    let path = format!("/v1/admin/cache-policies/{entity_type}");
    send(hub, method, &path, ADMIN_TOKEN, body).await.status().as_u16()
}

/// What a role of project `p` is told, by type.
async fn policies(hub: &TestHub, role: &str) -> serde_json::Map<String, Value> {
    let token = token("ana", &json!({ "p": role }));
    let answer = send(hub, Method::GET, PATH, &token, &Value::Null).await;
    assert_eq!(answer.status(), 200);
    let answer: Value = answer.json().await.unwrap();
    let policies = answer["policies"].as_array().unwrap().iter();
    policies.map(|policy| (policy["type"].as_str().unwrap().to_owned(), policy.clone())).collect()
}

#[tokio::test]
async fn each_role_is_told_the_policies_of_what_it_may_read() {
    let hub = TestHub::start_with(|config| {
        config.roles.0.get_mut("viewer").unwrap().read = vec!["task".into(), "photo".into()];
    })
    .await;
    let all = policies(&hub, "editor").await;
    let short =
        |name: &str| (all[name]["strategy"].as_str().unwrap(), all[name]["ttl"].as_u64().unwrap());
    assert_eq!(all.len(), 5);
    assert_eq!(short("user"), ("CACHE_FIRST", 3600));
    assert_eq!(short("project"), ("STALE_WHILE_REVALIDATE", 1800));
    assert_eq!(short("attendance"), ("NETWORK_FIRST", 300));
    assert_eq!(short("task"), ("CACHE_FIRST", 900));
    assert_eq!(short("payroll"), ("NETWORK_FIRST", 60));
    let viewer = policies(&hub, "viewer").await;
    assert_eq!(viewer.keys().collect::<Vec<_>>(), ["task"]);

    let photo = json!({ "strategy": "CACHE_FIRST", "ttl": 60, "stale": 0, "max_bytes": 1000 });
    assert_eq!(admin(&hub, Method::PUT, "photo", &photo).await, 204);
    let mut told = photo.clone();
    told["type"] = json!("photo");
    assert_eq!(policies(&hub, "viewer").await["photo"], told);
    assert_eq!(admin(&hub, Method::DELETE, "photo", &Value::Null).await, 204);
    assert_eq!(admin(&hub, Method::DELETE, "photo", &Value::Null).await, 404);
    assert_eq!(policies(&hub, "viewer").await.len(), 1);
    hub.stop().await;
}

#[tokio::test]
async fn who_knows_the_policies_already_is_told_so_until_they_change() {
    let hub = TestHub::start().await;
    let token = token("ana", &json!({ "p": "editor" }));
    let ask = async |known: &str| {
        let request = reqwest::Client::new().get(hub.http(PATH)).bearer_auth(&token);
        let answer = request.header("if-none-match", known).send().await.unwrap();
        let tag = answer.headers()["etag"].to_str().unwrap().to_owned();
        assert_eq!(answer.headers()["cache-control"], "private, no-cache");
        (answer.status().as_u16(), tag, answer.bytes().await.unwrap().len())
    };
    let (status, tag, length) = ask("\"other\"").await;
    assert!(status == 200 && length > 100);
    for known in [&tag, &format!("W/{tag}"), &format!("\"a\", {tag}"), "*"] {
        assert_eq!(ask(known).await, (304, tag.clone(), 0), "{known}");
    }
    let policy = json!({ "strategy": "NETWORK_FIRST", "ttl": 7, "stale": 9, "max_bytes": 1 });
    assert_eq!(admin(&hub, Method::PUT, "task", &policy).await, 204);
    let (status, new, _) = ask(&tag).await;
    assert_eq!(status, 200);
    assert_ne!(new, tag);
    hub.stop().await;
}

#[tokio::test]
async fn what_makes_no_sense_is_refused() {
    let hub = TestHub::start().await;
    let good = json!({ "strategy": "CACHE_FIRST", "ttl": 60, "stale": 0, "max_bytes": 1000 });
    let year = 365 * 24 * 3600;
    for (field, value) in [
        ("strategy", json!("CACHE")),
        ("ttl", json!(0)),
        ("ttl", json!(-1)),
        ("ttl", json!(year + 1)),
        ("stale", json!(year + 1)),
        ("stale", Value::Null),
        ("max_bytes", json!(0)),
        ("max_bytes", json!(1u64 << 40)),
        ("more", json!(1)),
        ("strategy", json!("STALE_WHILE_REVALIDATE")),
    ] {
        let mut policy = good.clone();
        policy[field] = value;
        assert_eq!(admin(&hub, Method::PUT, "task", &policy).await, 400, "{policy}");
    }
    assert_eq!(admin(&hub, Method::PUT, "Task", &good).await, 400);
    let user = token("ana", &json!({ "p": "admin" }));
    for method in [Method::PUT, Method::DELETE] {
        let path = "/v1/admin/cache-policies/task";
        assert_eq!(send(&hub, method, path, &user, &good).await.status(), 401);
    }
    assert_eq!(send(&hub, Method::GET, PATH, "nonsense", &Value::Null).await.status(), 401);
    assert_eq!(policies(&hub, "editor").await["task"]["ttl"], 900);
    hub.stop().await;
}
