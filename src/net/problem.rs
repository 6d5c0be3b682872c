//! Refusals as HTTP: problem details (RFC 9457).

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::protocol::error::{ErrorCode, Refusal};

/// A refusal on its way out as an HTTP response.
#[derive(Debug)]
pub struct Problem(pub Refusal);

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        Self(refusal)
    }
}

/// The HTTP status of an error code.
#[must_use]
pub fn status(code: ErrorCode) -> StatusCode {
    match code {
        ErrorCode::BadRequest | ErrorCode::UnknownType | ErrorCode::InvalidName => {
            StatusCode::BAD_REQUEST
        }
        ErrorCode::Unauthorized | ErrorCode::TokenExpired | ErrorCode::TokenRevoked => {
            StatusCode::UNAUTHORIZED
        }
        ErrorCode::Forbidden => StatusCode::FORBIDDEN,
        ErrorCode::NotFound => StatusCode::NOT_FOUND,
        ErrorCode::NotSubscribed => StatusCode::CONFLICT,
        ErrorCode::ChecksumMismatch => StatusCode::UNPROCESSABLE_ENTITY,
        ErrorCode::LimitExceeded => StatusCode::PAYLOAD_TOO_LARGE,
        ErrorCode::RateLimited => StatusCode::TOO_MANY_REQUESTS,
        ErrorCode::Overloaded | ErrorCode::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        ErrorCode::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// Whether a response is a problem already.
#[must_use]
pub fn is_problem(response: &Response) -> bool {
    response.headers().get(header::CONTENT_TYPE) == Some(&CONTENT_TYPE)
}

/// Turns an error of the HTTP framework (a wrong method, a query that cannot be read, a body that is too
/// large: more than `body_bytes`) into a problem of the same status.
#[must_use]
pub fn from_framework(response: Response, body_bytes: usize) -> Response {
    let status = response.status();
    if !status.is_client_error() && !status.is_server_error() {
        return response;
    }
    let refusal = match status {
        StatusCode::METHOD_NOT_ALLOWED => {
            Refusal::new(ErrorCode::BadRequest, "this endpoint has no such method")
        }
        StatusCode::PAYLOAD_TOO_LARGE => Refusal::limit("body_bytes", body_bytes as u64),
        status if status.is_client_error() => {
            Refusal::new(ErrorCode::BadRequest, "the request is malformed")
        }
        _ => Refusal::new(ErrorCode::Internal, "the hub failed"),
    };
    let allow = response.headers().get(header::ALLOW).cloned();
    let mut problem = with_status(status, refusal);
    if let Some(allow) = allow {
        problem.headers_mut().insert(header::ALLOW, allow);
    }
    problem
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let Self(refusal) = self;
        with_status(status(refusal.code), refusal)
    }
}

/// The content type of problem details.
pub const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("application/problem+json");

fn with_status(status: StatusCode, refusal: Refusal) -> Response {
    let mut body = json!({
        "type": format!("urn:syncline:error:{}", refusal.code.as_str()),
        "title": refusal.code.as_str(),
        "status": status.as_u16(),
        "detail": refusal.message,
        "code": refusal.code,
    });
    if let Some(detail) = refusal.detail {
        body["extra"] = detail;
    }
    let mut response = (status, Json(body)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, CONTENT_TYPE);
    if let Some(ms) = refusal.retry_after_ms {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(ms.div_ceil(1000)));
    }
    if status == StatusCode::UNAUTHORIZED {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}
