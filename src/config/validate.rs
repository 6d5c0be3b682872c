//! What a readable configuration may still get wrong: values that make no sense, alone or together.
//!
//! Called by [`super::load`], which adds where each value came from. One function a section; each pushes
//! every problem it finds.

use std::time::Duration;

use reqwest::Url;
use toml::Value;
use tracing_subscriber::EnvFilter;

use super::problem::Problem;
use super::{Config, Entity, Field, Ingest, Role, Server};
use crate::id::{EntityType, RoleName};
use crate::protocol::conflict::Strategy;

/// The shortest admin token and source secret.
pub(super) const MIN_SECRET: usize = 32;

/// How deep a field's value may nest: an operation in a frame nests it further.
const MAX_OP_DEPTH: usize = 60;

/// The numbers and durations that may be 0: it turns something off, or means "at once".
const MAY_BE_ZERO: [&str; 16] = [
    "auth.expiry_grace",
    "auth.expiry_warning",
    "auth.leeway",
    "bus.gap_hold",
    "limits.memory_bytes",
    "presence.batch",
    "presence.grace",
    "presence.members",
    "push.grace_critical",
    "push.grace_high",
    "push.grace_normal",
    "push.cap_per_hour",
    "push.linger",
    "retention.interval",
    "server.drain_spread",
    "server.shards",
];

impl Config {
    /// Everything about the values' meaning that is wrong or doubtful.
    #[must_use]
    pub fn validate(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        self.server(&mut problems);
        self.auth.keys(&mut problems);
        self.auth.public_keys(&mut problems);
        self.auth.others(&mut problems);
        self.roles(&mut problems);
        self.entities(&mut problems);
        self.limits(&mut problems);
        self.urls(&mut problems);
        self.presence(&mut problems);
        self.ingest.sources(&mut problems);
        self.push(&mut problems);
        self.retention(&mut problems);
        if let Err(error) = EnvFilter::builder().parse(&self.log.filter) {
            problems.push(
                Problem::error("log.filter", error.to_string())
                    .help("write for example `info` or `syncline=debug,warn`"),
            );
        }
        self.zeros(&mut problems);
        problems
    }

    fn server(&self, problems: &mut Vec<Problem>) {
        let Server { listen, admin_listen, drain_spread, drain_deadline, .. } = &self.server;
        let any = listen.ip().is_unspecified() || admin_listen.ip().is_unspecified();
        let same_port = listen.port() == admin_listen.port() && listen.port() != 0;
        if same_port && (any || listen.ip() == admin_listen.ip()) {
            problems.push(
                Problem::error("server.admin_listen", "`server.listen` has the same port")
                    .help("give operators a port of their own; it must not be public"),
            );
        }
        if drain_spread > drain_deadline {
            problems.push(Problem::error(
                "server.drain_spread",
                "must not be longer than `server.drain_deadline`",
            ));
        }
        if self.server.demo && !listen.ip().is_loopback() {
            problems.push(
                Problem::error(
                    "server.demo",
                    "strangers could reach `server.listen` and get tokens",
                )
                .help("listen on a loopback address, or turn the page off"),
            );
        }
        if self.server.accept_backlog < 0 {
            problems.push(Problem::error("server.accept_backlog", "must not be negative"));
        }
        for (index, origin) in self.server.allowed_origins.iter().enumerate() {
            if origin != "*" && !is_origin(origin) {
                problems.push(
                    Problem::error(
                        format!("server.allowed_origins.{index}"),
                        format!("{origin:?} is not a browser origin"),
                    )
                    .help("an origin has a scheme, a host and no path: `https://app.example.org`"),
                );
            }
        }
    }

    fn entities(&self, problems: &mut Vec<Problem>) {
        let kind = |path: String, name: &str, problems: &mut Vec<Problem>| {
            if let Err(error) = EntityType::new(name) {
                problems.push(Problem::error(path, format!("{name:?}: {error}")));
            }
        };
        for (name, Entity { fallback, fields, .. }) in &self.entities.0 {
            if name != "*" {
                kind(format!("entities.{name}"), name, problems);
            }
            if *fallback == Strategy::Merge {
                let what = "what cannot be merged must end in another way";
                problems
                    .push(Problem::error(format!("entities.{name}.fallback"), what).help(
                        "choose `server_wins`, `client_wins`, `last_write_wins` or `manual`",
                    ));
            }
            for (field, Field { strategy, merge, references }) in fields {
                let path = |key: &str| format!("entities.{name}.fields.{field}.{key}");
                if merge.is_some() && strategy.is_some_and(|own| own != Strategy::Merge) {
                    let what = "has no effect: the field's own strategy is not `merge`";
                    problems.push(Problem::error(path("merge"), what));
                }
                if let Some(references) = references {
                    kind(path("references"), references, problems);
                }
            }
        }
    }

