//! What the integration tests share.

use std::time::Duration;

pub(crate) mod audit;
pub(crate) mod client;
pub(crate) mod copies;
pub(crate) mod crowd;
pub(crate) mod device;
pub(crate) mod hub;
pub(crate) mod nginx;
pub(crate) mod online;
pub(crate) mod plan;
pub(crate) mod postgres;
pub(crate) mod process;
pub(crate) mod proxy;
pub(crate) mod raw;
pub(crate) mod redis;
pub(crate) mod routes;
pub(crate) mod schema;
pub(crate) mod site;
pub(crate) mod world;

/// How long anything may take before a test calls it lost.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// Waits until `condition` holds; panics with `what` at the deadline.
pub(crate) async fn eventually<F: Future<Output = bool>>(what: &str, condition: impl Fn() -> F) {
    let waiting = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(tokio::time::timeout(DEADLINE, waiting).await.is_ok(), "in vain: {what}");
}
