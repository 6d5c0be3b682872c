//! Who is to hear of a change: from an operation's `notify`, and from the configured rules, to the
//! notifications to store. Pure.
//!
//! Called by [`super::plan`] for each change; each notification it returns also arms a push. Members of a
//! project are filled in by the store, in the transaction ([`Audience`]).

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::auth::Roles;
use crate::config;
use crate::id::{EntityKey, EntityType, RoleName, UserId};
use crate::localtime;
use crate::protocol::notify::{Notify, SendAt};
use crate::protocol::op::{ChangeKind, Fields};
use crate::store::{Audience, Draft, EntityRow, PendingOp, Schedule};
use crate::templates::Templates;

/// The text of a notification whose template cannot be filled: late words are better than none.
const WORDLESS: &str = "New notification";

/// What decides about notifications: graces, rules, roles and words. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Notices(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    push: config::Push,
    rules: Vec<Rule>,
    templates: Arc<Templates>,
    roles: Vec<Arc<crate::auth::Role>>,
}

/// A rule as it is applied.
#[derive(Debug)]
struct Rule {
    config: config::push::Rule,
    entity: EntityType,
    roles: Vec<RoleName>,
}

impl Notices {
    /// The configured ones; rules whose names are not valid were reported when the configuration was checked.
    #[must_use]
    pub fn new(push: &config::Push, roles: &Roles, templates: Arc<Templates>) -> Self {
        let rule = |config: &config::push::Rule| {
            let names = config.roles.iter().filter_map(|role| role.parse().ok()).collect();
            Some(Rule { entity: config.entity.parse().ok()?, roles: names, config: config.clone() })
        };
        Self(Arc::new(Inner {
            rules: push.rules.iter().filter_map(rule).collect(),
            push: push.clone(),
            templates,
            roles: roles.all().cloned().collect(),
        }))
    }

    /// The drafts of the change at `row.version`, the operation's own first. The actor never hears of their
    /// own act, and nobody who may not read the entity's type.
    pub(super) fn plan(
        &self,
        pending: &PendingOp,
        (key, kind): (&EntityKey, ChangeKind),
        (patch, row): (&Fields, &EntityRow),
        now_ms: i64,
    ) -> Vec<Draft> {
        let mut drafts: Vec<Draft> = Vec::new();
        if let Some(notify) = &pending.op.notify {
            drafts.push(self.draft(notify, pending, key, row, now_ms));
        }
        for rule in self.0.rules.iter().filter(|rule| rule.applies(&key.kind, kind, patch)) {
            let notify = rule.notify(pending, key, row);
            drafts.push(self.draft(&notify, pending, key, row, now_ms));
        }
        drafts
    }

    fn draft(
        &self,
        notify: &Notify,
        pending: &PendingOp,
        key: &EntityKey,
        row: &EntityRow,
        now_ms: i64,
    ) -> Draft {
        let json =
            |fields: &Fields| serde_json::to_string(fields).expect("fields have string keys");
        let users: BTreeSet<&UserId> =
            notify.users.iter().filter(|user| user.as_str() != pending.actor.user).collect();
        let readers = |role: &&Arc<crate::auth::Role>| role.can_read(&key.kind);
        let wanted = |role: &RoleName| notify.members || notify.roles.contains(role);
        let roles = self.0.roles.iter().filter(readers).map(|role| role.name.clone());
        let (title, body) = self.words(notify);
        let ttl = notify.ttl.map_or(self.0.push.ttl_ms(notify.lane), |s| i64::from(s) * 1000);
        Draft {
            audience: Audience {
                users: users.into_iter().cloned().collect(),
                actor: pending.actor.user.clone(),
                readers: roles.clone().collect(),
                member_roles: roles.filter(wanted).collect(),
            },
            seq: row.version,
            title,
            body,
            template: notify.template.clone(),
            vars: notify.vars.as_ref().map(json),
            data: notify.data.as_ref().map(json),
            link: notify.link.clone(),
            lane: notify.lane,
            collapse: notify.collapse.clone(),
            category: notify.category.clone(),
            schedule: notify.send_at.as_ref().and_then(|at| schedule(at, now_ms)),
            grace: self.0.push.grace_ms(notify.lane),
            ttl,
            created_at: now_ms,
        }
    }

    /// The text for who reads it live and in the inbox; each device gets its own language.
    fn words(&self, notify: &Notify) -> (String, String) {
        let Some(name) = &notify.template else {
            return (notify.title.clone(), notify.body.clone());
        };
        let empty = Fields::new();
        match self.0.templates.render(name, None, notify.vars.as_ref().unwrap_or(&empty), 1) {
            Ok(text) => (text.title, text.body),
            Err(error) => {
                tracing::warn!(template = %name, %error, "a notification's template cannot be filled");
                let title = if notify.title.is_empty() { WORDLESS } else { &notify.title };
                (title.to_owned(), notify.body.clone())
            }
        }
    }
}

/// None if it is due at once: also for a time that cannot be read, because late is worse than early.
fn schedule(at: &SendAt, now_ms: i64) -> Option<Schedule> {
    let schedule = match at {
        SendAt::At(ms) => Schedule { at: *ms, local: None },
        SendAt::Local { local, tz: Some(tz) } => {
            Schedule { at: localtime::instant(local, tz)?, local: None }
        }
        SendAt::Local { local, tz: None } => {
            Schedule { at: localtime::earliest(local)?, local: Some(local.clone()) }
        }
    };
    (schedule.at > now_ms || schedule.local.is_some()).then_some(schedule)
}

impl Rule {
    fn applies(&self, entity: &EntityType, kind: ChangeKind, patch: &Fields) -> bool {
        let config = &self.config;
        let value = || match patch.get(&config.field) {
            Some(serde_json::Value::String(text)) => config.values.contains(text),
            Some(value) => config.values.contains(&value.to_string()),
            None => false,
        };
        self.entity == *entity
            && (config.on.is_empty() || config.on.iter().any(|on| on == kind.as_str()))
            && match (config.field.is_empty(), config.values.is_empty()) {
                (true, _) => true,
                (false, true) => patch.contains_key(&config.field),
                (false, false) => value(),
            }
    }

    fn notify(&self, pending: &PendingOp, key: &EntityKey, row: &EntityRow) -> Notify {
        let config = &self.config;
        let users = match row.fields.get(&config.users_field) {
            Some(serde_json::Value::String(user)) => vec![user.parse().ok()],
            Some(serde_json::Value::Array(users)) => {
                users.iter().take(1000).map(|user| user.as_str()?.parse().ok()).collect()
            }
            _ => Vec::new(),
        };
        let some = |text: &str| (!text.is_empty()).then(|| text.replace("{id}", key.id.as_str()));
        let mut vars = row.fields.clone();
        vars.insert("id".into(), key.id.as_str().into());
        vars.insert("actor".into(), pending.actor.user.as_str().into());
        Notify {
            users: users.into_iter().flatten().collect(),
            members: config.members,
            roles: self.roles.clone(),
            template: Some(config.template.clone()),
            vars: Some(vars),
            link: some(&config.link),
            lane: config.lane,
            collapse: some(&config.collapse),
            category: some(&config.category),
            ..Notify::default()
        }
    }
}
