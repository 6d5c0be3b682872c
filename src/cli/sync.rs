//! `syncline sync`: asks a running hub over HTTP where synchronisation stands, and tries failed operations
//! again or takes them out.
//!
//! With a user's token it is that user's own; with the admin token of the configuration anybody's.

use std::io::{ErrorKind, Write};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::Value;

use super::api::Api;
use super::{Dev, Source, report};
use crate::id::{OpId, ProjectId, RoleName, UserId};

#[derive(Debug, Subcommand)]
pub(crate) enum Sync {
    /// Heads, failed operations, open conflicts, the last request and the devices of projects
    #[command(after_help = "\
Examples:
  syncline sync status --project site-7 --user ana
  syncline sync status --token \"$ANA\" --json | jq .failed")]
    Status(Whose),
    /// The failed lane: operations that were rejected, the oldest first
    Failed(Listed),
    /// Decide failed operations anew, in their order; exit code 1 if any is rejected again
    #[command(after_help = "\
Examples:
  syncline sync retry --project site-7 --user ana
  syncline sync retry --project site-7 --user ana --role editor --op 0192f0c1-0000-7000-8000-000000000001")]
    Retry(Retry),
    /// Take failed operations out of the lane for good; their verdicts stay
    #[command(after_help = "\
Example:
  syncline sync clear-failed --project site-7 --user ana --op 0192f0c1-0000-7000-8000-000000000001")]
    ClearFailed(Clear),
    /// The log of requests that wrote, the newest first
    Log(Listed),
}

/// Where to ask, and as whom.
#[derive(Debug, Args)]
pub(crate) struct Hub {
    #[command(flatten)]
    pub(super) dev: Dev,
    /// The hub [default: `server.listen` of the configuration]
    #[arg(long)]
    pub(super) url: Option<String>,
    /// A user's token, for the user's own; without it `auth.admin_token` of the configuration is used
    #[arg(long, env = "SYNCLINE_TOKEN", hide_env_values = true)]
    pub(super) token: Option<String>,
    /// Print JSON, an object a line
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Whose {
    #[command(flatten)]
    hub: Hub,
    /// The project; with a user's token all of theirs if left out
    #[arg(long)]
    project: Option<ProjectId>,
    /// The user; with the admin token everybody if left out
    #[arg(long)]
    user: Option<UserId>,
}

#[derive(Debug, Args)]
pub(crate) struct Listed {
    #[command(flatten)]
    hub: Hub,
    /// The project
    #[arg(long)]
    project: ProjectId,
    /// The user; with the admin token everybody if left out
    #[arg(long)]
    user: Option<UserId>,
    /// How many to show
    #[arg(long, default_value_t = 200, value_name = "N")]
    limit: usize,
}

#[derive(Debug, Args)]
pub(crate) struct Retry {
    #[command(flatten)]
    which: Clear,
    /// The role to decide under [default: the token's; with the admin token the one stored for the user, else the one each was sent under]
    #[arg(long)]
    role: Option<RoleName>,
}

#[derive(Debug, Args)]
pub(crate) struct Clear {
    #[command(flatten)]
    hub: Hub,
    /// The project
    #[arg(long)]
    project: ProjectId,
    /// The user; needed with the admin token
    #[arg(long)]
    user: Option<UserId>,
    /// One operation; may be repeated [default: all]
    #[arg(long = "op", value_name = "OP_ID")]
    ops: Vec<OpId>,
}

/// Does what was asked, and prints to `out`.
pub(super) async fn sync(
    source: Source,
    asked: Sync,
    out: &mut impl Write,
) -> anyhow::Result<ExitCode> {
    match asked {
        Sync::Status(Whose { hub, project, user }) => {
            let api = Api::new(source, &hub, user)?;
            let status = api.status(project.as_ref()).await?;
            print(out, hub.json, &status, report::statuses)?;
        }
        Sync::Failed(Listed { hub, project, user, limit }) => {
            let api = Api::new(source, &hub, user)?;
            let failed = api.list(&project, "failed", "after", limit).await?;
            print(out, hub.json, &failed, report::failed)?;
        }
        Sync::Log(Listed { hub, project, user, limit }) => {
            let api = Api::new(source, &hub, user)?;
            let log = api.list(&project, "log", "before", limit).await?;
            print(out, hub.json, &log, report::log)?;
        }
        Sync::Retry(Retry { which: Clear { hub, project, user, ops }, role }) => {
            let api = Api::new(source, &hub, user)?;
            let verdicts = api.retry(&project, &ops, role.as_ref()).await?;
            print(out, hub.json, &verdicts, report::verdicts)?;
            if verdicts.iter().any(|verdict| verdict["outcome"] == "rejected") {
                return Ok(ExitCode::FAILURE);
            }
        }
        Sync::ClearFailed(Clear { hub, project, user, ops }) => {
            let api = Api::new(source, &hub, user)?;
            let cleared = api.act(&project, "clear", api.body(&project, &ops)?).await?;
            print(out, hub.json, &[cleared], |cleared| {
                format!("{} cleared\n", cleared[0]["cleared"])
            })?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints values as JSON lines, or as a person reads them.
fn print(
    out: &mut impl Write,
    json: bool,
    values: &[Value],
    text: impl Fn(&[Value]) -> String,
) -> anyhow::Result<()> {
    let text =
        if json { values.iter().map(|value| format!("{value}\n")).collect() } else { text(values) };
    match out.write_all(text.as_bytes()) {
        // `| head` has seen enough.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => Ok(result?),
    }
}
