//! The operators' listener: is it alive, is it ready, what does it count. Never exposed to the world.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::json;

use crate::hub::Hub;
use crate::telemetry::METRICS_CONTENT_TYPE;

/// How long the store may take to answer before the instance is not ready.
const STORE_PATIENCE: Duration = Duration::from_secs(2);

/// The operators' endpoints.
pub fn router(hub: Arc<Hub>) -> Router {
    Router::new()
        .route("/health/live", get(async || Json(json!({ "status": "live" }))))
        .route("/health/ready", get(ready))
        .route("/metrics", get(metrics))
        .with_state(hub)
}

/// Ready is: not draining, and the store answers. A bus that is down makes an instance slower for
/// others, not unable to serve: it is reported, and does not count.
async fn ready(State(hub): State<Arc<Hub>>) -> Response {
    let store = tokio::time::timeout(STORE_PATIENCE, hub.store.ping()).await;
    let store = matches!(store, Ok(Ok(())));
    let draining = hub.draining.is_cancelled();
    let ready = store && !draining;
    let body = json!({
        "status": if ready { "ready" } else { "not_ready" },
        "store": if store { "ok" } else { "unavailable" },
        "bus": if hub.relay.bus.link_up() { "ok" } else { "down" },
        "draining": draining,
    });
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(body)).into_response()
}

async fn metrics(State(hub): State<Arc<Hub>>) -> Response {
    ([(header::CONTENT_TYPE, METRICS_CONTENT_TYPE)], hub.metrics.encode()).into_response()
}
