//! The Expo push service: tickets now, receipts later. `wire` is what goes over the line.

use std::collections::HashMap;
use std::io::Write;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::future::BoxFuture;
use jiff::Timestamp;
use jiff::fmt::rfc2822;
use reqwest::{StatusCode, header};
use serde::Serialize;

use super::provider::{Envelope, Fate, Manners, PushProvider, Receipt, RequestError};
use crate::config;
use crate::config::push::millis;
use crate::store::push::GateSettings;

mod wire;

pub use wire::check_token;

/// Its name.
pub const NAME: &str = "expo";
/// Recipients in one request; the service's limit.
const BATCH: u32 = 100;
/// Receipts in one request; the service allows 1000.
const RECEIPTS: u32 = 300;
/// Bytes above which a body is compressed.
const GZIP_ABOVE: usize = 1024;
/// Bytes of an answer that are read.
const ANSWER: usize = 4 << 20;
/// When receipts are asked for, in multiples of the first time: 15 min, 30 min, 1 h, 6 h, 23 h.
const RECEIPT_STEPS: [u32; 5] = [1, 2, 4, 24, 92];

/// The service, or what speaks its protocol.
#[derive(Debug)]
pub struct Expo {
    config: config::Expo,
    http: reqwest::Client,
}

impl Expo {
    /// The service at `config.base_url`.
    ///
    /// # Errors
    /// The HTTP client cannot be made.
    pub fn new(config: &config::Expo) -> Result<Self, reqwest::Error> {
        let http = reqwest::Client::builder()
            .timeout(config.timeout)
            .connect_timeout(config.timeout.min(Duration::from_secs(5)))
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("syncline/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(Self { config: config.clone(), http })
    }

    /// The status, and the body as text.
    async fn post(
        &self,
        path: &str,
        body: &(impl Serialize + Sync),
    ) -> Result<(StatusCode, Option<Duration>, String), RequestError> {
        let body = serde_json::to_vec(body).map_err(|e| RequestError::Invalid(e.to_string()))?;
        let url = format!("{}/--/api/v2/push/{path}", self.config.base_url.trim_end_matches('/'));
        let mut request = self
            .http
            .post(url)
            .header(header::ACCEPT, "application/json")
            .header(header::CONTENT_TYPE, "application/json");
        if !self.config.access_token.is_empty() {
            request = request.bearer_auth(&self.config.access_token);
        }
        let request = if body.len() > GZIP_ABOVE {
            request.header(header::CONTENT_ENCODING, "gzip").body(gzip(&body)?)
        } else {
            request.body(body)
        };
        let mut response = request.send().await.map_err(|error| broken(&error))?;
        let (status, wait) = (response.status(), retry_after(response.headers()));
        let mut text = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| broken(&error))? {
            text.extend_from_slice(&chunk);
            if text.len() > ANSWER {
                let what = "the answer is too long".into();
                return Err(RequestError::Broken { what, ambiguous: true, wait });
            }
        }
        Ok((status, wait, String::from_utf8_lossy(&text).into_owned()))
    }
}

fn gzip(body: &[u8]) -> Result<Vec<u8>, RequestError> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    let packed = encoder.write_all(body).and_then(|()| encoder.finish());
    packed.map_err(|error| RequestError::Invalid(error.to_string()))
}

/// What never left cannot have arrived.
fn broken(error: &reqwest::Error) -> RequestError {
    let ambiguous = !error.is_connect() && !error.is_builder();
    let what = if error.is_timeout() {
        "no answer in time"
    } else if error.is_connect() {
        "no connection"
    } else {
        "the connection broke"
    };
    RequestError::Broken { what: what.into(), ambiguous, wait: None }
}

/// How long the service asks to wait: seconds, or a date. That is by the service's own clock, if it tells it.
fn retry_after(headers: &header::HeaderMap) -> Option<Duration> {
    let text = |name| headers.get(name)?.to_str().ok();
    let asked = text(header::RETRY_AFTER)?.trim();
    if let Ok(seconds) = asked.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = |text: &str| rfc2822::DateTimeParser::new().parse_timestamp(text).ok();
    let now = text(header::DATE).and_then(date).unwrap_or_else(Timestamp::now);
    Some(Duration::try_from(date(asked)?.duration_since(now)).unwrap_or_default())
}

impl PushProvider for Expo {
    fn name(&self) -> &'static str {
        NAME
    }

    fn manners(&self) -> Manners {
        let first = self.config.receipt_after;
        Manners {
            gate: GateSettings {
                rate: self.config.rate,
                batch: BATCH,
                open_ms: millis(self.config.breaker),
            },
            in_flight: self.config.in_flight,
            receipts: RECEIPTS,
            receipts_after: RECEIPT_STEPS.iter().map(|times| first * *times).collect(),
        }
    }

    fn check(&self, token: &str) -> Result<(), &'static str> {
        wire::check_token(token)
    }

    fn send<'a>(
        &'a self,
        envelopes: &'a [Envelope],
    ) -> BoxFuture<'a, Result<Vec<Fate>, RequestError>> {
        Box::pin(async move {
            let messages: Vec<_> = envelopes.iter().map(wire::Push::new).collect();
            let fitting: Vec<_> = messages.iter().flatten().collect();
            let mut tickets = Vec::new().into_iter();
            if !fitting.is_empty() {
                let (status, wait, text) = self.post("send", &fitting).await?;
                tickets = wire::tickets(status, wait, &text, fitting.len())?.into_iter();
            }
            // One for each that was sent; of the others it is known what the service would say.
            let fate = |message: &Option<_>| message.as_ref().and_then(|_| tickets.next());
            let fates = messages.iter().map(fate);
            Ok(fates.map(|fate| fate.unwrap_or_else(wire::too_big)).collect())
        })
    }

    fn receipts<'a>(
        &'a self,
        tickets: &'a [String],
    ) -> BoxFuture<'a, Result<HashMap<String, Receipt>, RequestError>> {
        Box::pin(async move {
            let body = serde_json::json!({ "ids": tickets });
            let (status, wait, text) = self.post("getReceipts", &body).await?;
            wire::receipts(status, wait, &text)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_asks_to_wait_in_seconds_or_until_a_date() {
        let wait = |asked: &'static str, date: Option<&'static str>| {
            let mut headers = header::HeaderMap::new();
            headers.insert(header::RETRY_AFTER, header::HeaderValue::from_static(asked));
            if let Some(date) = date {
                headers.insert(header::DATE, header::HeaderValue::from_static(date));
            }
            retry_after(&headers).map(|wait| wait.as_secs())
        };
        let now = Some("Thu, 26 Nov 2026 18:59:00 GMT");
        assert_eq!(wait(" 120 ", now), Some(120));
        assert_eq!(wait("Thu, 26 Nov 2026 19:00:30 GMT", now), Some(90));
        assert_eq!(wait("Thu, 26 Nov 2026 18:00:00 GMT", now), Some(0), "it is over");
        assert!(wait("Thu, 26 Nov 2099 19:00:30 GMT", None) > Some(1_000_000), "by our own clock");
        assert_eq!((wait("soon", now), wait("-3", now)), (None, None));
        assert_eq!(retry_after(&header::HeaderMap::new()), None);
    }
}
