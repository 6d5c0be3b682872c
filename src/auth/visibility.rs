//! What a role may see: entity types and, of those, all but some fields.
//!
//! Two lists that let the same through are equal values, however they were written down: so roles can
//! share frames (their class), and a client can tell whether its cursor was kept under the same rules
//! (the scope).

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest, Sha256};

use crate::config;
use crate::id::EntityType;
use crate::protocol::server::Loss;

/// Characters of a scope. A client compares its own with the one of now; 2^64 are enough.
const SCOPE: usize = 16;

/// Names of fields, sorted, each once.
pub(super) type FieldNames = Box<[Box<str>]>;

/// A set of entity types.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Types {
    All,
    /// Sorted, each once, so that equal sets are equal values.
    Only(Box<[EntityType]>),
}

impl Types {
    pub(super) fn compile(path: &str, names: &[String], problems: &mut Vec<String>) -> Self {
        if names.iter().any(|name| name == "*") {
            return Self::All;
        }
        let mut types = Vec::with_capacity(names.len());
        for (i, name) in names.iter().enumerate() {
            match EntityType::new(name) {
                Ok(entity_type) => types.push(entity_type),
                Err(error) => problems.push(format!("{path}[{i}]: {error}, or `*`")),
            }
        }
        types.sort();
        types.dedup();
        Self::Only(types.into())
    }

    pub(super) fn contains(&self, entity_type: &EntityType) -> bool {
        match self {
            Self::All => true,
            Self::Only(types) => types.binary_search(entity_type).is_ok(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        matches!(self, Self::Only(types) if types.is_empty())
    }
}

/// What can be seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Visibility {
    read: Types,
    /// Of every readable type that is not in `by_type`.
    hidden: FieldNames,
    /// Sorted by type; `hidden` is contained in each.
    by_type: Box<[(EntityType, FieldNames)]>,
}

impl Visibility {
    /// Everything.
    pub(super) fn all() -> Self {
        Self { read: Types::All, hidden: Box::default(), by_type: Box::default() }
    }

    /// Reads the lists of the role `name`, adding what is wrong with them to `problems`.
    pub(super) fn compile(name: &str, role: &config::Role, problems: &mut Vec<String>) -> Self {
        let read = Types::compile(&format!("roles.{name}.read"), &role.read, problems);
        let mut everywhere = BTreeSet::new();
        let mut by_type: BTreeMap<EntityType, BTreeSet<&str>> = BTreeMap::new();
        for (kind, fields) in &role.hidden {
            if fields.iter().any(|field| field.is_empty() || field == "*") {
                problems.push(format!(
                    "roles.{name}.hidden.{kind}: must name fields; a whole type is left out of `read`"
                ));
            }
            let fields = fields.iter().map(String::as_str);
            match EntityType::new(kind) {
                _ if kind == "*" => everywhere.extend(fields),
                Ok(kind) => by_type.entry(kind).or_default().extend(fields),
                Err(error) => {
                    problems.push(format!("roles.{name}.hidden.{kind}: {error}, or `*`"));
                }
            }
        }
        // Equal rules become equal values: where the types are listed, each has its own list.
        if let Types::Only(types) = &read {
            by_type.retain(|kind, _| types.contains(kind));
            if !everywhere.is_empty() {
                for kind in types {
                    by_type.entry(kind.clone()).or_default();
                }
            }
        }
        by_type.values_mut().for_each(|fields| fields.extend(&everywhere));
        if matches!(read, Types::Only(_)) {
            everywhere.clear();
        }
        by_type.retain(|_, fields| *fields != everywhere);
        let names = |fields: &BTreeSet<&str>| fields.iter().map(|&field| field.into()).collect();
        let hidden = names(&everywhere);
        let by_type = by_type.iter().map(|(kind, fields)| (kind.clone(), names(fields))).collect();
        Self { read, hidden, by_type }
    }

    /// Whether it holds entities of every type.
    pub(super) fn is_every_type(&self) -> bool {
        self.read == Types::All
    }

