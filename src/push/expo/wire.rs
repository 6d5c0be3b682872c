//! What goes over the line to the Expo push service, and how its answers are understood. Pure.

use std::collections::HashMap;
use std::time::Duration;

use reqwest::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::protocol::notify::Lane;
use crate::push::provider::{Envelope, Failure, FailureKind, Fate, Message, Receipt, RequestError};
use crate::templates::cut;

/// Bytes of a message that the device's platform still takes, with room for what the service adds.
const PAYLOAD: usize = 3800;
/// Characters of an error's text that are kept.
const REASON: usize = 200;

/// One message, as the service reads it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Push<'m> {
    to: &'m str,
    title: String,
    body: String,
    data: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    sound: Option<&'static str>,
    ttl: u64,
    priority: &'static str,
    interruption_level: &'static str,
    badge: i64,
    channel_id: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    category_id: Option<&'m str>,
    collapse_id: &'m str,
    tag: &'m str,
}

impl<'m> Push<'m> {
    /// The message of an envelope. What a person reads gives way to what the app needs: the body is cut, then the
    /// title. None if there is too much even without them.
    pub(super) fn new(envelope: &'m Envelope) -> Option<Self> {
        let Message { lane, .. } = envelope.message;
        let message = &envelope.message;
        let mut data = Map::new();
        data.insert("nid".into(), json!(message.nid));
        data.insert("project".into(), json!(message.project));
        data.insert("seq".into(), json!(message.seq));
        data.insert("report".into(), json!(message.report));
        data.extend(message.link.as_ref().map(|link| ("link".into(), json!(link))));
        data.extend(message.data.as_ref().map(|own| ("data".into(), json!(own))));
        let mut push = Self {
            to: &envelope.token,
            title: message.title.clone(),
            body: message.body.clone(),
            data: Value::Object(data),
            sound: (lane != Lane::Normal).then_some("default"),
            ttl: envelope.ttl.as_secs().max(1),
            priority: if lane == Lane::Normal { "default" } else { "high" },
            interruption_level: if lane == Lane::Critical { "time-sensitive" } else { "active" },
            badge: message.badge,
            channel_id: lane.as_str(),
            category_id: message.category.as_deref(),
            collapse_id: &message.collapse,
            tag: &message.collapse,
        };
        if push.fits() {
            return Some(push);
        }
        let body = longest(&message.body, |body| {
            push.body = body;
            push.fits()
        });
        if let Some(body) = body {
            return Some(Self { body, ..push });
        }
        push.body = String::new();
        let title = longest(&message.title, |title| {
            push.title = title;
            push.fits()
        });
        title.map(|title| Self { title, ..push })
    }

    fn fits(&self) -> bool {
        serde_json::to_vec(self).is_ok_and(|text| text.len() <= PAYLOAD)
    }
}

/// The most of a text that fits, by whole characters; none if not even its first does.
fn longest(text: &str, mut fits: impl FnMut(String) -> bool) -> Option<String> {
    let (mut low, mut high) = (0, text.chars().count());
    let first = |count| cut(text.to_owned(), count);
    while low < high {
        let middle = (low + high).div_ceil(2);
        if fits(first(middle)) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    (low > 0).then(|| first(low))
}

/// What becomes of a message that is too long whatever is cut of its words: the service's own word for it.
pub(super) fn too_big() -> Fate {
    Fate::Refused(failure(Some("MessageTooBig")))
}

/// Whether this can be a token of the service.
///
/// # Errors
/// What one looks like.
pub fn check_token(token: &str) -> Result<(), &'static str> {
    const FORM: &str = "an Expo token looks like `ExponentPushToken[…]`";
    if token.len() > 256 || token.chars().any(char::is_control) {
        return Err(FORM);
    }
    let named = ["ExponentPushToken[", "ExpoPushToken["]
        .iter()
        .any(|start| token.strip_prefix(start).is_some_and(|rest| rest.ends_with(']')));
    if named || (token.len() == 36 && uuid::Uuid::try_parse(token).is_ok()) {
        Ok(())
    } else {
        Err(FORM)
    }
}

