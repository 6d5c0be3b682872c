//! Conflicts as users meet them: shown on every device, decided once, listed, explained.

use serde_json::{Value, json};

use super::{fields, small};
use crate::support::client::Client;
use crate::support::hub::ADMIN_TOKEN;
use crate::support::schema::{Hubs, op};

on_both_engines!(
    a_conflict_is_shown_on_every_device_and_resolved_once,
    a_decision_on_what_has_moved_is_asked_for_again,
    conflicts_are_listed_by_filter_and_page,
    a_field_is_explained,
    many_large_conflicts_come_in_pages,
    a_backend_overrules_what_waits_for_its_user,
);

/// Ana's phone creates a form and Bo changes it; Ana's edit of the version before is parked.
async fn parked(hubs: &Hubs, id: &str) -> (Value, u64) {
    let of = ("form", id);
    let name = |step: &str| format!("{id}-{step}");
    let create =
        op(&name("create"), "create", of, &json!({ "fields": { "title": "one", "n": 1 } }));
    let created = hubs.write(0, "ana", "phone", &[create]).await.remove(0);
    let base = created["version"].as_u64().unwrap();
    let edit = json!({ "base": base, "fields": { "title": "bo's" } });
    let edited = hubs.write(1, "bo", "desk", &[op(&name("edit"), "update", of, &edit)]).await;
    let late = json!({ "base": base, "fields": { "title": "ana's", "n": 2 } });
    let late = op(&name("late"), "update", of, &late);
    let verdict = hubs.write(0, "ana", "phone", &[late]).await.remove(0);
    assert_eq!((&verdict["outcome"], &verdict["code"]), (&json!("conflict"), &json!("fields")));
    assert_eq!(verdict["current"]["fields"], json!({ "title": "bo's", "n": 1 }));
    (verdict["conflict"].clone(), edited[0]["version"].as_u64().unwrap())
}

fn resolve(op_id: &str, id: &str, conflict: &Value, version: u64, choice: &Value) -> Value {
    let mut op = op(op_id, "resolve", ("form", id), choice);
    op["conflict"] = conflict.clone();
    op["expected_version"] = json!(version);
    op
}

/// The next `conflict` frame about a conflict.
async fn frame(device: &mut Client, conflict: &Value, state: &str) -> Value {
    let fits = |frame: &Value| {
        frame["type"] == "conflict"
            && frame["conflict"]["id"] == *conflict
            && frame["conflict"]["state"] == state
    };
    device.find(&format!("a conflict that is {state}"), fits).await["conflict"].clone()
}

async fn a_conflict_is_shown_on_every_device_and_resolved_once(hubs: Hubs) {
    let mut devices = [hubs.device(0, "ana", "phone").await, hubs.device(1, "ana", "tablet").await];
    let mut stranger = hubs.device(1, "bo", "desk").await;
    let (conflict, version) = parked(&hubs, "f1").await;
    for device in &mut devices {
        let shown = frame(device, &conflict, "open").await;
        assert_eq!(shown["server_version"], version);
        assert_eq!(shown["entity"], json!({ "type": "form", "id": "f1" }));
        let title = shown["fields"].as_array().unwrap().iter().find(|f| f["name"] == "title");
        let title = title.unwrap();
        assert_eq!((&title["client"], &title["server"]), (&json!("ana's"), &json!("bo's")));
        assert_eq!(title["conflict"], true);
    }
    let decide = |op_id: &str| {
        resolve(op_id, "f1", &conflict, version, &json!({ "choose": { "title": "client" } }))
    };
    let theirs = hubs.write(0, "bo", "desk", &[decide("theirs")]).await;
    assert_eq!(theirs[0]["code"], "not_found", "a conflict is its user's");
    // On the other device, and on the other hub, than the operation came from.
    let decided = devices[1].write("p", json!([decide("decided")])).await.remove(0);
    assert_eq!(decided["outcome"], "applied", "{decided}");
    for device in &mut devices {
        let shown = frame(device, &conflict, "resolved").await;
        assert_eq!(shown["resolved_by"], "decided");
    }
    assert_eq!(fields(&hubs, "form", "f1").await, json!({ "title": "ana's", "n": 2 }));
    let again = hubs.write(0, "ana", "phone", &[decide("again"), decide("decided")]).await;
    assert_eq!((&again[0]["code"], &again[1]), (&json!("not_open"), &decided));
    assert!(stranger.settle().await.iter().all(|frame| frame["type"] != "conflict"));
    hubs.stop().await;
}

