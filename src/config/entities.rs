use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::protocol::conflict::{Merge, Strategy};

/// `[entities.TYPE]`: how concurrent edits of an entity type are resolved; `*` stands for every type
/// without a table of its own. Default: attendance, task and whatever is not named merge; material,
/// payroll, project and user keep the server's value; of an alert the last edit wins.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Entities(pub BTreeMap<String, Entity>);

/// One entity type.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Entity {
    /// What happens to a field that both sides changed. Default `merge`.
    pub strategy: Strategy,
    /// What `merge` does where a field has no `merge` kind of its own, and with a deletion against an
    /// edit. Not `merge`. Default `server_wins`.
    pub fallback: Strategy,
    /// `[entities.TYPE.fields.NAME]`: fields that differ from the rest. Default none.
    pub fields: BTreeMap<String, Field>,
}

/// One field of an entity type.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Field {
    /// Its own strategy. Default that of its type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strategy: Option<Strategy>,
    /// How two edits of it become one. Default none: `fallback` decides.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub merge: Option<Merge>,
    /// The entity type whose ids it holds, one or a list: `local:` ids in it are replaced. Default none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub references: Option<String>,
}

impl Default for Entity {
    fn default() -> Self {
        Self { strategy: Strategy::Merge, fallback: Strategy::ServerWins, fields: BTreeMap::new() }
    }
}

impl Default for Entities {
    fn default() -> Self {
        let types = [
            ("*", Strategy::Merge),
            ("alert", Strategy::LastWriteWins),
            ("attendance", Strategy::Merge),
            ("material", Strategy::ServerWins),
            ("payroll", Strategy::ServerWins),
            ("project", Strategy::ServerWins),
            ("task", Strategy::Merge),
            ("user", Strategy::ServerWins),
        ];
        let entity = |strategy| Entity { strategy, ..Entity::default() };
        Self(types.map(|(name, strategy)| (name.to_owned(), entity(strategy))).into())
    }
}