    /// The types it holds; none is every type.
    pub(super) fn types(&self) -> Option<&[EntityType]> {
        match &self.read {
            Types::All => None,
            Types::Only(types) => Some(types),
        }
    }

    pub(super) fn can_read(&self, entity_type: &EntityType) -> bool {
        self.read.contains(entity_type)
    }

    /// The fields that are not seen of a readable type.
    pub(super) fn hidden(&self, entity_type: &EntityType) -> &[Box<str>] {
        match self.by_type.binary_search_by(|(kind, _)| kind.cmp(entity_type)) {
            Ok(at) => &self.by_type[at].1,
            Err(_) => &self.hidden,
        }
    }

    /// What somebody sees no more who saw this, and now sees `now`.
    pub(super) fn loss(&self, now: &Self) -> Loss {
        let mut loss = Loss::default();
        let names = |types: &[EntityType]| types.iter().map(ToString::to_string).collect();
        // The types whose fields are compared one by one; where types are not listed, those with a list.
        let mut types: BTreeSet<&EntityType> =
            self.by_type.iter().chain(&now.by_type).map(|(kind, _)| kind).collect();
        match (&self.read, &now.read) {
            (Types::All, Types::All) => {
                let fields = lost(&self.hidden, &now.hidden, &[]);
                if !fields.is_empty() {
                    loss.fields.insert("*".into(), fields);
                }
            }
            (Types::All, Types::Only(kept)) => {
                (loss.types, loss.except) = (vec!["*".into()], names(kept));
                types.extend(kept);
            }
            (Types::Only(seen), _) => {
                let gone = seen.iter().filter(|kind| !now.can_read(kind));
                loss.types = gone.map(ToString::to_string).collect();
                types.extend(seen);
            }
        }
        let everywhere = loss.fields.get("*").cloned().unwrap_or_default();
        for kind in types.into_iter().filter(|kind| self.can_read(kind) && now.can_read(kind)) {
            let fields = lost(self.hidden(kind), now.hidden(kind), &everywhere);
            if !fields.is_empty() {
                loss.fields.insert(kind.to_string(), fields);
            }
        }
        loss
    }

