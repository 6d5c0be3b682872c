//! `syncline push test`: a push by hand, to a user through the queue, to a device or a token at once.

use std::collections::HashMap;
use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use tokio::time::{Instant, sleep};

use super::device_line;
use crate::config::Config;
use crate::id::{ProjectId, UserId};
use crate::protocol::notify::Lane;
use crate::push::provider::{Envelope, Fate, Message, PushProvider, Receipt};
use crate::push::providers;
use crate::store::Store;

/// How often it is asked what became of it, and for how long.
const ASK: Duration = Duration::from_secs(2);
const LONGEST: Duration = Duration::from_secs(30 * 60);
/// The states of what has not come to an end.
const UNDER_WAY: [&str; 6] = ["waiting", "claimed", "queued", "sending", "retry", "accepted"];

#[derive(Debug, Args)]
#[group(skip)]
pub(crate) struct Test {
    /// A user: armed like any other push
    #[arg(long, required_unless_present_any = ["device", "token"])]
    user: Option<UserId>,
    /// The project it is shown under
    #[arg(long, default_value = "test")]
    project: ProjectId,
    /// A device, by its number
    #[arg(long, conflicts_with_all = ["user", "token"])]
    device: Option<i64>,
    /// A token of the configured provider
    #[arg(long, conflicts_with_all = ["user", "device"])]
    token: Option<String>,
    /// The title
    #[arg(long, default_value = "Test")]
    title: String,
    /// The text
    #[arg(long, default_value = "It works.")]
    body: String,
    /// Show what would be sent and to whom, and send nothing
    #[arg(long)]
    dry_run: bool,
    /// Wait until the provider says what became of it
    #[arg(long)]
    wait_receipt: bool,
}

/// Does what the command asks.
pub(super) async fn test(
    store: &Store,
    config: &Config,
    test: Test,
    out: &mut impl Write,
) -> anyhow::Result<ExitCode> {
    let provider = providers(&config.push)?[0].clone();
    if let Some(user) = &test.user {
        let devices = store.devices(user).await?;
        for device in &devices {
            writeln!(out, "{}", device_line(device))?;
        }
        writeln!(out, "{} devices, provider {}", devices.len(), provider.name())?;
        if test.dry_run {
            writeln!(out, "nothing was sent (--dry-run)")?;
        } else {
            let nid =
                store.arm_test(&test.project, user, Lane::High, &test.title, &test.body).await?;
            writeln!(out, "armed {nid}; a running instance sends it")?;
            if test.wait_receipt {
                return follow(store, &nid, out).await;
            }
        }
        return Ok(ExitCode::SUCCESS);
    }
    let token = match (test.device, &test.token) {
        (Some(id), _) => store.device(id).await?.with_context(|| format!("no device {id}"))?.token,
        (None, Some(token)) => token.clone(),
        (None, None) => bail!("name a user, a device or a token"),
    };
    if let Err(form) = provider.check(&token) {
        bail!("{form}");
    }
    send(&provider, &test, token, out).await
}

async fn send(
    provider: &Arc<dyn PushProvider>,
    test: &Test,
    token: String,
    out: &mut impl Write,
) -> anyhow::Result<ExitCode> {
    let nid = uuid::Uuid::now_v7().to_string();
    let message = Message {
        collapse: nid.clone(),
        nid,
        user: String::new(),
        project: test.project.to_string(),
        seq: 0,
        lane: Lane::High,
        title: test.title.clone(),
        body: test.body.clone(),
        badge: 1,
        link: None,
        data: None,
        category: None,
        report: String::new(),
    };
    if test.dry_run {
        writeln!(out, "{}", serde_json::to_string_pretty(&message)?)?;
        writeln!(out, "nothing was sent (--dry-run)")?;
        return Ok(ExitCode::SUCCESS);
    }
    let envelope = Envelope { token, ttl: Duration::from_secs(3600), message };
    let fates = provider.send(&[envelope]).await?;
    let ticket = match fates.into_iter().next() {
        Some(Fate::Accepted(ticket)) => ticket,
        Some(Fate::Refused(failure)) => {
            writeln!(out, "refused: {}", failure.code)?;
            return Ok(ExitCode::FAILURE);
        }
        None => bail!("the provider said nothing"),
    };
    writeln!(out, "accepted")?;
    let Some(ticket) = ticket.filter(|_| test.wait_receipt) else { return Ok(ExitCode::SUCCESS) };
    let deadline = Instant::now() + LONGEST;
    while Instant::now() < deadline {
        let receipts: HashMap<String, Receipt> =
            provider.receipts(std::slice::from_ref(&ticket)).await?;
        match receipts.get(&ticket) {
            Some(Receipt::Handed) => {
                writeln!(out, "handed over to the device's platform")?;
                return Ok(ExitCode::SUCCESS);
            }
            Some(Receipt::Failed(failure)) => {
                writeln!(out, "did not get there: {}", failure.code)?;
                return Ok(ExitCode::FAILURE);
            }
            None => sleep(ASK).await,
        }
    }
    bail!("no receipt within 30 minutes");
}

/// Waits until every push of a notification came to an end.
async fn follow(store: &Store, nid: &str, out: &mut impl Write) -> anyhow::Result<ExitCode> {
    let deadline = Instant::now() + LONGEST;
    while Instant::now() < deadline {
        let pushes = store.pushes_of(nid).await?;
        if pushes.iter().any(|push| UNDER_WAY.contains(&push.state.as_str())) {
            sleep(ASK).await;
            continue;
        }
        for push in &pushes {
            let through = push.provider.as_deref().unwrap_or("not sent");
            let reason = push.reason.as_deref().unwrap_or("-");
            writeln!(out, "{through}: {} ({reason})", push.state)?;
        }
        let handed = pushes.iter().any(|push| push.state == "handed");
        return Ok(if handed { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    bail!("not all of it came to an end within 30 minutes");
}
