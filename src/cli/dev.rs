//! `syncline dev …`: helpers for developing against the hub.

use std::io::Write;
use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::Context;
use clap::Subcommand;

use crate::push::stand_in::{Script, StandIn};
use crate::shutdown;

#[derive(Debug, Subcommand)]
pub(crate) enum Dev {
    /// Stand in for the Expo push service: accept pushes, show them, misbehave as told
    #[command(after_help = "\
Example:
  syncline dev expo-stand-in &
  syncline --set push.expo.enabled=true --set push.expo.base_url=http://127.0.0.1:8099 serve --dev
  curl http://127.0.0.1:8099/stand-in/log
  curl http://127.0.0.1:8099/stand-in/script -H 'Content-Type: application/json' -d '{\"down\":true}'")]
    ExpoStandIn {
        /// Where to listen
        #[arg(long, default_value = "127.0.0.1:8099")]
        listen: SocketAddr,
        /// Notifications a second; more are answered with 429
        #[arg(long)]
        rate: Option<u32>,
        /// Ask for this access token
        #[arg(long)]
        access_token: Option<String>,
    },
}

/// Does what the command asks, until a signal.
pub(crate) async fn dev(command: Dev, out: &mut impl Write) -> anyhow::Result<ExitCode> {
    let Dev::ExpoStandIn { listen, rate, access_token } = command;
    let stand_in =
        StandIn::start(listen).await.with_context(|| format!("cannot listen on {listen}"))?;
    stand_in.script(|script| *script = Script { rate, access_token, ..Script::default() });
    writeln!(out, "the stand-in for Expo listens on {}", stand_in.url())?;
    shutdown::signal().await.context("cannot listen to signals")?;
    writeln!(out, "{}", serde_json::to_string(&stand_in.log())?)?;
    Ok(ExitCode::SUCCESS)
}
