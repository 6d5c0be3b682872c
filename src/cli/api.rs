//! The endpoints of a running hub that `syncline sync` asks: as a user, or as the administrator, whose paths
//! name the project and whose requests name the user.

use std::time::Duration;

use anyhow::Context;
use reqwest::{Client, Method, Url};
use serde_json::{Value, json};

use super::sync::Hub;
use super::{Source, health};
use crate::config::redact;
use crate::id::{OpId, ProjectId, RoleName, UserId};

/// How long the hub may take to answer; a little longer than it gives itself.
const PATIENCE: Duration = Duration::from_secs(35);

/// The hub's endpoints, as a user or as the administrator.
pub(super) struct Api {
    client: Client,
    url: Url,
    token: String,
    /// With the admin token; then `user` says whose.
    admin: bool,
    user: Option<UserId>,
}

impl Api {
    /// Reads the configuration for what the command line leaves out.
    pub(super) fn new(source: Source, hub: &Hub, user: Option<UserId>) -> anyhow::Result<Self> {
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

    /// Where projects stand.
    pub(super) async fn status(&self, project: Option<&ProjectId>) -> anyhow::Result<Vec<Value>> {
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
    pub(super) async fn list(
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

    /// Has failed operations decided anew, page by page.
    pub(super) async fn retry(
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

    /// What names the operations meant.
    pub(super) fn body(&self, project: &ProjectId, ops: &[OpId]) -> anyhow::Result<Value> {
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

    /// Does something to the failed lane.
    pub(super) async fn act(
        &self,
        project: &ProjectId,
        what: &str,
        body: Value,
    ) -> anyhow::Result<Value> {
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
