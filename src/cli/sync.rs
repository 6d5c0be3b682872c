//! `syncline sync`: asks a running hub over HTTP where synchronisation stands, and tries failed operations
//! again or takes them out.
//!
//! With a user's token it is that user's own; with the admin token of the configuration anybody's.

use std::io::{ErrorKind, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Subcommand};
use reqwest::{Client, Method, Url};
use serde_json::{Value, json};

use super::{Dev, Source, health, report};
use crate::config::redact;
use crate::id::{OpId, ProjectId, RoleName, UserId};

/// How long the hub may take to answer; a little longer than it gives itself.
const PATIENCE: Duration = Duration::from_secs(35);

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
    dev: Dev,
    /// The hub [default: `server.listen` of the configuration]
    #[arg(long)]
    url: Option<String>,
    /// A user's token, for the user's own; without it `auth.admin_token` of the configuration is used
    #[arg(long, env = "SYNCLINE_TOKEN", hide_env_values = true)]
    token: Option<String>,
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
    /// The role to decide under [default: the token's; with the admin token the one each was sent under]
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
            print(out, hub.json, &status, |status| report::statuses(status))?;
        }
        Sync::Failed(Listed { hub, project, user, limit }) => {
            let api = Api::new(source, &hub, user)?;
            let failed = api.list(&project, "failed", "after", limit).await?;
            print(out, hub.json, &failed, |failed| report::failed(failed))?;
        }
        Sync::Log(Listed { hub, project, user, limit }) => {
            let api = Api::new(source, &hub, user)?;
            let log = api.list(&project, "log", "before", limit).await?;
            print(out, hub.json, &log, |log| report::log(log))?;
        }
        Sync::Retry(Retry { which: Clear { hub, project, user, ops }, role }) => {
            let api = Api::new(source, &hub, user)?;
            let verdicts = api.retry(&project, &ops, role.as_ref()).await?;
            print(out, hub.json, &verdicts, |verdicts| report::verdicts(verdicts))?;
            if verdicts.iter().any(|verdict| verdict["outcome"] == "rejected") {
                return Ok(ExitCode::FAILURE);
            }
        }
        Sync::ClearFailed(Clear { hub, project, user, ops }) => {
            let api = Api::new(source, &hub, user)?;
            let cleared = api.act(&project, "clear", api.body(&project, &ops)?).await?;
            print(out, hub.json, &[cleared], |cleared| {
                format!("cleared {} operations\n", cleared[0]["cleared"])
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

/// The hub's endpoints, as a user or as the administrator.
struct Api {
    client: Client,
    url: Url,
    token: String,
    /// With the admin token; then `user` says whose.
    admin: bool,
    user: Option<UserId>,
}

impl Api {
    fn new(source: Source, hub: &Hub, user: Option<UserId>) -> anyhow::Result<Self> {
        let loaded = source.with(hub.dev.store_url()).read();
        let (loaded, _) = hub.dev.apply(loaded)?;
        let config =
            loaded.checked_for(|key| key == "server.listen" || key == "auth.admin_token")?;
        let url = hub.url.clone().unwrap_or_else(|| health::admin_url(config.server.listen));
        let admin = hub.token.is_none();
        if !admin && user.is_some() {
            anyhow::bail!(
                "a user's token shows that user's own: leave out --user, or --token and SYNCLINE_TOKEN"
            );
        }
        let token = hub.token.clone().unwrap_or(config.auth.admin_token);
        if token.is_empty() {
            anyhow::bail!(
                "no token: give a user's with --token, or set `auth.admin_token` \
                 (SYNCLINE_AUTH__ADMIN_TOKEN) as the hub has it"
            );
        }
        let url = Url::parse(&url).context("--url is not a URL")?;
        let client = Client::builder().no_proxy().timeout(PATIENCE).build()?;
        Ok(Self { client, url, token: token.trim().to_owned(), admin, user })
    }

    async fn status(&self, project: Option<&ProjectId>) -> anyhow::Result<Vec<Value>> {
        let (mut projects, mut after) = (Vec::new(), None);
        loop {
            let next = after.as_deref().map(|after| ("after", after));
            let mut page = self.get(project, "status", next.as_slice()).await?;
            projects.extend(taken(&mut page, "projects"));
            match page["next"].as_str() {
                Some(next) => after = Some(next.to_owned()),
                None => return Ok(projects),
            }
        }
    }

    /// Up to `limit` rows of a list, page by page; `cursor` is the name of where to go on.
    async fn list(
        &self,
        project: &ProjectId,
        what: &str,
        cursor: &str,
        limit: usize,
    ) -> anyhow::Result<Vec<Value>> {
        let (mut rows, mut from): (Vec<Value>, _) = (Vec::new(), None);
        loop {
            let next = from.as_deref().map(|from| (cursor, from));
            let mut page = self.get(Some(project), what, next.as_slice()).await?;
            rows.extend(taken(&mut page, what));
            if rows.len() >= limit {
                rows.truncate(limit);
                return Ok(rows);
            }
            match page["next"].as_str() {
                Some(next) => from = Some(next.to_owned()),
                None => return Ok(rows),
            }
        }
    }

    async fn retry(
        &self,
        project: &ProjectId,
        ops: &[OpId],
        role: Option<&RoleName>,
    ) -> anyhow::Result<Vec<Value>> {
        if role.is_some() && !self.admin {
            anyhow::bail!("--role needs the admin token: a user's token has its own");
        }
        let mut body = self.body(project, ops)?;
        if let Some(role) = role {
            body["role"] = json!(role);
        }
        let mut verdicts = Vec::new();
        loop {
            let mut page = self.act(project, "retry", body.clone()).await?;
            verdicts.extend(taken(&mut page, "verdicts"));
            match page["next"].take() {
                Value::Null => return Ok(verdicts),
                next => body["after"] = next,
            }
        }
    }

    fn body(&self, project: &ProjectId, ops: &[OpId]) -> anyhow::Result<Value> {
        let mut body = if self.admin {
            let user = self.user.as_ref().context("with the admin token, name the user: --user")?;
            json!({ "user": user })
        } else {
            json!({ "project": project })
        };
        if !ops.is_empty() {
            body["op_ids"] = json!(ops);
        }
        Ok(body)
    }

    async fn act(&self, project: &ProjectId, what: &str, body: Value) -> anyhow::Result<Value> {
        let what = format!("failed/{what}");
        let url = self.endpoint(Some(project), &what)?;
        self.send(Method::POST, url, body.to_string()).await
    }

    async fn get(
        &self,
        project: Option<&ProjectId>,
        what: &str,
        query: &[(&str, &str)],
    ) -> anyhow::Result<Value> {
        let mut url = self.endpoint(project, what)?;
        let user = self.user.as_ref().map(|user| ("user", user.as_str()));
        // An administrator's path names it.
        let project = project.filter(|_| !self.admin).map(|p| ("project", p.as_str()));
        url.query_pairs_mut().extend_pairs(user.into_iter().chain(project)).extend_pairs(query);
        self.send(Method::GET, url, String::new()).await
    }

    fn endpoint(&self, project: Option<&ProjectId>, what: &str) -> anyhow::Result<Url> {
        let path = if self.admin {
            let project = project.context("with the admin token, name the project: --project")?;
            format!("v1/admin/projects/{project}/sync/{what}")
        } else {
            format!("v1/sync/{what}")
        };
        let mut url = self.url.clone();
        let base = url.path().trim_end_matches('/').to_owned();
        url.set_path(&format!("{base}/{path}"));
        Ok(url)
    }

    async fn send(&self, method: Method, url: Url, body: String) -> anyhow::Result<Value> {
        let request = self.client.request(method, url).bearer_auth(&self.token).body(body);
        let answer = request.send().await.map_err(|error| {
            let error = anyhow::Error::from(error.without_url());
            let url = redact::url(self.url.as_str());
            anyhow::anyhow!("no answer from {url}: {}", error.root_cause())
        })?;
        let status = answer.status();
        let text = answer.text().await?;
        let body: Value = serde_json::from_str(&text).unwrap_or_default();
        if status.is_success() {
            return Ok(body);
        }
        match (body["detail"].as_str(), body["code"].as_str()) {
            (Some(detail), Some(code)) => anyhow::bail!("the hub refused: {detail} ({code})"),
            _ => anyhow::bail!("{} answered {status}", redact::url(self.url.as_str())),
        }
    }
}

/// The list under a name.
fn taken(page: &mut Value, name: &str) -> Vec<Value> {
    match page[name].take() {
        Value::Array(rows) => rows,
        _ => Vec::new(),
    }
}