    fn roles(&self, problems: &mut Vec<Problem>) {
        let roles = &self.roles.0;
        if !roles.contains_key(&self.auth.default_role) {
            let names: Vec<_> = roles.keys().map(|name| format!("`{name}`")).collect();
            problems.push(
                Problem::error(
                    "auth.default_role",
                    format!("there is no role `{}`", self.auth.default_role),
                )
                .help(format!("the roles are: {}", names.join(", "))),
            );
        }
        for (name, Role { read, write, delete, hidden, .. }) in roles {
            if let Err(error) = RoleName::new(name) {
                problems.push(Problem::error(format!("roles.{name}"), error.to_string()));
            }
            for (verb, types) in [("read", read), ("write", write), ("delete", delete)] {
                for (index, kind) in types.iter().enumerate().filter(|(_, kind)| *kind != "*") {
                    if let Err(error) = EntityType::new(kind) {
                        let what = format!("{kind:?}: {error}, or `*` for every type");
                        problems.push(Problem::error(format!("roles.{name}.{verb}.{index}"), what));
                    }
                }
            }
            for (kind, fields) in hidden {
                let key = format!("roles.{name}.hidden.{kind}");
                if let Err(error) = EntityType::new(kind)
                    && kind != "*"
                {
                    let what = format!("{kind:?}: {error}, or `*` for every type");
                    problems.push(Problem::error(&key, what));
                }
                for (index, _) in
                    fields.iter().enumerate().filter(|(_, f)| f.is_empty() || *f == "*")
                {
                    problems.push(
                        Problem::error(format!("{key}.{index}"), "must name a field")
                            .help("a whole type is hidden by leaving it out of `read`"),
                    );
                }
            }
        }
    }

    fn limits(&self, problems: &mut Vec<Problem>) {
        let limits = &self.limits;
        let within = [
            ("limits.op_bytes", limits.op_bytes, "limits.frame_bytes", limits.frame_bytes),
            (
                "limits.presence_bytes",
                limits.presence_bytes,
                "limits.frame_bytes",
                limits.frame_bytes,
            ),
            ("limits.op_bytes", limits.op_bytes, "store.group_bytes", self.store.group_bytes),
            ("limits.op_bytes", limits.op_bytes, "limits.outbox_bytes", limits.outbox_bytes),
            ("limits.op_bytes", limits.op_bytes, "limits.entity_bytes", limits.entity_bytes),
            (
                "limits.entity_bytes",
                limits.entity_bytes,
                "limits.outbox_bytes",
                limits.outbox_bytes,
            ),
            ("limits.ops_per_write", limits.ops_per_write, "store.queue_ops", self.store.queue_ops),
            ("limits.body_bytes", limits.body_bytes, "store.queue_bytes", self.store.queue_bytes),
            ("limits.frame_bytes", limits.frame_bytes, "store.queue_bytes", self.store.queue_bytes),
            (
                "limits.http_connections_per_ip",
                limits.http_connections_per_ip,
                "limits.http_connections",
                limits.http_connections,
            ),
        ];
        if limits.op_depth > MAX_OP_DEPTH {
            let what =
                format!("must be at most {MAX_OP_DEPTH}: many readers of JSON end near there");
            problems.push(Problem::error("limits.op_depth", what));
        }
        let connections = self.store.connections as usize;
        if limits.catch_ups >= connections {
            let what = format!(
                "{} at once may take every one of `store.connections`, which is {connections}",
                limits.catch_ups
            );
            problems.push(
                Problem::error("limits.catch_ups", what)
                    .help("choose less, or more connections: writers wait for one behind them"),
            );
        }
        for (key, value, other, bound) in within {
            if value > bound {
                let what = format!("{value} is more than `{other}`, which is {bound}");
                problems.push(Problem::error(key, what));
            }
        }
    }

    fn urls(&self, problems: &mut Vec<Problem>) {
        let (store, bus) = (&self.store.url, &self.bus.url);
        if let Err(what) = check_store(store) {
            problems.push(Problem::error("store.url", what).help(
                "write `sqlite:PATH` or `postgres://user:password@host/database`; \
                 characters such as `@ : / ?` in a password are percent-encoded",
            ));
        }
        if let Err(what) = check_bus(bus) {
            problems.push(Problem::error("bus.url", what).help(
                "write `local`, `redis://[user:password@]host:port` or \
                 `redis+cluster://host:port,host:port`",
            ));
        } else if bus != "local" && store.starts_with("sqlite:") {
            problems.push(
                Problem::warning(
                    "bus.url",
                    "a Redis bus joins instances, which cannot share SQLite",
                )
                .help("with several instances, set `store.url` to a PostgreSQL database"),
            );
        }
    }

