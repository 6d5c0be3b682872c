use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// `[roles.NAME]`: what a role may do in a project that a token grants it for.
/// Default: `viewer` reads everything; `editor` and `admin` also write, delete and broadcast.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Roles(pub BTreeMap<String, Role>);

/// One role. A list holds entity types; `*` means every type.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Role {
    /// Entity types it may read. Default none.
    pub read: Vec<String>,
    /// Entity types it may create and update. Default none.
    pub write: Vec<String>,
    /// Entity types it may delete. Default none.
    pub delete: Vec<String>,
    /// Whether it may broadcast to ephemeral rooms. Default false.
    pub broadcast: bool,
    /// `[roles.NAME.hidden]`: by entity type, fields it neither reads nor writes; `*` adds to those of
    /// every type. Default none.
    pub hidden: BTreeMap<String, Vec<String>>,
}

impl Default for Roles {
    fn default() -> Self {
        let all = || vec!["*".to_owned()];
        let viewer = Role { read: all(), ..Role::default() };
        let editor = Role {
            read: all(),
            write: all(),
            delete: all(),
            broadcast: true,
            hidden: BTreeMap::new(),
        };
        Self(BTreeMap::from([
            ("viewer".to_owned(), viewer),
            ("editor".to_owned(), editor.clone()),
            ("admin".to_owned(), editor),
        ]))
    }
}
