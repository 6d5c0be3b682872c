//! Roles from the configuration, and what a connection holds of them.
//!
//! [`Roles`] is compiled once at start; [`Grants`] is resolved from a token's claims whenever a
//! connection brings one. Nothing here decides about a command: [`super::permit`] does.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use super::claims::Claims;
use crate::config;
use crate::id::{EntityType, ProjectId, RoleName, UserId};

/// Unknown role names remembered so as to warn of each once.
const WARNED_ROLES: usize = 1000;

/// A set of entity types.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Types {
    All,
    /// Sorted, each once, so that equal sets are equal values.
    Only(Box<[EntityType]>),
}

impl Types {
    fn compile(path: &str, names: &[String], problems: &mut Vec<String>) -> Self {
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

    fn contains(&self, entity_type: &EntityType) -> bool {
        match self {
            Self::All => true,
            Self::Only(types) => types.binary_search(entity_type).is_ok(),
        }
    }
}

/// What its holder may do in a project.
#[derive(Debug, PartialEq, Eq)]
pub struct Role {
    /// The name in the configuration and in tokens.
    pub name: RoleName,
    /// The visibility class: roles with equal read lists share one, and the frames encoded for it.
    pub class: u16,
    read: Types,
    write: Types,
    delete: Types,
    broadcast: bool,
}

impl Role {
    /// Whether it may see entities of this type.
    #[must_use]
    pub fn can_read(&self, entity_type: &EntityType) -> bool {
        self.read.contains(entity_type)
    }

    /// Whether it may create and update entities of this type.
    #[must_use]
    pub fn can_write(&self, entity_type: &EntityType) -> bool {
        self.write.contains(entity_type)
    }

    /// Whether it may delete entities of this type.
    #[must_use]
    pub fn can_delete(&self, entity_type: &EntityType) -> bool {
        self.delete.contains(entity_type)
    }

    /// Whether it may broadcast to ephemeral rooms.
    #[must_use]
    pub fn can_broadcast(&self) -> bool {
        self.broadcast
    }

    /// The role of backends: everything. Its class, `u16::MAX`, is none of [`Roles::classes`].
    pub(super) fn backend() -> Arc<Self> {
        static BACKEND: LazyLock<Arc<Role>> = LazyLock::new(|| {
            Arc::new(Role {
                name: RoleName::new("backend").expect("the literal is a role name"),
                class: u16::MAX,
                read: Types::All,
                write: Types::All,
                delete: Types::All,
                broadcast: true,
            })
        });
        Arc::clone(&BACKEND)
    }
}

/// The configured roles by name.
#[derive(Debug)]
pub struct Roles {
    by_name: BTreeMap<RoleName, Arc<Role>>,
    classes: Vec<Arc<Role>>,
    unknown: Mutex<HashSet<RoleName>>,
}

impl Roles {
    /// Compiles the configured roles.
    ///
    /// # Errors
    /// Everything that is wrong with them, each with its path in the configuration.
    pub fn compile(config: &config::Roles) -> Result<Self, Vec<String>> {
        let mut problems = Vec::new();
        let mut by_name = BTreeMap::new();
        let mut classes: Vec<Arc<Role>> = Vec::new();
        for (name, role) in &config.0 {
            let mut types = |list: &str, names: &[String]| {
                Types::compile(&format!("roles.{name}.{list}"), names, &mut problems)
            };
            let read = types("read", &role.read);
            let write = types("write", &role.write);
            let delete = types("delete", &role.delete);
            let name = match RoleName::new(name) {
                Ok(name) => name,
                Err(error) => {
                    problems.push(format!("roles.{name}: {error}"));
                    continue;
                }
            };
            let class = classes.iter().position(|class| class.read == read);
            let Ok(number) = u16::try_from(class.unwrap_or(classes.len())) else {
                problems.push(format!("roles: more than {} kinds of read list", u16::MAX));
                break;
            };
            let broadcast = role.broadcast;
            let role = Arc::new(Role {
                name: name.clone(),
                class: number,
                read,
                write,
                delete,
                broadcast,
            });
            if class.is_none() {
                classes.push(Arc::clone(&role));
            }
            by_name.insert(name, role);
        }
        if problems.is_empty() {
            Ok(Self { by_name, classes, unknown: Mutex::default() })
        } else {
            Err(problems)
        }
    }

    /// The role of this name.
    #[must_use]
    pub fn get(&self, name: &RoleName) -> Option<&Arc<Role>> {
        self.by_name.get(name)
    }

    /// All of them, by name.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Role>> {
        self.by_name.values()
    }

    /// A role of each visibility class, at the class's index, to filter by.
    #[must_use]
    pub fn classes(&self) -> &[Arc<Role>] {
        &self.classes
    }