async fn a_decision_on_what_has_moved_is_asked_for_again(hubs: Hubs) {
    let mut tablet = hubs.device(1, "ana", "tablet").await;
    let (conflict, version) = parked(&hubs, "f1").await;
    let third = json!({ "base": version, "fields": { "title": "bo again" } });
    let moved = hubs.write(0, "bo", "desk", &[op("third", "update", ("form", "f1"), &third)]).await;
    let now = moved[0]["version"].as_u64().unwrap();
    let stale = resolve("stale", "f1", &conflict, version, &json!({ "choose": "client" }));
    let verdict = hubs.write(0, "ana", "phone", &[stale]).await.remove(0);
    assert_eq!((&verdict["outcome"], &verdict["code"]), (&json!("conflict"), &json!("moved")));
    assert_eq!(verdict["current"]["fields"]["title"], "bo again");
    let fresh =
        tablet.find("the conflict as it is now", |f| f["conflict"]["server_version"] == now).await;
    assert_eq!(fresh["conflict"]["state"], "open");
    let own = json!({ "choose": "server", "fields": { "title": "both" } });
    let verdict =
        hubs.write(1, "ana", "tablet", &[resolve("own", "f1", &conflict, now, &own)]).await;
    assert_eq!(verdict[0]["outcome"], "applied");
    assert_eq!(fields(&hubs, "form", "f1").await, json!({ "title": "both", "n": 1 }));
    hubs.stop().await;
}

async fn conflicts_are_listed_by_filter_and_page(hubs: Hubs) {
    let mut made = Vec::new();
    for id in ["f1", "f2", "f3"] {
        made.push(parked(&hubs, id).await);
    }
    let (first, version) = &made[0];
    let close = resolve("close", "f1", first, *version, &json!({ "choose": "server" }));
    assert_eq!(hubs.write(0, "ana", "phone", &[close]).await[0]["outcome"], "noop");
    let list = async |number, user: &str, query: &str| {
        let (status, page) =
            hubs.get(number, user, &format!("/v1/projects/p/conflicts?{query}")).await;
        assert_eq!(status, 200, "{page}");
        let ids = page["conflicts"].as_array().unwrap().iter().map(|c| c["id"].clone()).collect();
        (ids, page)
    };
    let ids: Vec<Value> = made.iter().rev().map(|(id, _)| id.clone()).collect();
    assert_eq!(list(0, "ana", "").await.0, ids);
    assert_eq!(list(1, "bo", "").await.0, [] as [Value; 0]);
    assert_eq!(list(0, "ana", "state=open").await.0, ids[..2]);
    assert_eq!(list(1, "ana", "state=resolved").await.0, ids[2..]);
    assert_eq!(list(0, "ana", "outcome=conflict").await.0, ids[..2]);
    assert_eq!(list(0, "ana", "outcome=noop").await.0, ids[2..]);
    assert_eq!(list(0, "ana", "type=form&id=f2").await.0, ids[1..2]);
    assert_eq!(list(0, "ana", "type=task").await.0, [] as [Value; 0]);
    let mut walked = Vec::new();
    let mut query = "limit=1".to_owned();
    loop {
        let (ids, page) = list(1, "ana", &query).await;
        walked.extend::<Vec<Value>>(ids);
        let Some(next) = page["next"].as_str() else { break };
        query = format!("limit=1&before={next}");
    }
    assert_eq!(walked, ids);
    // An open one shows the server's side as it is now, not as it was.
    let later = json!({ "base": made[2].1, "fields": { "title": "later" } });
    let moved = hubs.write(0, "bo", "desk", &[op("later", "update", ("form", "f3"), &later)]).await;
    let (_, page) = list(1, "ana", "id=f3&type=form").await;
    let shown = &page["conflicts"][0];
    assert_eq!(shown["server_version"], moved[0]["version"]);
    let title = shown["fields"].as_array().unwrap().iter().find(|f| f["name"] == "title").unwrap();
    assert_eq!((&title["server"], &title["client"]), (&json!("later"), &json!("ana's")));
    let url = hubs.hub(1).http("/v1/admin/projects/p/conflicts?user=ana&state=open");
    let all = reqwest::Client::new().get(url).bearer_auth(ADMIN_TOKEN).send().await.unwrap();
    assert_eq!(all.json::<Value>().await.unwrap()["conflicts"].as_array().unwrap().len(), 2);
    hubs.stop().await;
}

