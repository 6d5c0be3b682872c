//! Roles from the configuration, and what a connection holds of them.
//!
//! [`Roles`] is compiled once at start; [`super::access`] resolves [`Grants`] from a token's claims and
//! the stored memberships. Nothing here decides about a command: [`super::permit`] does.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use super::visibility::{Types, Visibility};
use crate::config;
use crate::id::{EntityType, ProjectId, RoleName, UserId};
use crate::protocol::op::Fields;
use crate::protocol::server::Loss;

/// Unknown role names remembered so as to warn of each once.
const WARNED_ROLES: usize = 1000;

/// What its holder may do in a project.
#[derive(Debug, PartialEq, Eq)]
pub struct Role {
    /// The name in the configuration and in tokens.
    pub name: RoleName,
    /// The visibility class: roles that see the same share one, and the frames encoded for it.
    pub class: u16,
    sees: Visibility,
    scope: Box<str>,
    write: Types,
    delete: Types,
    broadcast: bool,
}

impl Role {
    /// Whether it may see entities of this type.
    #[must_use]
    pub fn can_read(&self, entity_type: &EntityType) -> bool {
        self.sees.can_read(entity_type)
    }

    /// The types of entities it may see; none is every type.
    #[must_use]
    pub fn readable(&self) -> Option<&[EntityType]> {
        self.sees.types()
    }

    /// The fields of a type that it neither reads nor writes, sorted; empty for most.
    #[must_use]
    pub fn hidden(&self, entity_type: &EntityType) -> &[Box<str>] {
        self.sees.hidden(entity_type)
    }

    /// Whether it neither reads nor writes this field.
    #[must_use]
    pub fn hides(&self, entity_type: &EntityType, field: &str) -> bool {
        self.hidden(entity_type).binary_search_by(|hidden| (**hidden).cmp(field)).is_ok()
    }

    /// Takes the fields it does not read out of an entity's.
    pub fn redact(&self, entity_type: &EntityType, fields: &mut Fields) {
        for hidden in self.hidden(entity_type) {
            fields.remove(&**hidden);
        }
    }

    /// What its holder sees no more once they have the role `now`.
    #[must_use]
    pub fn loss(&self, now: &Self) -> Loss {
        self.sees.loss(&now.sees)
    }

    /// An opaque short text that stands for what it may read: the same for roles that see the same.
    #[must_use]
    pub fn scope(&self) -> &str {
        &self.scope
    }

    /// Whether it may see entities of every type.
    #[must_use]
    pub fn reads_everything(&self) -> bool {
        self.sees.is_every_type()
    }

    /// Whether it may create and update entities of this type.
    #[must_use]
    pub fn can_write(&self, entity_type: &EntityType) -> bool {
        self.write.contains(entity_type)
    }

