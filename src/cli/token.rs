//! `syncline token`: a token as an issuer would make it, by the configuration in force.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use serde_json::{Map, Value, json};

use super::Token;
use crate::auth::mint;
use crate::config::{Config, Hmac};
use crate::id::{ProjectId, RoleName};

/// A project and the role granted in it; `None` is the default role.
#[derive(Debug, Clone)]
pub(crate) struct Grant {
    project: ProjectId,
    role: Option<RoleName>,
}

/// Reads `project` or `project=role`.
pub(super) fn grant(text: &str) -> Result<Grant, String> {
    let (project, role) = match text.split_once('=') {
        Some((project, role)) => (project, Some(role)),
        None => (text, None),
    };
    let project = ProjectId::new(project).map_err(|error| error.to_string())?;
    let role = role.map(RoleName::new).transpose().map_err(|error| error.to_string())?;
    Ok(Grant { project, role })
}

/// The token.
pub(super) fn token(config: &Config, asked: &Token) -> anyhow::Result<String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?;
    Ok(mint(key(config, asked.kid.as_deref())?, &claims(config, asked, now.as_secs())?)?)
}

fn key<'c>(config: &'c Config, kid: Option<&str>) -> anyhow::Result<&'c Hmac> {
    let keys = &config.auth.hmac;
    let kids = || keys.iter().map(|key| format!("{:?}", key.kid)).collect::<Vec<_>>().join(", ");
    match kid {
        None => keys.first().context(
            "the configuration has no HMAC key to sign with; add `[[auth.hmac]]` or use `--dev`",
        ),
        Some(kid) => keys
            .iter()
            .find(|key| key.kid == kid)
            .with_context(|| format!("no HMAC key has the `kid` {kid:?}; there are: {}", kids())),
    }
}

fn claims(config: &Config, asked: &Token, now: u64) -> anyhow::Result<Value> {
    let auth = &config.auth;
    let mut projects = Map::new();
    for Grant { project, role } in &asked.projects {
        let role = role.as_ref().map_or(auth.default_role.as_str(), RoleName::as_str);
        if !config.roles.0.contains_key(role) {
            let roles = config.roles.0.keys().cloned().collect::<Vec<_>>().join(", ");
            anyhow::bail!("there is no role {role:?}; the roles are: {roles}");
        }
        projects.insert(project.to_string(), role.into());
    }
    let mut claims = Map::from_iter([
        ("iat".to_owned(), json!(now)),
        ("exp".to_owned(), json!(now.saturating_add(asked.ttl.as_secs()))),
        ("jti".to_owned(), json!(uuid::Uuid::new_v4())),
        (auth.user_claim.clone(), json!(asked.user)),
        (auth.projects_claim.clone(), Value::Object(projects)),
    ]);
    let optional = [
        ("iss", auth.issuers.first()),
        ("aud", auth.audiences.first()),
        ("device", asked.device.as_ref()),
    ];
    for (name, value) in optional {
        if let Some(value) = value {
            claims.insert(name.to_owned(), json!(value));
        }
    }
    Ok(Value::Object(claims))
}