async fn a_field_is_explained(hubs: Hubs) {
    let task = ("task", "t1");
    let create = op("b1", "create", task, &json!({ "fields": { "title": "one", "n": 1 } }));
    let edit = op("b2", "update", task, &json!({ "base": 1, "fields": { "title": "two" } }));
    hubs.write(0, "bo", "desk", &[create, edit]).await;
    let late = op("a1", "update", task, &json!({ "base": 1, "fields": { "title": "three" } }));
    let lost = hubs.write(0, "ana", "phone", &[late]).await.remove(0);
    let path = "/v1/projects/p/entities/task/t1/explain";
    let (status, story) = hubs.get(1, "ana", &format!("{path}?field=title")).await;
    assert_eq!((status, story["fields"].as_array().unwrap().len()), (200, 1), "{story}");
    let title = &story["fields"][0];
    assert_eq!((&title["field"], &title["value"]), (&json!("title"), &json!("two")));
    let set = &title["set"];
    assert_eq!((&set["seq"], &set["user"], &set["op_id"]), (&json!(2), &json!("bo"), &json!("b2")));
    assert_eq!(set["base"], 1);
    let met = &story["conflicts"][0];
    assert_eq!(met["fields"].as_array().unwrap().len(), 1, "of the field that is asked for");
    assert_eq!((&met["id"], &met["op_id"]), (&lost["conflict"], &json!("a1")));
    // An installation is named to its own user alone.
    assert_eq!((&set["client"], &met["client"]), (&Value::Null, &json!("phone")));
    let (_, bos) = hubs.get(1, "bo", &format!("{path}?field=title")).await;
    let title = &bos["fields"][0];
    assert_eq!(
        (&title["set"]["client"], &bos["conflicts"][0]["client"]),
        (&json!("desk"), &json!(""))
    );
    let (_, other) = hubs.get(1, "bo", &format!("{path}?field=n")).await;
    assert_eq!(other["conflicts"], json!([]), "none is about it");
    let (_, all) = hubs.get(0, "ana", path).await;
    let names: Vec<_> = all["fields"].as_array().unwrap().iter().map(|f| &f["field"]).collect();
    assert_eq!(names.len(), 2);
    assert_eq!(hubs.get(0, "ana", &format!("{path}?field=none")).await.0, 404);

    let delete = op("b3", "delete", task, &json!({ "base": 2 }));
    hubs.write(0, "bo", "desk", &[delete]).await;
    for path in [path.to_owned(), format!("{path}?field=title")] {
        let (status, story) = hubs.get(1, "ana", &path).await;
        assert_eq!((status, &story["deleted"], &story["fields"]), (200, &json!(true), &json!([])));
        let by = &story["deletion"];
        assert_eq!(
            (&by["op_id"], &by["user"], &by["base"]),
            (&json!("b3"), &json!("bo"), &json!(2))
        );
        assert_eq!(story["conflicts"][0]["op_id"], "a1");
    }
    hubs.stop().await;
}

