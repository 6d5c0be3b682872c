//! The stand-in for Expo as somebody uses it who runs it by hand: told over HTTP how to behave, and asked
//! what it saw.

use serde_json::{Value, json};

use super::{answer, expo};

#[tokio::test]
async fn it_is_scripted_and_asked_over_http() {
    let stand_in = super::stand_in().await;
    let http = reqwest::Client::new();
    let post = async |path: &str, body: &Value| {
        answer(http.post(format!("{}{path}", stand_in.url())).json(body)).await
    };
    let get = async |path: &str| answer(http.get(format!("{}{path}", stand_in.url()))).await.1;
    let send = async |token: &str| {
        let message = json!({ "to": token, "title": "t" });
        post("/--/api/v2/push/send", &json!([message])).await
    };
    let script = json!({
        "tickets": { expo("dead"): "DeviceNotRegistered" },
        "receipts": { expo("big"): "MessageTooBig", expo("lost"): "missing" },
        "receipt_delay": 1,
        "next": [{ "do": "status", "status": 429, "retry_after": 7 }, { "do": "errors_with_ok" }],
    });
    assert_eq!(post("/stand-in/script", &script).await.0, 200);
    let slower = http.post(format!("{}/--/api/v2/push/send", stand_in.url())).json(&json!([]));
    let slower = slower.send().await.unwrap();
    assert_eq!(
        (slower.status().as_u16(), &slower.headers()["retry-after"]),
        (429, &"7".parse().unwrap())
    );
    let (status, text) = send(&expo("fine")).await;
    assert_eq!((status, &text["errors"][0]["code"]), (200, &json!("TOO_MANY_REQUESTS")));

    let mut tickets = Vec::new();
    for name in ["fine", "big", "lost"] {
        let (status, text) = send(&expo(name)).await;
        assert_eq!(
            (status, &text["data"]["status"]),
            (200, &json!("ok")),
            "one is no list: {text}"
        );
        tickets.push(text["data"]["id"].clone());
    }
    let (_, dead) = send(&expo("dead")).await;
    assert_eq!(dead["data"]["details"]["error"], "DeviceNotRegistered");
    let ask = json!({ "ids": tickets });
    assert_eq!(post("/--/api/v2/push/getReceipts", &ask).await.1["data"], json!({}), "not yet");
    let (_, receipts) = post("/--/api/v2/push/getReceipts", &ask).await;
    let of = |n: usize| &receipts["data"][tickets[n].as_str().unwrap()];
    assert_eq!((of(0), of(2)), (&json!({ "status": "ok" }), &Value::Null));
    assert_eq!(of(1)["details"]["error"], "MessageTooBig");

    let messages = get("/stand-in/messages").await;
    let to: Vec<_> = messages.as_array().unwrap().iter().map(|sent| sent["to"].clone()).collect();
    assert_eq!(to, ["fine", "big", "lost"].map(expo));
    let log = get("/stand-in/log").await;
    assert_eq!((&log["accepted"], &log["receipts_asked"]), (&json!(3), &json!(6)), "{log}");

    // A script is whole: what it does not name is as it was at first. One that cannot be is refused.
    assert_eq!(post("/stand-in/script", &json!({ "down": true })).await.0, 200);
    assert_eq!(send(&expo("dead")).await.0, 503);
    assert_eq!(post("/stand-in/script", &json!({ "dwon": false })).await.0, 422);
    assert_eq!(post("/stand-in/script", &json!({ "next": [{ "do": "sing" }] })).await.0, 422);
    assert_eq!(send(&expo("fine")).await.0, 503, "and changes nothing");
    assert_eq!(post("/stand-in/reset", &Value::Null).await.0, 200);
    assert_eq!(send(&expo("dead")).await.1["data"]["status"], "ok");
    assert_eq!(get("/stand-in/log").await["requests"], 1);
}
