//! Which pages of other origins may read what the HTTP endpoints answer: those that may open a socket.

use std::time::Duration;

use axum::http::{HeaderName, HeaderValue, Method, header};
use tower_http::cors::{AllowOrigin, CorsLayer};

/// How long a browser may remember the answer to a preflight request.
const REMEMBERED: Duration = Duration::from_secs(600);

/// The headers for browsers. Tokens, not cookies, authenticate: credentials are never allowed.
pub(super) fn layer(allowed: &[String]) -> CorsLayer {
    let origins = if allowed.iter().any(|origin| origin == "*") {
        AllowOrigin::any()
    } else {
        AllowOrigin::list(allowed.iter().filter_map(|o| HeaderValue::from_str(o).ok()))
    };
    CorsLayer::new()
        .allow_origin(origins)
        .allow_methods([Method::GET, Method::POST, Method::PUT, Method::DELETE])
        .allow_headers([
            header::AUTHORIZATION,
            header::CONTENT_TYPE,
            header::IF_NONE_MATCH,
            HeaderName::from_static(super::api::MEANT),
        ])
        .expose_headers([header::RETRY_AFTER, header::ETAG, super::request_id::NAME])
        .max_age(REMEMBERED)
}