async fn many_large_conflicts_come_in_pages(hubs: Hubs) {
    const LARGEST: usize = 64 << 10;
    let values = |text: &str| {
        let fields =
            ["a", "b", "c", "d", "e"].map(|name| (name.to_owned(), json!(text.repeat(100))));
        json!({ "base": 1, "fields": serde_json::Map::from_iter(fields) })
    };
    let stock = ("stock", "s1");
    let create = op("create", "create", stock, &json!({ "fields": { "a": "" } }));
    hubs.write(0, "bo", "desk", &[create, op("first", "update", stock, &values("f"))]).await;
    let mut lost = Vec::new();
    for request in 0..5 {
        let late = |n: usize| op(&format!("{request}-{n}"), "update", stock, &values("l"));
        let late: Vec<_> = (0..20).map(late).collect();
        let verdicts = hubs.write(0, "ana", "phone", &late).await;
        lost.extend(verdicts.into_iter().map(|verdict| verdict["conflict"].clone()));
    }
    lost.reverse();
    for path in ["conflicts?", "entities/stock/s1/explain?"] {
        let (mut told, mut before) = (Vec::new(), String::new());
        loop {
            let (status, page) =
                hubs.get(1, "ana", &format!("/v1/projects/p/{path}{before}")).await;
            assert_eq!(status, 200, "{page}");
            assert!(page.to_string().len() < 2 * LARGEST, "{} bytes", page.to_string().len());
            told.extend(page["conflicts"].as_array().unwrap().iter().map(|one| one["id"].clone()));
            let Some(next) = page["next"].as_str() else { break };
            before = format!("before={next}");
        }
        assert_eq!(told, lost);
    }
    hubs.stop().await;
}

async fn a_backend_overrules_what_waits_for_its_user(hubs: Hubs) {
    let (conflict, _) = parked(&hubs, "f1").await;
    for (id, title) in [("e1", "erp's"), ("e2", "erp's again")] {
        let event = json!({
            "id": id, "project": "p", "kind": "upsert", "entity": { "type": "form", "id": "f1" },
            "fields": { "title": title }, "source": "erp",
        });
        let url = hubs.hub(1).http("/v1/publish");
        let publish = reqwest::Client::new().post(url).bearer_auth(ADMIN_TOKEN);
        assert_eq!(publish.body(event.to_string()).send().await.unwrap().status(), 200);
    }
    let (_, page) = hubs.get(0, "ana", "/v1/projects/p/conflicts").await;
    let entries = page["conflicts"].as_array().unwrap();
    assert_eq!(entries.len(), 2, "one trace, however often it writes: {page}");
    let overruled = entries.iter().find(|entry| entry["kind"] == "overruled").expect("a trace");
    assert_eq!(overruled["op_id"], "f1-late");
    assert_eq!(overruled["fields"][0]["server"], "erp's");
    let open = entries.iter().find(|entry| entry["id"] == conflict).unwrap();
    assert_eq!(open["state"], "open", "its user can still decide, on what is there now");
    assert_eq!(base_of_title(&hubs).await, Value::Null, "a backend's event is made on none");
    let version = open["server_version"].as_u64().unwrap();
    let decide = resolve("late", "f1", &conflict, version, &json!({ "choose": "client" }));
    assert_eq!(hubs.write(1, "ana", "phone", &[decide]).await[0]["outcome"], "applied");
    assert_eq!(fields(&hubs, "form", "f1").await, json!({ "title": "ana's", "n": 2 }));
    assert_eq!(base_of_title(&hubs).await, version, "she decided on what the backend had left");
    hubs.stop().await;
}

/// On the ground of which version the title of the form was set.
async fn base_of_title(hubs: &Hubs) -> Value {
    let path = "/v1/projects/p/entities/form/f1/explain?field=title";
    hubs.get(0, "ana", path).await.1["fields"][0]["set"]["base"].clone()
}
