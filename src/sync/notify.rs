//! Who is to hear of a change: from an operation's `notify`, and from the configured rules, to the
//! notifications to store. Pure.
//!
//! Called by [`super::plan`] for each change; each notification it returns also arms a push. Members of a
//! project are filled in by the store, in the transaction ([`Audience`]).

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::auth::Roles;
use crate::config;
use crate::id::{EntityKey, EntityType, ProjectId, RoleName, UserId};
use crate::localtime;
use crate::protocol::notify::{Notify, SendAt, VARS};
use crate::protocol::op::{ChangeKind, Fields};
use crate::store::{Audience, Draft, EntityRow, PendingOp, Schedule};
use crate::templates::{Templates, cut};

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
        (project, key, kind): (&ProjectId, &EntityKey, ChangeKind),
        (patch, row): (&Fields, &EntityRow),
        now_ms: i64,
    ) -> Vec<Draft> {
        let mut drafts: Vec<Draft> = Vec::new();
        if let Some(notify) = &pending.op.notify {
            drafts.push(self.draft(notify, pending, key, row, now_ms));
        }
        for rule in self.0.rules.iter().filter(|rule| rule.applies(&key.kind, kind, patch)) {
            // Of what is deleted, what it was.
            let fields = if kind == ChangeKind::Delete { &row.buried } else { &row.fields };
            let vars = self.vars(rule, key, fields);
            let notify = rule.notify(&pending.actor.user, (project, key), fields, vars);
            drafts.push(self.draft(&notify, pending, key, row, now_ms));
        }
        drafts
    }

    /// How many members an operation's `notify` reaches by `members` and `roles`, of those with each role.
    pub(super) fn crowd(
        &self,
        notify: &Notify,
        kind: &EntityType,
        members: &HashMap<RoleName, u64>,
    ) -> u64 {
        let roles = self.reached(notify, kind);
        roles.filter_map(|role| members.get(role)).sum()
    }

    /// The roles that are asked for and read this type.
    fn reached<'a>(
        &'a self,
        notify: &'a Notify,
        kind: &'a EntityType,
    ) -> impl Iterator<Item = &'a RoleName> {
        let readers = self.0.roles.iter().filter(move |role| role.can_read(kind));
        let names = readers.map(|role| &role.name);
        names.filter(move |role| notify.members || notify.roles.contains(role))
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
        let readers = self.0.roles.iter().filter(|role| role.can_read(&key.kind));
        let (title, body) = self.words(notify);
        let ttl = notify.ttl.map_or(self.0.push.ttl_ms(notify.lane), |s| i64::from(s) * 1000);
        Draft {
            audience: Audience {
                users: users.into_iter().cloned().collect(),
                actor: pending.actor.user.clone(),
                readers: readers.map(|role| role.name.clone()).collect(),
                member_roles: self.reached(notify, &key.kind).cloned().collect(),
            },
            seq: row.version,
            about: key.kind.clone(),
            title,
            body,
            template: notify.template.clone(),
            vars: notify.vars.as_ref().map(json),
            data: notify.data.as_ref().map(json),
            link: notify.link.clone().filter(|link| self.0.push.may_open(link)),
            lane: notify.lane,
            collapse: notify.collapse.clone(),
            category: notify.category.clone(),
            schedule: notify.send_at.as_ref().and_then(schedule),
            grace: self.0.push.grace_ms(notify.lane),
            ttl,
            created_at: now_ms,
        }
    }

    /// What a rule's template may say of an entity. All read the same words: what one of them may not see is in none.
    fn vars(&self, rule: &Rule, key: &EntityKey, fields: &Fields) -> Fields {
        let declared = self.0.templates.vars(&rule.config.template);
        let known =
            declared.iter().filter_map(|name| Some((name.clone(), fields.get(name)?.clone())));
        let mut vars: Fields = known.collect();
        self.0.roles.iter().for_each(|role| role.redact(&key.kind, &mut vars));
        bound(vars)
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

/// When it is due; whether that is over, the database's clock says. A time that cannot be read is now, because late is
/// worse than early; `Notify::check` has refused those.
fn schedule(at: &SendAt) -> Option<Schedule> {
    Some(match at {
        SendAt::At(ms) => Schedule { at: *ms, local: None },
        SendAt::Local { local, tz: Some(tz) } => {
            Schedule { at: localtime::instant(local, tz)?, local: None }
        }
        SendAt::Local { local, tz: None } => {
            Schedule { at: localtime::earliest(local)?, local: Some(local.clone()) }
        }
    })
}

/// What of an entity is stored with each notification of it, which a crowd may get: as much as a writer may say
/// themselves. Of more, each text is cut to its share, and what cannot be cut is left out.
fn bound(mut vars: Fields) -> Fields {
    let bytes = |value: &serde_json::Value| value.to_string().len();
    if vars.values().map(bytes).sum::<usize>() > VARS {
        let share = VARS / vars.len();
        for value in vars.values_mut() {
            if let serde_json::Value::String(text) = value {
                // No character takes more in JSON.
                *text = cut(std::mem::take(text), share / 6);
            }
        }
        vars.retain(|_, value| bytes(value) <= share);
    }
    vars
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

    fn notify(
        &self,
        actor: &str,
        (project, key): (&ProjectId, &EntityKey),
        fields: &Fields,
        mut vars: Fields,
    ) -> Notify {
        let config = &self.config;
        let users = match fields.get(&config.users_field) {
            Some(serde_json::Value::String(user)) => vec![user.parse().ok()],
            Some(serde_json::Value::Array(users)) => {
                users.iter().take(1000).map(|user| user.as_str()?.parse().ok()).collect()
            }
            _ => Vec::new(),
        };
        let filled = |text: &str| {
            text.replace("{id}", key.id.as_str()).replace("{project}", project.as_str())
        };
        let some = |text: &str| (!text.is_empty()).then(|| filled(text));
        vars.insert("id".into(), key.id.as_str().into());
        vars.insert("project".into(), project.as_str().into());
        vars.insert("actor".into(), actor.into());
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::push::Rule as Configured;
    use serde_json::json;

    fn fields(value: serde_json::Value) -> Fields {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_rule_looks_at_type_kind_and_field() {
        let alert: EntityType = "alert".parse().unwrap();
        let rule = |change: &dyn Fn(&mut Configured)| {
            let mut config = Configured { entity: "alert".into(), ..Configured::default() };
            change(&mut config);
            Rule { entity: alert.clone(), roles: Vec::new(), config }
        };
        let patch = fields(json!({ "risk": "high", "level": 3 }));
        let any = rule(&|_| {});
        assert!(any.applies(&alert, ChangeKind::Delete, &Fields::new()));
        assert!(!any.applies(&"task".parse().unwrap(), ChangeKind::Create, &patch));
        let created = rule(&|rule| rule.on = vec!["create".into()]);
        assert!(created.applies(&alert, ChangeKind::Create, &patch));
        assert!(!created.applies(&alert, ChangeKind::Update, &patch));
        let set = |field: &str, values: &[&str]| {
            let rule = rule(&|rule| {
                rule.field = field.into();
                rule.values = values.iter().map(|value| (*value).to_owned()).collect();
            });
            rule.applies(&alert, ChangeKind::Update, &patch)
        };
        assert!(set("risk", &["critical", "high"]) && set("risk", &[]) && set("level", &["3"]));
        assert!(!set("risk", &["low"]) && !set("owner", &[]) && !set("level", &["4"]));
    }

    #[test]
    fn a_time_that_cannot_be_read_is_now() {
        let local = |local: &str, tz: Option<&str>| SendAt::Local {
            local: local.into(),
            tz: tz.map(str::to_owned),
        };
        assert_eq!(schedule(&local("soon", None)), None);
        assert_eq!(schedule(&SendAt::At(6)), Some(Schedule { at: 6, local: None }));
        let own = schedule(&local("2026-12-01T09:00", None)).unwrap();
        assert_eq!(own.local.as_deref(), Some("2026-12-01T09:00"));
    }

    #[test]
    fn what_a_role_may_not_see_is_in_no_text_of_a_rule() {
        let hidden = [("alert".to_owned(), vec!["salary".to_owned()])].into();
        let role = config::Role { read: vec!["*".into()], hidden, ..config::Role::default() };
        let roles = Roles::compile(&config::Roles([("worker".to_owned(), role)].into())).unwrap();
        let rule = Configured {
            entity: "alert".into(),
            members: true,
            template: "alert".into(),
            ..Configured::default()
        };
        let dir = tempfile::tempdir().unwrap();
        let template =
            "vars = ['title', 'salary', 'id', 'actor']\n[default]\ntitle = '{{ title }}'";
        std::fs::write(dir.path().join("alert.toml"), template).unwrap();
        let templates = Arc::new(Templates::load(dir.path(), &[]).unwrap());
        let notices = Notices::new(
            &config::Push { rules: vec![rule], ..Default::default() },
            &roles,
            templates,
        );
        let rule = &notices.0.rules[0];
        let key = EntityKey { kind: "alert".parse().unwrap(), id: "a1".parse().unwrap() };
        let alert = fields(json!({ "title": "t", "salary": 7, "notes": "nothing says them" }));
        let project = "p".parse().unwrap();
        let vars = notices.vars(rule, &key, &alert);
        let vars = rule.notify("ana", (&project, &key), &alert, vars).vars.unwrap();
        let told = json!({ "title": "t", "id": "a1", "project": "p", "actor": "ana" });
        assert_eq!(json!(vars), told);
    }

    #[test]
    fn however_large_an_entity_is_little_of_it_is_stored_with_each_notification() {
        let small = fields(json!({ "title": "t".repeat(4000), "list": [1, 2] }));
        assert_eq!(bound(small.clone()), small, "all that a writer may say");
        let large = json!({ "title": "\u{1}".repeat(200_000), "list": vec![7; 9000], "n": 1 });
        let vars = bound(fields(large));
        assert!(json!(vars).to_string().len() <= VARS + 100);
        let title = vars["title"].as_str().unwrap();
        assert!(title.chars().count() > 400 && title.ends_with('…'), "{}", title.len());
        assert_eq!((vars.get("list"), vars.get("n")), (None, Some(&json!(1))));
    }
}