    /// Whether it may write entities of any type.
    #[must_use]
    pub fn can_write_some(&self) -> bool {
        !self.write.is_empty()
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
                scope: Visibility::all().scope(),
                sees: Visibility::all(),
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
            let sees = Visibility::compile(name, role, &mut problems);
            let mut types = |list: &str, names: &[String]| {
                Types::compile(&format!("roles.{name}.{list}"), names, &mut problems)
            };
            let write = types("write", &role.write);
            let delete = types("delete", &role.delete);
            let name = match RoleName::new(name) {
                Ok(name) => name,
                Err(error) => {
                    problems.push(format!("roles.{name}: {error}"));
                    continue;
                }
            };
            let class = classes.iter().position(|class| class.sees == sees);
            let Ok(number) = u16::try_from(class.unwrap_or(classes.len())) else {
                problems.push(format!("roles: more than {} kinds of what is read", u16::MAX));
                break;
            };
            let broadcast = role.broadcast;
            let role = Arc::new(Role {
                name: name.clone(),
                class: number,
                scope: sees.scope(),
                sees,
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

    /// The names of all roles.
    pub fn names(&self) -> impl Iterator<Item = &RoleName> {
        self.by_name.keys()
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
            tracing::warn!(role = %name, "a role is granted that is not configured: no access");
        }
    }
}

/// What a connection holds: who it is, and its role in each project it is granted.
#[derive(Debug, Clone)]
pub struct Grants {
    user: UserId,
    device: Option<String>,
    /// Sorted by project.
    projects: Box<[(ProjectId, Arc<Role>)]>,
    /// Those whose role is stored, whatever the token says. Sorted.
    stored: Box<[ProjectId]>,
}

impl Grants {
    /// Resolves the names of roles, by project. An unknown role is no access to its project.
    #[must_use]
    pub(super) fn resolve(
        user: &UserId,
        projects: &BTreeMap<ProjectId, RoleName>,
        roles: &Roles,
    ) -> Self {
        let projects = projects
            .iter()
            .filter_map(|(project, name)| {
                let role = roles.get(name);
                if role.is_none() {
                    roles.warn_unknown(name);
                }
                Some((project.clone(), Arc::clone(role?)))
            })
            .collect();
        Self { user: user.clone(), device: None, projects, stored: Box::default() }
    }

    /// The same, knowing in which projects the role is a stored one.
    #[must_use]
    pub(super) fn stored_in(self, mut projects: Vec<ProjectId>) -> Self {
        projects.sort_unstable();
        Self { stored: projects.into(), ..self }
    }

    /// The same, on the device the token was issued to.
    #[must_use]
    pub(super) fn on(self, device: Option<&str>) -> Self {
        Self { device: device.map(str::to_owned), ..self }
    }

    /// The user.
    #[must_use]
    pub fn user(&self) -> &UserId {
        &self.user
    }

    /// The device the token was issued to.
    #[must_use]
    pub fn device(&self) -> Option<&str> {
        self.device.as_deref()
    }

    /// The role in a project; none if it is not granted.
    #[must_use]
    pub fn role(&self, project: &ProjectId) -> Option<&Arc<Role>> {
        let i = self.projects.binary_search_by(|(held, _)| held.cmp(project)).ok()?;
        Some(&self.projects[i].1)
    }

    /// Whether the role in a project is a stored one: once that is forgotten, the token's own is in force.
    #[must_use]
    pub fn is_stored(&self, project: &ProjectId) -> bool {
        self.stored.binary_search(project).is_ok()
    }

    /// Every project granted, in order, with the role.
    pub fn projects(&self) -> impl ExactSizeIterator<Item = (&ProjectId, &Arc<Role>)> {
        self.projects.iter().map(|(project, role)| (project, role))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(read: &[&str], write: &[&str]) -> config::Role {
        let list = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        config::Role { read: list(read), write: list(write), ..config::Role::default() }
    }

    fn roles(roles: &[(&str, config::Role)]) -> Result<Roles, Vec<String>> {
        let roles = roles.iter().map(|(name, role)| ((*name).to_owned(), role.clone()));
        Roles::compile(&config::Roles(roles.collect()))
    }

    #[test]
    fn roles_that_see_the_same_share_a_class() {
        let hidden = BTreeMap::from([("task".to_owned(), vec!["salary".to_owned()])]);
        let roles = roles(&[
            ("a", role(&["task", "note"], &[])),
            ("b", role(&["*"], &["task"])),
            ("c", role(&["note", "task", "note"], &["task"])),
            ("d", role(&["task", "*"], &[])),
            ("e", role(&[], &[])),
            ("f", config::Role { hidden: hidden.clone(), ..role(&["*"], &[]) }),
            ("g", config::Role { hidden, ..role(&["*"], &["task"]) }),
        ])
        .unwrap();
        let role = |name| roles.get(&RoleName::new(name).unwrap()).unwrap();
        let names = ["a", "b", "c", "d", "e", "f", "g"];
        assert_eq!(names.map(|name| role(name).class), [0, 1, 0, 1, 2, 3, 3]);
        let classes: Vec<_> = roles.classes().iter().map(|role| role.class).collect();
        assert_eq!(classes, [0, 1, 2, 3]);
        assert_eq!(role("b").scope(), role("d").scope());
        assert_ne!(role("b").scope(), role("f").scope());
    }

    #[test]
    fn a_hidden_field_is_taken_out() {
        let hidden = [("task".to_owned(), vec!["salary".to_owned()])].into();
        let roles = roles(&[("a", config::Role { hidden, ..role(&["*"], &[]) })]).unwrap();
        let role = roles.get(&RoleName::new("a").unwrap()).unwrap();
        let [task, note] = ["task", "note"].map(|name| EntityType::new(name).unwrap());
        assert!(role.hides(&task, "salary") && !role.hides(&task, "title"));
        assert!(!role.hides(&note, "salary") && role.hidden(&note).is_empty());
        let json = serde_json::json!({ "salary": 1, "title": 2 });
        let mut fields = json.as_object().unwrap().clone();
        role.redact(&note, &mut fields);
        assert_eq!(fields.len(), 2);
        role.redact(&task, &mut fields);
        assert_eq!(fields.keys().collect::<Vec<_>>(), ["title"]);
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
        let projects =
            projects.map(|(p, r)| (ProjectId::new(p).unwrap(), RoleName::new(r).unwrap())).into();
        let grants = Grants::resolve(&UserId::new("ana").unwrap(), &projects, &roles);
        let held: Vec<_> = grants.projects().map(|(p, r)| (p.as_str(), r.name.as_str())).collect();
        assert_eq!(held, [("p1", "viewer"), ("p3", "editor")]);
        assert!(grants.role(&ProjectId::new("p2").unwrap()).is_none());
        assert_eq!(roles.unknown.lock().unwrap().len(), 1, "each unknown role is told once");
    }
}