    fn warn_unknown(&self, name: &RoleName) {
        let mut unknown = self.unknown.lock().unwrap_or_else(PoisonError::into_inner);
        if unknown.len() < WARNED_ROLES && unknown.insert(name.clone()) {
            tracing::warn!(role = %name, "tokens grant a role that is not configured: no access");
        }
    }
}

/// What a connection holds: who it is, and its role in each project its token grants.
#[derive(Debug, Clone)]
pub struct Grants {
    user: UserId,
    /// Sorted by project.
    projects: Box<[(ProjectId, Arc<Role>)]>,
}

impl Grants {
    /// Resolves claims against the configured roles. An unknown role is no access to its project.
    #[must_use]
    pub fn resolve(claims: &Claims, roles: &Roles) -> Self {
        let projects = claims
            .projects
            .iter()
            .filter_map(|(project, name)| {
                let role = roles.get(name);
                if role.is_none() {
                    roles.warn_unknown(name);
                }
                Some((project.clone(), Arc::clone(role?)))
            })
            .collect();
        Self { user: claims.user.clone(), projects }
    }

    /// The user.
    #[must_use]
    pub fn user(&self) -> &UserId {
        &self.user
    }

    /// The role in a project; none if the token does not grant it.
    #[must_use]
    pub fn role(&self, project: &ProjectId) -> Option<&Arc<Role>> {
        let i = self.projects.binary_search_by(|(held, _)| held.cmp(project)).ok()?;
        Some(&self.projects[i].1)
    }

    /// Every project granted, in order, with the role.
    pub fn projects(&self) -> impl ExactSizeIterator<Item = (&ProjectId, &Arc<Role>)> {
        self.projects.iter().map(|(project, role)| (project, role))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::testing::NOW;

    fn role(read: &[&str], write: &[&str]) -> config::Role {
        let list = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        config::Role { read: list(read), write: list(write), ..config::Role::default() }
    }

    fn roles(roles: &[(&str, config::Role)]) -> Result<Roles, Vec<String>> {
        let roles = roles.iter().map(|(name, role)| ((*name).to_owned(), role.clone()));
        Roles::compile(&config::Roles(roles.collect()))
    }

    #[test]
    fn roles_that_read_the_same_share_a_class() {
        let roles = roles(&[
            ("a", role(&["task", "note"], &[])),
            ("b", role(&["*"], &["task"])),
            ("c", role(&["note", "task", "note"], &["task"])),
            ("d", role(&["task", "*"], &[])),
            ("e", role(&[], &[])),
        ])
        .unwrap();
        let class = |name| roles.get(&RoleName::new(name).unwrap()).unwrap().class;
        assert_eq!(["a", "b", "c", "d", "e"].map(class), [0, 1, 0, 1, 2]);
        let classes: Vec<_> = roles.classes().iter().map(|role| role.class).collect();
        assert_eq!(classes, [0, 1, 2]);
    }

    #[test]
    fn lists_hold_types_or_everything() {
        let roles = roles(&[("a", role(&["*"], &["task"]))]).unwrap();
        let role = roles.get(&RoleName::new("a").unwrap()).unwrap();
        let [task, note] = ["task", "note"].map(|name| EntityType::new(name).unwrap());
        assert!(role.can_read(&task) && role.can_read(&note));
        assert!(role.can_write(&task) && !role.can_write(&note));
        assert!(!role.can_delete(&task) && !role.can_broadcast());
    }

    #[test]
    fn all_problems_are_told_with_their_place() {
        let problems =
            roles(&[("a b", role(&["*"], &[])), ("c", role(&["task", "Task"], &["x", "**"]))])
                .unwrap_err();
        let places: Vec<_> = problems.iter().map(|p| p.split_once(':').unwrap().0).collect();
        assert_eq!(places, ["roles.a b", "roles.c.read[1]", "roles.c.write[1]"]);
    }

    #[test]
    fn an_unknown_role_is_no_access() {
        let roles = Roles::compile(&config::Roles::default()).unwrap();
        let projects = [("p1", "viewer"), ("p2", "owner"), ("p3", "editor"), ("p4", "owner")];
        let claims = Claims {
            user: UserId::new("ana").unwrap(),
            projects: projects
                .map(|(p, r)| (ProjectId::new(p).unwrap(), RoleName::new(r).unwrap()))
                .into(),
            device: None,
            jti: None,
            issued_at: None,
            expires_at: NOW,
        };
        let grants = Grants::resolve(&claims, &roles);
        let held: Vec<_> = grants.projects().map(|(p, r)| (p.as_str(), r.name.as_str())).collect();
        assert_eq!(held, [("p1", "viewer"), ("p3", "editor")]);
        assert!(grants.role(&ProjectId::new("p2").unwrap()).is_none());
        assert_eq!(roles.unknown.lock().unwrap().len(), 1, "each unknown role is told once");
    }
}