    fn presence(&self, problems: &mut Vec<Problem>) {
        if self.presence.lease <= self.presence.heartbeat * 2 {
            problems.push(
                Problem::error("presence.lease", "must be longer than two `presence.heartbeat`")
                    .help("a lost heartbeat must not make everybody of an instance leave"),
            );
        }
    }

    fn retention(&self, problems: &mut Vec<Problem>) {
        let deliveries = u32::try_from(self.ingest.max_deliveries).unwrap_or(u32::MAX);
        let again = self.ingest.claim_after.saturating_mul(deliveries);
        if self.retention.verdicts < again {
            problems.push(
                Problem::error("retention.verdicts", "an event may be delivered again after that")
                    .help(
                        "keep verdicts longer than `ingest.claim_after` × `ingest.max_deliveries`",
                    ),
            );
        }
    }

    /// Numbers and durations that are 0 and may not be. New ones are checked unless listed.
    fn zeros(&self, problems: &mut Vec<Problem>) {
        let mut visit = |key: String, value: &Value| {
            let zero = match value {
                Value::Integer(number) => *number == 0,
                Value::String(text) => text == "0s",
                _ => false,
            };
            if zero && !MAY_BE_ZERO.contains(&key.as_str()) {
                problems.push(Problem::error(key, "must not be 0"));
            }
        };
        let sections = Value::try_from(self).unwrap_or(Value::Boolean(false));
        for (section, values) in sections.as_table().into_iter().flatten() {
            for (key, value) in values.as_table().into_iter().flatten() {
                visit(format!("{section}.{key}"), value);
            }
        }
        for (index, set) in self.auth.jwks.iter().enumerate() {
            if set.refresh == Duration::ZERO {
                visit(format!("auth.jwks.{index}.refresh"), &Value::Integer(0));
            }
        }
    }
}

impl Ingest {
    fn sources(&self, problems: &mut Vec<Problem>) {
        for (index, source) in self.sources.iter().enumerate() {
            if source.name.is_empty() {
                let key = format!("ingest.sources.{index}.name");
                problems.push(Problem::error(key, "must name the source"));
            } else if self.sources[..index].iter().any(|other| other.name == source.name) {
                let key = format!("ingest.sources.{index}.name");
                problems.push(Problem::error(key, format!("{:?} is named twice", source.name)));
            }
            if source.secret.chars().count() < MIN_SECRET {
                problems.push(
                    Problem::error(
                        format!("ingest.sources.{index}.secret"),
                        "needs 32 characters or more",
                    )
                    .help("make one with `openssl rand -hex 32`"),
                );
            }
        }
    }
}

fn is_origin(text: &str) -> bool {
    Url::parse(text).is_ok_and(|url| url.origin().ascii_serialization() == text)
}

/// The database that `store.url` names, or what is wrong with it. Never repeats the URL.
fn check_store(url: &str) -> Result<(), String> {
    match url.split_once(':') {
        Some(("sqlite", path)) if path.trim_start_matches('/').is_empty() => {
            Err("names no file".into())
        }
        Some(("sqlite", _)) => Ok(()),
        Some(("postgres" | "postgresql", _)) => match Url::parse(url) {
            Ok(url) if url.path().len() < 2 => Err("names no database".into()),
            Ok(_) => Ok(()),
            Err(error) => Err(format!("is not a URL: {error}")),
        },
        _ => Err("names no store this hub has".into()),
    }
}

fn check_bus(url: &str) -> Result<(), String> {
    if url == "local" {
        return Ok(());
    }
    let hosts = match url.split_once("://") {
        Some(("redis" | "rediss", _)) => vec![url.to_owned()],
        Some(("redis+cluster" | "rediss+cluster", hosts)) => {
            hosts.split(',').map(|host| format!("redis://{host}")).collect()
        }
        _ => return Err("names no bus this hub has".into()),
    };
    for host in hosts {
        match Url::parse(&host) {
            Ok(url) if url.host_str().is_none_or(str::is_empty) => {
                return Err("names no host".into());
            }
            Ok(_) => {}
            Err(error) => return Err(format!("is not a URL: {error}")),
        }
    }
    Ok(())
}
