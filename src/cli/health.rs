//! `syncline health`: asks the admin listener of a running hub, for `HEALTHCHECK` and scripts.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

/// How long the hub may take to answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// Where a listener of this machine is reached.
pub(super) fn admin_url(mut listen: SocketAddr) -> String {
    match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => listen.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => listen.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    format!("http://{listen}")
}

/// Asks `/health/ready`.
pub(super) async fn health(url: &str) -> anyhow::Result<ExitCode> {
    let url = format!("{}/health/ready", url.trim_end_matches('/'));
    let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build()?;
    let answer = client.get(&url).send().await.map_err(|error| {
        let error = anyhow::Error::from(error.without_url());
        anyhow::anyhow!("no answer from {url}: {}", error.root_cause())
    })?;
    let status = answer.status();
    if status.is_success() {
        println!("ready");
        return Ok(ExitCode::SUCCESS);
    }
    let body = answer.text().await.unwrap_or_default();
    eprintln!("not ready: {url} answered {status} {}", body.trim());
    Ok(ExitCode::FAILURE)
}
