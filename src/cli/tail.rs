//! `syncline tail`: a client anyone has. Connects, joins rooms, prints what comes.

use std::io::{ErrorKind, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use futures_util::{SinkExt, StreamExt};
use reqwest::Url;
use serde_json::json;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::client::Request;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::http::header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::Tail;
use crate::config::redact;
use crate::protocol::SUBPROTOCOL;

/// How long connecting may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Prints frames to `out` until the hub or the user ends it.
pub(super) async fn tail(asked: &Tail, out: &mut impl Write) -> anyhow::Result<ExitCode> {
    let connecting = tokio_tungstenite::connect_async(request(asked)?);
    let (mut socket, _) = match tokio::time::timeout(PATIENCE, connecting).await {
        Ok(Ok(connected)) => connected,
        Ok(Err(Error::Http(answer))) => anyhow::bail!(refused(&answer)),
        Ok(Err(error)) => anyhow::bail!("cannot connect to {}: {error}", redact::url(&asked.url)),
        Err(_) => anyhow::bail!("no answer within {} s", PATIENCE.as_secs()),
    };
    for frame in opening(asked) {
        socket.send(Message::text(frame.to_string())).await?;
    }
    loop {
        let message = tokio::select! {
            message = socket.next() => message,
            _ = tokio::signal::ctrl_c() => {
                socket.close(None).await.ok();
                return Ok(ExitCode::SUCCESS);
            }
        };
        match message.transpose()? {
            Some(Message::Text(frame)) => match writeln!(out, "{}", frame.as_str()) {
                // `tail | head` has seen enough.
                Err(error) if error.kind() == ErrorKind::BrokenPipe => break,
                result => result?,
            },
            Some(Message::Close(frame)) => {
                eprintln!("{}", closed(frame.as_ref()));
                return Ok(ExitCode::FAILURE);
            }
            None => {
                eprintln!("the connection was lost");
                return Ok(ExitCode::FAILURE);
            }
            Some(_) => {}
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn request(asked: &Tail) -> anyhow::Result<Request> {
    let mut url = Url::parse(&asked.url).context("--url is not a URL")?;
    let scheme = match url.scheme() {
        "ws" | "http" => "ws",
        "wss" | "https" => "wss",
        other => anyhow::bail!("--url begins with ws:// or wss://, not {other}://"),
    };
    if url.path() == "/" {
        url.set_path("/v1/ws");
    }
    let url = format!("{scheme}{}", &url.as_str()[url.scheme().len()..]);
    let mut request = url.into_client_request().context("--url is not a URL")?;
    let mut bearer = HeaderValue::from_str(&format!("Bearer {}", asked.token.trim()))
        .map_err(|_| anyhow::anyhow!("the token holds characters no token has"))?;
    bearer.set_sensitive(true);
    request.headers_mut().insert(AUTHORIZATION, bearer);
    request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
    Ok(request)
}

fn opening(asked: &Tail) -> [serde_json::Value; 2] {
    let room = |room| match asked.since {
        Some(since) => json!({ "room": room, "since": since }),
        None => json!({ "room": room }),
    };
    let rooms: Vec<_> = asked.rooms.iter().map(room).collect();
    [
        json!({ "type": "connect", "id": "connect", "client": uuid::Uuid::new_v4(), "active": false }),
        json!({ "type": "subscribe", "id": "subscribe", "rooms": rooms }),
    ]
}

fn refused(answer: &tokio_tungstenite::tungstenite::http::Response<Option<Vec<u8>>>) -> String {
    let body = answer.body().as_deref().map(String::from_utf8_lossy).unwrap_or_default();
    format!("the hub refused the connection: {} {}", answer.status(), body.trim())
}

/// What a close says, and what its range tells a client to do.
fn closed(frame: Option<&CloseFrame>) -> String {
    let Some(CloseFrame { code, reason }) = frame else {
        return "the hub closed the connection".to_owned();
    };
    let code = u16::from(*code);
    let advice = match code {
        4000..4100 => ": connect again, with --since to resume",
        4100..4200 => ": get a new token",
        4200..4300 => ": try again later",
        4408 => ": try again",
        4400..4500 => ": do not try again as it is",
        _ => "",
    };
    format!("the hub closed the connection: {code} {reason}{advice}")
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;
    use tokio_tungstenite::tungstenite::handshake::server;
    use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

    use super::*;

    fn asked(url: String) -> Tail {
        let rooms = vec!["project:demo".parse().unwrap(), "user:ana".parse().unwrap()];
        Tail { url, token: "a.b.c".into(), rooms, since: Some(7) }
    }

    #[tokio::test]
    async fn frames_are_printed_until_the_hub_closes() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}", listener.local_addr().unwrap());
        #[expect(clippy::result_large_err, reason = "the shape tungstenite asks for")]
        let hub = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let shake = |request: &server::Request, mut answer: server::Response| {
                assert_eq!(request.uri().path(), "/v1/ws");
                assert_eq!(request.headers()[AUTHORIZATION], "Bearer a.b.c");
                let protocol = request.headers()[SEC_WEBSOCKET_PROTOCOL].clone();
                answer.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, protocol);
                Ok(answer)
            };
            let mut socket = tokio_tungstenite::accept_hdr_async(stream, shake).await.unwrap();
            let mut opening = Vec::new();
            for _ in 0..2 {
                let frame = socket.next().await.unwrap().unwrap();
                opening.push(crate::protocol::client::decode(frame.to_text().unwrap()).unwrap());
            }
            for frame in ["{\"n\":1}", "{\"n\":2}"] {
                socket.send(Message::text(frame)).await.unwrap();
            }
            let frame = CloseFrame { code: CloseCode::from(4100), reason: "token_expired".into() };
            socket.close(Some(frame)).await.unwrap();
            opening
        });
        let mut out = Vec::new();
        let code = tail(&asked(url), &mut out).await.unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "{\"n\":1}\n{\"n\":2}\n");
        assert_eq!(code, ExitCode::FAILURE);
        let opening = format!("{:?}", hub.await.unwrap());
        assert!(opening.contains("project:demo") && opening.contains("Seq(7)"), "{opening}");
    }

    #[test]
    fn a_url_may_leave_out_the_path_and_say_http() {
        for (given, used) in [
            ("ws://h:1", "ws://h:1/v1/ws"),
            ("https://h", "wss://h/v1/ws"),
            ("wss://h/hub/v1/ws", "wss://h/hub/v1/ws"),
        ] {
            assert_eq!(request(&asked(given.into())).unwrap().uri(), used);
        }
        assert!(request(&asked("ftp://h".into())).is_err());
        assert!(request(&asked("h:1".into())).is_err());
        let debug = format!("{:?}", request(&asked("ws://h".into())).unwrap());
        assert!(!debug.contains("a.b.c"), "{debug}");
    }

    #[test]
    fn a_close_says_what_to_do() {
        let frame = |code| CloseFrame { code: CloseCode::from(code), reason: "why".into() };
        assert!(closed(Some(&frame(4101))).ends_with("4101 why: get a new token"));
        assert!(closed(Some(&frame(1000))).ends_with("1000 why"));
        assert_eq!(closed(None), "the hub closed the connection");
    }
}
