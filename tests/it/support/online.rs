//! A model client's life on real connections: now online, now not, its requests and answers lost with
//! whatever carries them.

use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use rand::seq::IndexedRandom;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::DEADLINE;
use super::client::{Client, End};
use super::crowd::PROJECT;
use super::device::Device;
use super::hub::token;

/// The `id` of a write; there is one at a time.
const WRITE: u64 = 1;

/// Why a connection is left.
struct Left;

/// Lives until it is over, and then until nothing is left to send or to decide.
pub(crate) async fn live(
    mut device: Device,
    urls: Arc<[String]>,
    over: CancellationToken,
) -> Device {
    let token = token(&device.user, &json!({ PROJECT: "editor" }));
    let mut given_up = None;
    while !(over.is_cancelled() && device.is_done()) {
        if over.is_cancelled() {
            let deadline = *given_up.get_or_insert_with(|| Instant::now() + 3 * DEADLINE);
            assert!(Instant::now() < deadline, "{} never comes to rest", device.client);
        } else {
            for _ in 0..device.random.random_range(0..4) {
                device.act(syncline::clock::now_ms());
            }
        }
        let url = urls.choose(&mut device.random).unwrap().clone();
        if let Ok(mut client) = Client::open(&url, Some(&token)).await {
            let mut session = Session { device: &mut device, client: &mut client, over: &over };
            let _left = session.run(&urls, &token).await;
        }
        let offline = device.random.random_range(0..if over.is_cancelled() { 50 } else { 400 });
        sleep(Duration::from_millis(offline)).await;
    }
    device
}

/// One connection of a device.
struct Session<'a> {
    device: &'a mut Device,
    client: &'a mut Client,
    over: &'a CancellationToken,
}

/// What is looked at in a frame before it is read as a whole.
#[derive(Deserialize)]
struct Head<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(borrow)]
    verdicts: Option<Vec<&'a RawValue>>,
    code: Option<&'a str>,
}