#[derive(Debug, Deserialize)]
struct Answer {
    data: Option<Value>,
    errors: Option<Vec<Problem>>,
    /// The other form of an error: a word instead of a list.
    error: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Problem {
    #[serde(default)]
    code: String,
    #[serde(default)]
    details: Value,
    #[serde(default, rename = "isTransient")]
    transient: bool,
}

#[derive(Debug, Deserialize)]
struct Ticket {
    status: String,
    id: Option<String>,
    details: Option<Details>,
}

#[derive(Debug, Deserialize)]
struct Details {
    error: Option<String>,
}

/// What is wrong with a request for good, whatever the status beside it.
const REFUSALS: [&str; 3] =
    ["VALIDATION_ERROR", "PUSH_TOO_MANY_NOTIFICATIONS", "PUSH_TOO_MANY_RECEIPTS"];

/// The answer's data, or what is wrong with the request.
fn data(status: StatusCode, wait: Option<Duration>, text: &str) -> Result<Value, RequestError> {
    let answer: Option<Answer> = serde_json::from_str(text).ok();
    let broken = |what: String| RequestError::Broken { what, ambiguous: true, wait };
    if status == StatusCode::TOO_MANY_REQUESTS {
        return Err(RequestError::Slower(wait));
    }
    if status.is_server_error() {
        return Err(broken(format!("status {}", status.as_u16())));
    }
    let Some(answer) = answer else {
        return Err(match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                RequestError::Credentials(format!("status {}", status.as_u16()))
            }
            status if status.is_success() => broken("the answer is not JSON".into()),
            // A proxy on the way that knows no such page is a fault of the way, not of a message.
            status if matches!(status.as_u16(), 404 | 408 | 425) || status.is_redirection() => {
                RequestError::Broken {
                    what: format!("status {}", status.as_u16()),
                    ambiguous: false,
                    wait,
                }
            }
            status => RequestError::Invalid(format!("status {}", status.as_u16())),
        });
    };
    let problem = answer.errors.as_ref().and_then(|errors| errors.first());
    let code = problem.map(|p| p.code.as_str()).or(answer.error.as_deref()).unwrap_or_default();
    if status == StatusCode::UNAUTHORIZED
        || status == StatusCode::FORBIDDEN
        || matches!(code, "UNAUTHORIZED" | "invalid_token")
    {
        return Err(RequestError::Credentials(short(code)));
    }
    match (code, answer.data) {
        ("TOO_MANY_REQUESTS", _) => Err(RequestError::Slower(wait)),
        ("PUSH_TOO_MANY_EXPERIENCE_IDS", _) => {
            let groups = problem.and_then(|p| serde_json::from_value(p.details.clone()).ok());
            Err(groups.map_or_else(|| RequestError::Invalid(short(code)), RequestError::Mixed))
        }
        ("", Some(data)) if status.is_success() => Ok(data),
        ("", _) if status.is_success() => Err(broken("the answer has no data".into())),
        // A request that was fine, and an error of the service's own.
        (code, _)
            if problem.is_some_and(|p| p.transient)
                || (status.is_success() && !REFUSALS.contains(&code)) =>
        {
            Err(broken(short(code)))
        }
        (code, _) => Err(RequestError::Invalid(if code.is_empty() {
            format!("status {}", status.as_u16())
        } else {
            short(code)
        })),
    }
}

fn short(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(REASON).collect()
}

/// Reads tickets: one for each message, in their order; for a single message perhaps not in a list.
pub(super) fn tickets(
    status: StatusCode,
    wait: Option<Duration>,
    text: &str,
    count: usize,
) -> Result<Vec<Fate>, RequestError> {
    let tickets = match data(status, wait, text)? {
        Value::Array(tickets) => tickets,
        ticket @ Value::Object(_) => vec![ticket],
        _ => Vec::new(),
    };
    // Without one ticket each nobody can tell whose is whose.
    if tickets.len() != count {
        let what = format!("{} tickets for {count} messages", tickets.len());
        return Err(RequestError::Broken { what, ambiguous: true, wait: None });
    }
    let fate = |ticket: Value| match serde_json::from_value::<Ticket>(ticket) {
        Ok(Ticket { status, id: Some(id), .. }) if status == "ok" => Fate::Accepted(Some(id)),
        Ok(Ticket { details, .. }) => {
            Fate::Refused(failure(details.and_then(|details| details.error).as_deref()))
        }
        Err(_) => Fate::Refused(failure(None)),
    };
    Ok(tickets.into_iter().map(fate).collect())
}

