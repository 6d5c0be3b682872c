//! What a user may ask for: how often, how urgent, and how many it reaches.

use reqwest::StatusCode;
use serde_json::{Value, json};

use super::{change, hub_and_stand_in, number, publish};
use crate::support::client::{Client, create};
use crate::support::hub::{TestHub, token};

/// A test of a user with this role: the status and what it says.
async fn test_push(hub: &TestHub, role: &str, lane: &str) -> (StatusCode, Value) {
    let request = reqwest::Client::new()
        .post(hub.http("/v1/notifications/test"))
        .bearer_auth(token("ana", &json!({ "p": role })))
        .body(json!({ "project": "p", "lane": lane }).to_string());
    let answer = request.send().await.unwrap();
    (answer.status(), answer.json().await.unwrap())
}

#[tokio::test]
async fn a_test_costs_an_operation_and_is_no_more_urgent_than_one() {
    let (hub, _stand_in) = hub_and_stand_in(|config| {
        config.limits.user_ops_per_second = 1;
    })
    .await;
    let (status, answer) = test_push(&hub, "viewer", "critical").await;
    assert_eq!((status, &answer["code"]), (StatusCode::FORBIDDEN, &json!("forbidden")));
    assert_eq!(test_push(&hub, "viewer", "high").await.0, StatusCode::OK);
    assert_eq!(test_push(&hub, "editor", "critical").await.0, StatusCode::OK);
    let mut answers = Vec::new();
    for _ in 0..20 {
        answers.push(test_push(&hub, "editor", "critical").await.0);
    }
    assert!(answers.contains(&StatusCode::TOO_MANY_REQUESTS), "{answers:?}");
    hub.stop().await;
}

#[tokio::test]
async fn a_client_notifies_so_many_members_and_a_backend_all_of_them() {
    let (hub, _stand_in) = hub_and_stand_in(|config| {
        config.limits.notify_members = 2;
    })
    .await;
    change(
        &hub,
        "INSERT INTO memberships (project, user_id, role, revision, updated_at) VALUES
        ('p', 'bo', 'editor', 1, 0), ('p', 'cy', 'editor', 2, 0), ('p', 'di', 'viewer', 3, 0),
        ('p', 'gone', NULL, 4, 0), ('q', 'zoe', 'viewer', 5, 0)",
    )
    .await;
    let told = "SELECT count(*) FROM notifications";
    let mut ana = Client::connect(&hub.ws(), &token("ana", &json!({ "p": "editor" }))).await;
    for (id, whom, fits) in [
        ("all", json!({ "members": true }), false),
        ("roles", json!({ "roles": ["editor", "viewer"] }), false),
        ("some", json!({ "roles": ["editor"] }), true),
        ("again", json!({ "roles": ["editor"], "users": ["di"] }), true),
    ] {
        let mut op = create(id, id, &json!({}));
        op["notify"] = whom;
        op["notify"]["title"] = json!(id);
        let before = number(&hub, told).await;
        let verdict = ana.write("p", json!([op])).await.remove(0);
        if fits {
            assert_eq!(verdict["outcome"], "applied", "{verdict}");
            continue;
        }
        assert_eq!(
            (&verdict["outcome"], &verdict["code"]),
            (&json!("rejected"), &json!("limit_exceeded"))
        );
        assert!(
            verdict["message"].as_str().unwrap().contains("`notify_members` is 2"),
            "{verdict}"
        );
        assert_eq!(number(&hub, told).await, before, "nobody is told of what did not happen");
    }
    let before = number(&hub, told).await;
    publish(&hub, &[json!({ "members": true, "title": "from a backend" })]).await;
    assert_eq!(number(&hub, told).await, before + 3);
    ana.close().await;
    hub.stop().await;
}