impl Session<'_> {
    async fn run(&mut self, urls: &[String], token: &str) -> Result<(), Left> {
        let hello = json!({ "type": "connect", "client": self.device.client });
        self.say(&hello).await?;
        if self.device.random.random_ratio(1, 4) {
            self.delta(urls, token).await;
        }
        let room = json!({ "room": format!("project:{PROJECT}"), "since": self.device.cursor });
        self.say(&json!({ "type": "subscribe", "rooms": [room] })).await?;
        for _ in 0..self.device.random.random_range(1..8) {
            if !self.over.is_cancelled() && self.device.random.random() {
                self.device.act(syncline::clock::now_ms());
            }
            while self.over.is_cancelled() && self.device.decide() {}
            let ops = match self.device.random.random_ratio(1, 10) {
                true => self.device.old_batch(),
                false => self.device.batch(),
            };
            if ops.is_empty() {
                let pause = Duration::from_millis(self.device.random.random_range(5..100));
                self.listen(Instant::now() + pause).await?;
            } else {
                self.write(&ops, urls, token).await?;
            }
        }
        Ok(())
    }

    async fn say(&mut self, frame: &Value) -> Result<(), Left> {
        self.client.try_send(&frame.to_string()).await.map_err(|_| Left)
    }

    /// Sends a request, to one or to two instances at once, and waits for the answer, unless the
    /// connection is dropped first.
    async fn write(&mut self, ops: &[Value], urls: &[String], token: &str) -> Result<(), Left> {
        let sent_at = syncline::clock::now_ms() + self.device.skew;
        let write = json!({
            "type": "write", "id": WRITE, "project": PROJECT, "sent_at": sent_at, "ops": ops,
        });
        let twice = self.device.random.random_ratio(1, 6);
        let url = urls.choose(&mut self.device.random).unwrap();
        let body = json!({ "client": self.device.client, "sent_at": sent_at, "ops": ops });
        let other = twice.then(|| tokio::spawn(post(url.clone(), token.to_owned(), body)));
        self.say(&write).await?;
        if self.device.random.random_ratio(1, 8) {
            return Err(Left);
        }
        // Bytes that a silenced link has taken never come; a client gives up as well.
        let answer = timeout(DEADLINE, self.answer(ops)).await.unwrap_or(Err(Left));
        if let Some(other) = other
            && let Some(verdicts) = other.await.unwrap()
        {
            self.device.answered(ops, &verdicts);
        }
        answer
    }

    async fn answer(&mut self, ops: &[Value]) -> Result<(), Left> {
        loop {
            let text = self.frame().await?;
            let head: Head<'_> = serde_json::from_str(&text).unwrap();
            match (head.kind, head.verdicts, head.code) {
                ("written", Some(verdicts), _) => {
                    let texts: Vec<_> = verdicts.iter().map(|v| v.get().to_owned()).collect();
                    self.device.answered(ops, &texts);
                    return Ok(());
                }
                ("error", _, Some("unavailable" | "overloaded")) => return Err(Left),
                _ => self.take(&text)?,
            }
        }
    }

    async fn listen(&mut self, until: Instant) -> Result<(), Left> {
        while let Ok(text) = timeout_at(until, self.frame()).await {
            self.take(&text?)?;
        }
        Ok(())
    }

    async fn frame(&mut self) -> Result<String, Left> {
        self.client.read_text().await.map_err(|end| {
            if let End::Closed(code) = end {
                assert!((4000..4100).contains(&code), "closed with {code}");
            }
            Left
        })
    }

    fn take(&mut self, text: &str) -> Result<(), Left> {
        let frame: Value = serde_json::from_str(text).unwrap();
        match frame["type"].as_str().unwrap() {
            "change" => self.device.take_change(&frame),
            "subscribed" => {
                let room = &frame["rooms"][0];
                if room["error"]["code"] == "unavailable" {
                    return Err(Left);
                }
                assert_eq!(room["recovered"], true, "{frame}");
            }
            "goodbye" => return Err(Left),
            "connected" | "conflict" => {}
            _ => panic!("not a frame to expect: {frame}"),
        }
        Ok(())
    }

    /// Catches up over HTTP, from any instance; stays where it is if one does not answer.
    async fn delta(&mut self, urls: &[String], token: &str) {
        let (mut after, mut begun) = (self.device.cursor, String::new());
        loop {
            let url = urls.choose(&mut self.device.random).unwrap();
            let limit = self.device.random.random_range(5..50);
            let query = format!("changes?since={after}&limit={limit}{begun}");
            let request = reqwest::Client::new().get(http(url, &query)).bearer_auth(token);
            let answer = request.timeout(DEADLINE).send().await;
            let Some(page) = body(answer).await else { return };
            let page: Value = serde_json::from_str(&page).unwrap();
            assert!(page.get("resync").is_none(), "{page}");
            self.device.take_page(&page);
            after = page["next"].as_u64().unwrap();
            if page["more"] == false {
                return;
            }
            if let Some(from) = page["begun"].as_u64() {
                begun = format!("&begun={from}");
            }
        }
    }
}

/// The same operations on another way to another instance; the verdicts as they were sent.
async fn post(url: String, token: String, request: Value) -> Option<Vec<String>> {
    #[derive(Deserialize)]
    struct Answer<'a> {
        #[serde(borrow)]
        verdicts: Vec<&'a RawValue>,
    }
    let sending = reqwest::Client::new().post(http(&url, "ops")).bearer_auth(token);
    let answer = body(sending.body(request.to_string()).timeout(DEADLINE).send().await).await?;
    let Answer { verdicts } = serde_json::from_str(&answer).unwrap();
    Some(verdicts.into_iter().map(|verdict| verdict.get().to_owned()).collect())
}

async fn body(answer: Result<reqwest::Response, reqwest::Error>) -> Option<String> {
    let answer = answer.ok()?;
    let status = answer.status().as_u16();
    assert!(matches!(status, 200 | 429 | 503), "status {status}");
    if status != 200 {
        return None;
    }
    answer.text().await.ok()
}

fn http(ws: &str, path: &str) -> String {
    ws.replace("ws://", "http://").replace("/v1/ws", &format!("/v1/projects/{PROJECT}/{path}"))
}