/// Reads receipts, by ticket.
pub(super) fn receipts(
    status: StatusCode,
    wait: Option<Duration>,
    text: &str,
) -> Result<HashMap<String, Receipt>, RequestError> {
    let Value::Object(receipts) = data(status, wait, text)? else {
        let what = "the receipts are not an object".into();
        return Err(RequestError::Broken { what, ambiguous: false, wait: None });
    };
    let read = |(id, receipt): (String, Value)| {
        let receipt: Ticket = serde_json::from_value(receipt).ok()?;
        let error = receipt.details.and_then(|details| details.error);
        let read = match receipt.status.as_str() {
            "ok" => Receipt::Handed,
            _ => Receipt::Failed(failure(error.as_deref())),
        };
        Some((id, read))
    };
    Ok(receipts.into_iter().filter_map(read).collect())
}

/// The set of errors is open: what is not known is final, or it would be sent for ever.
fn failure(code: Option<&str>) -> Failure {
    let code = code.unwrap_or("unknown");
    let kind = match code {
        "DeviceNotRegistered" => FailureKind::DeadToken,
        "MessageRateExceeded" | "ExpoError" | "ProviderError" => FailureKind::Transient,
        "InvalidCredentials" | "MismatchSenderId" => FailureKind::Credentials,
        _ => FailureKind::Permanent,
    };
    Failure { kind, code: short(code) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn envelope(body: &str) -> Envelope {
        let message = Message {
            nid: "n1".into(),
            user: "bo".into(),
            project: "p".into(),
            seq: 7,
            lane: Lane::Critical,
            title: "SOS".into(),
            body: body.into(),
            badge: 3,
            link: Some("app://sos/1".into()),
            data: None,
            category: Some("sos".into()),
            collapse: "c1".into(),
            report: "5.abc".into(),
        };
        let token = "ExponentPushToken[x]".into();
        Envelope { token, ttl: Duration::from_secs(60), message }
    }

    #[test]
    fn a_message_is_what_the_service_reads() {
        let envelope = envelope("Help");
        assert_eq!(
            serde_json::to_value(Push::new(&envelope).unwrap()).unwrap(),
            json!({
                "to": "ExponentPushToken[x]", "title": "SOS", "body": "Help", "sound": "default",
                "ttl": 60, "priority": "high", "interruptionLevel": "time-sensitive", "badge": 3,
                "channelId": "critical", "categoryId": "sos", "collapseId": "c1", "tag": "c1",
                "data": {"nid": "n1", "project": "p", "seq": 7, "report": "5.abc", "link": "app://sos/1"},
            })
        );
    }

    #[test]
    fn a_long_body_is_cut_to_what_a_push_carries() {
        let envelope = envelope(&"ü".repeat(2000));
        let push = Push::new(&envelope).unwrap();
        let bytes = serde_json::to_vec(&push).unwrap().len();
        assert!((PAYLOAD - 2..=PAYLOAD).contains(&bytes), "as much as there is room for: {bytes}");
        assert!(push.body.ends_with('…') && push.body.chars().count() > 1000);
    }

    #[test]
    fn words_give_way_to_data_and_data_is_never_cut() {
        let with = |bytes: usize| {
            let mut envelope = envelope(&"b".repeat(100));
            envelope.message.title = "t".repeat(200);
            let data = Map::from_iter([("x".to_owned(), json!("d".repeat(bytes)))]);
            envelope.message.data = Some(data);
            let push = Push::new(&envelope)?;
            assert!(push.fits());
            assert_eq!(push.data["data"]["x"].as_str().unwrap().len(), bytes);
            assert_eq!(push.data["link"], "app://sos/1");
            Some((push.title.chars().count(), push.body.chars().count()))
        };
        assert_eq!(with(2048), Some((200, 100)));
        let room = (2048..PAYLOAD).take_while(|bytes| with(*bytes) == Some((200, 100))).last();
        let room = room.unwrap();
        assert_eq!(
            with(room + 10),
            Some((200, 88)),
            "the body first: an ellipsis takes three bytes"
        );
        let (title, body) = with(room + 150).unwrap();
        assert!(title < 200 && body == 0, "then the title: {title}");
        assert_eq!(with(PAYLOAD), None);
    }

    #[test]
    fn tokens_have_a_form() {
        for token in
            ["ExponentPushToken[abc]", "ExpoPushToken[abc]", "f47ac10b-58cc-4372-a567-0e02b2c3d479"]
        {
            assert_eq!(check_token(token), Ok(()), "{token}");
        }
        for token in ["", "abc", "ExponentPushToken[abc", "ExpoPushToken[\n]"] {
            assert!(check_token(token).is_err(), "{token}");
        }
        assert!(check_token(&format!("ExpoPushToken[{}]", "a".repeat(300))).is_err());
    }

    fn read(status: u16, text: &str, count: usize) -> Result<Vec<Fate>, RequestError> {
        tickets(StatusCode::from_u16(status).unwrap(), None, text, count)
    }

    fn refused(kind: FailureKind, code: &str) -> Fate {
        Fate::Refused(Failure { kind, code: code.into() })
    }

    #[test]
    fn tickets_come_in_order_or_alone() {
        let text = r#"{"data":[{"status":"ok","id":"1"},
            {"status":"error","message":"x","details":{"error":"DeviceNotRegistered","expoPushToken":"t"}},
            {"status":"error","message":"x","details":{"error":"MessageRateExceeded"}},
            {"status":"error","message":"x","details":{"error":"SomethingNew"}},
            {"status":"error","message":"x"}]}"#;
        assert_eq!(
            read(200, text, 5).unwrap(),
            [
                Fate::Accepted(Some("1".into())),
                refused(FailureKind::DeadToken, "DeviceNotRegistered"),
                refused(FailureKind::Transient, "MessageRateExceeded"),
                refused(FailureKind::Permanent, "SomethingNew"),
                refused(FailureKind::Permanent, "unknown"),
            ]
        );
        let alone = r#"{"data":{"status":"ok","id":"1"}}"#;
        assert_eq!(read(200, alone, 1).unwrap(), [Fate::Accepted(Some("1".into()))]);
    }

    #[test]
    fn every_way_a_request_can_go_wrong_is_told_apart() {
        let broken =
            |r: Result<_, _>| matches!(r, Err(RequestError::Broken { ambiguous: true, .. }));
        assert!(broken(read(200, r#"{"data":[{"status":"ok","id":"1"}]}"#, 2)), "one is missing");
        assert!(broken(read(200, "<html>", 1)) && broken(read(504, "<html>", 1)));
        assert!(broken(read(500, r#"{"errors":[{"code":"INTERNAL_SERVER_ERROR"}]}"#, 1)));
        assert_eq!(read(429, "", 1), Err(RequestError::Slower(None)));
        let twice = r#"{"errors":[{"code":"TOO_MANY_REQUESTS","message":"m","isTransient":true}]}"#;
        assert_eq!(read(200, twice, 1), Err(RequestError::Slower(None)));
        let transient =
            r#"{"errors":[{"code":"INTERNAL_SERVER_ERROR","message":"m","isTransient":true}]}"#;
        assert!(broken(read(200, transient, 1)) && broken(read(400, transient, 1)));
        let unknown = r#"{"errors":[{"code":"SOMETHING_NEW","message":"m"}]}"#;
        assert!(broken(read(200, unknown, 1)), "nothing is wrong with the request");
        assert_eq!(read(400, unknown, 1), Err(RequestError::Invalid("SOMETHING_NEW".into())));
        let wrong = |r: Result<_, _>| matches!(r, Err(RequestError::Credentials(_)));
        assert!(wrong(read(401, r#"{"error":"invalid_token"}"#, 1)));
        assert!(wrong(read(403, r#"{"errors":[{"code":"UNAUTHORIZED","message":"m"}]}"#, 1)));
        let mixed = r#"{"errors":[{"code":"PUSH_TOO_MANY_EXPERIENCE_IDS","message":"m",
            "details":{"@a/x":["t1"],"@b/y":["t2","t3"]}}]}"#;
        match read(400, mixed, 3) {
            Err(RequestError::Mixed(groups)) => assert_eq!(groups["@b/y"], ["t2", "t3"]),
            other => panic!("{other:?}"),
        }
        for code in ["VALIDATION_ERROR", "PUSH_TOO_MANY_NOTIFICATIONS"] {
            let text = format!(r#"{{"errors":[{{"code":"{code}","message":"m"}}]}}"#);
            for status in [200, 400] {
                assert_eq!(read(status, &text, 1), Err(RequestError::Invalid(code.into())));
            }
        }
    }

    #[test]
    fn a_receipt_that_is_missing_is_not_ready() {
        let text = r#"{"data":{"1":{"status":"ok"},
            "2":{"status":"error","message":"m","details":{"error":"InvalidCredentials"}}}}"#;
        let receipts = receipts(StatusCode::OK, None, text).unwrap();
        assert_eq!(receipts.get("1"), Some(&Receipt::Handed));
        assert!(matches!(&receipts["2"], Receipt::Failed(f) if f.kind == FailureKind::Credentials));
        assert_eq!(receipts.get("3"), None);
    }
}
