//! What a role may see: entity types and, of those, all but some fields.
//!
//! Two lists that let the same through are equal values, however they were written down: so roles can
//! share frames (their class), and a client can tell whether its cursor was kept under the same rules
//! (the scope).

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest, Sha256};

use crate::config;
use crate::id::EntityType;

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

#[cfg(test)]
mod tests {
    use super::*;

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
