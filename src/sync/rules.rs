//! What the configuration says of entity types, compiled: how their fields are resolved, which of them
//! refer to other entities, and how large an entity may become.
//!
//! Made once at start; read by [`super::plan`] and [`super::submission`].

use std::collections::HashMap;

use super::merge::Rule;
use super::notify::Notices;
use crate::config::{self, Config};
use crate::id::EntityType;

/// The name that stands for every type without rules of its own.
const ANY: &str = "*";

/// Everything a plan is told by the configuration.
#[derive(Debug, Clone)]
pub struct Rules {
    types: HashMap<String, TypeRules>,
    others: TypeRules,
    /// Who is to hear of a change.
    pub notices: Notices,
    /// The most bytes an entity may have as JSON text.
    pub entity_bytes: usize,
    /// The most members an operation of a client may notify by `members` and `roles`.
    pub notify_members: u64,
}

#[derive(Debug, Clone)]
struct TypeRules {
    rule: Rule,
    fields: HashMap<String, Rule>,
    references: HashMap<String, EntityType>,
}

impl TypeRules {
    fn new(entity: &config::Entity) -> Self {
        let config::Entity { strategy, fallback, ref fields } = *entity;
        let rule = Rule { strategy, merge: None, fallback };
        let field = |field: &config::Field| Rule {
            strategy: field.strategy.unwrap_or(strategy),
            merge: field.merge,
            fallback,
        };
        let differing = fields.iter().filter(|(_, f)| f.strategy.is_some() || f.merge.is_some());
        let references = fields.iter().filter_map(|(name, field)| {
            // What is not a type was refused when the configuration was checked.
            Some((name.clone(), EntityType::new(field.references.as_ref()?).ok()?))
        });
        Self {
            rule,
            fields: differing.map(|(name, f)| (name.clone(), field(f))).collect(),
            references: references.collect(),
        }
    }
}

impl Rules {
    /// The rules of a configuration that was checked.
    #[must_use]
    pub fn new(config: &Config, notices: Notices) -> Self {
        let of = |(name, entity): (&String, &_)| (name.clone(), TypeRules::new(entity));
        let mut types: HashMap<_, _> = config.entities.0.iter().map(of).collect();
        let others = types.remove(ANY);
        Self {
            types,
            others: others.unwrap_or_else(|| TypeRules::new(&config::Entity::default())),
            notices,
            entity_bytes: config.limits.entity_bytes,
            notify_members: config.limits.notify_members,
        }
    }

    fn of(&self, kind: &EntityType) -> &TypeRules {
        self.types.get(kind.as_str()).unwrap_or(&self.others)
    }

    /// How an entity of this type is resolved where no single field is meant.
    #[must_use]
    pub fn entity(&self, kind: &EntityType) -> Rule {
        self.of(kind).rule
    }

    /// How a field is resolved.
    #[must_use]
    pub fn field(&self, kind: &EntityType, field: &str) -> Rule {
        let rules = self.of(kind);
        rules.fields.get(field).copied().unwrap_or(rules.rule)
    }

    /// The fields that hold ids of other entities, with these entities' type.
    pub fn references(&self, kind: &EntityType) -> impl Iterator<Item = (&str, &EntityType)> {
        self.of(kind).references.iter().map(|(field, kind)| (field.as_str(), kind))
    }
}
