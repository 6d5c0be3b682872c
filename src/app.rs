//! The composition root: the only place that names concrete stores, buses and providers.

use crate::config::{Config, DevInfo};

/// Runs the hub until it is told to stop.
///
/// # Errors
/// The hub cannot start, or did not end in order.
pub async fn serve(config: Config, dev: Option<DevInfo>) -> anyhow::Result<()> {
    let _ = (config, dev);
    anyhow::bail!("this build has no hub yet")
}

/// Brings the store's schema up to date and returns.
///
/// # Errors
/// The store cannot be reached, or a migration failed.
pub async fn migrate(config: Config) -> anyhow::Result<()> {
    let _ = config;
    anyhow::bail!("this build has no store yet")
}