    /// A short text that two roles share if they see the same, on every instance and after every restart.
    pub(super) fn scope(&self) -> Box<str> {
        let read = match &self.read {
            Types::All => None,
            Types::Only(types) => Some(types),
        };
        let whole = serde_json::to_vec(&(read, &self.hidden, &self.by_type));
        let digest = Sha256::digest(whole.expect("names and lists of names are JSON"));
        hex::encode(digest)[..SCOPE].into()
    }
}

/// The fields hidden now that were not, apart from those told already.
fn lost(before: &[Box<str>], now: &[Box<str>], told: &[String]) -> Vec<String> {
    let new = now.iter().filter(|field| !before.contains(field));
    new.map(ToString::to_string).filter(|field| !told.contains(field)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn sees(read: &[&str], hidden: &[(&str, &[&str])]) -> Visibility {
        let list = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let role = config::Role {
            read: list(read),
            hidden: hidden.iter().map(|(kind, names)| ((*kind).to_owned(), list(names))).collect(),
            ..config::Role::default()
        };
        let mut problems = Vec::new();
        let visibility = Visibility::compile("r", &role, &mut problems);
        assert_eq!(problems, [] as [String; 0]);
        visibility
    }

    fn kind(name: &str) -> EntityType {
        EntityType::new(name).unwrap()
    }

    fn hidden(visibility: &Visibility, name: &str) -> Vec<String> {
        visibility.hidden(&kind(name)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn fields_of_every_type_add_to_those_of_one() {
        let all = sees(&["*"], &[("*", &["b", "a"]), ("task", &["c", "a"]), ("note", &["a"])]);
        assert_eq!(hidden(&all, "task"), ["a", "b", "c"]);
        assert_eq!(hidden(&all, "note"), ["a", "b"]);
        assert_eq!(hidden(&all, "other"), ["a", "b"]);
        let some = sees(&["task", "note"], &[("*", &["b"]), ("task", &["c"])]);
        assert_eq!(hidden(&some, "task"), ["b", "c"]);
        assert_eq!(hidden(&some, "note"), ["b"]);
    }

    #[test]
    fn the_same_rules_are_the_same_value_and_the_same_scope() {
        let same = [
            sees(&["task", "note"], &[("*", &["a"])]),
            sees(&["note", "task", "note"], &[("task", &["a", "a"]), ("note", &["a"])]),
            sees(&["note", "task"], &[("*", &["a"]), ("task", &["a"]), ("payroll", &["x"])]),
        ];
        assert!(same.iter().all(|other| *other == same[0] && other.scope() == same[0].scope()));
        let mut scopes: Vec<_> = [
            sees(&["task", "note"], &[("*", &["a"])]),
            sees(&["task", "note"], &[]),
            sees(&["task"], &[("*", &["a"])]),
            sees(&["task", "note"], &[("task", &["a"])]),
            sees(&["*"], &[("*", &["a"])]),
            sees(&["*"], &[("task", &["a"])]),
            sees(&["*"], &[]),
            sees(&[], &[]),
        ]
        .iter()
        .map(Visibility::scope)
        .collect();
        assert!(scopes.iter().all(|scope| scope.len() == SCOPE));
        scopes.sort();
        scopes.dedup();
        assert_eq!(scopes.len(), 8);
        assert_eq!(Visibility::all().scope(), sees(&["*"], &[("task", &[])]).scope());
    }

    #[test]
    fn what_is_lost_is_told_so_that_it_can_be_purged() {
        let all = sees(&["*"], &[]);
        let table = [
            (&all, sees(&["*"], &[]), json!({})),
            (&all, sees(&["task"], &[]), json!({ "types": ["*"], "except": ["task"] })),
            (&all, sees(&[], &[]), json!({ "types": ["*"] })),
            (
                &all,
                sees(&["*"], &[("*", &["b"]), ("task", &["a"])]),
                json!({ "fields": { "*": ["b"], "task": ["a"] } }),
            ),
            (
                &all,
                sees(&["task"], &[("*", &["b"])]),
                json!({ "types": ["*"], "except": ["task"], "fields": { "task": ["b"] } }),
            ),
            (&sees(&["task"], &[]), all.clone(), json!({})),
            (&sees(&["task"], &[]), sees(&["note"], &[]), json!({ "types": ["task"] })),
            (
                &sees(&["task", "note"], &[("task", &["a"])]),
                sees(&["*"], &[("*", &["b"])]),
                json!({ "fields": { "note": ["b"], "task": ["b"] } }),
            ),
            (
                &sees(&["*"], &[("*", &["b"]), ("task", &["a"])]),
                sees(&["*"], &[("note", &["b"])]),
                json!({}),
            ),
        ];
        for (before, now, expected) in table {
            let loss = before.loss(&now);
            assert_eq!(serde_json::to_value(&loss).unwrap(), expected);
            assert_eq!(loss.is_empty(), expected == json!({}));
            // Whoever sees something else has lost or gained.
            assert_eq!(loss.is_empty() && now.loss(before).is_empty(), *before == now);
        }
    }

    #[test]
    fn a_list_of_hidden_fields_names_fields_of_types() {
        let list = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let hidden = [("Task", list(&["a"])), ("task", list(&["*"])), ("note", list(&["", "x"]))];
        let hidden = hidden.into_iter().map(|(kind, fields)| (kind.to_owned(), fields)).collect();
        let role = config::Role { hidden, ..config::Role::default() };
        let mut problems = Vec::new();
        Visibility::compile("r", &role, &mut problems);
        let places: Vec<_> = problems.iter().map(|p| p.split_once(':').unwrap().0).collect();
        assert_eq!(places, ["roles.r.hidden.Task", "roles.r.hidden.note", "roles.r.hidden.task"]);
    }
}
