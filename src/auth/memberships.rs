//! What is stored of who is in which project, held in memory by every instance: so that connecting, and
//! asking what a token grants, needs no database.
//!
//! Changes arrive from this instance, from the bus and from the store, in any order and more than once;
//! of two about the same user and project the one with the later revision stands. The polls of
//! [`crate::sync::members`] make true what the bus lost.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::id::{ProjectId, RoleName, UserId};
use crate::store::{Membership, Standing};

/// Values kept once, each known by a small number.
#[derive(Debug)]
struct Names<T> {
    values: Vec<T>,
    numbers: HashMap<T, u32>,
}

impl<T> Default for Names<T> {
    fn default() -> Self {
        Self { values: Vec::new(), numbers: HashMap::new() }
    }
}

impl<T: Clone + Eq + Hash> Names<T> {
    fn number(&mut self, value: &T) -> u32 {
        if let Some(known) = self.numbers.get(value) {
            return *known;
        }
        let number = u32::try_from(self.values.len()).expect("far fewer than 2^32 names");
        self.values.push(value.clone());
        self.numbers.insert(value.clone(), number);
        number
    }
}

/// One user in one project: 16 bytes.
#[derive(Debug, Clone, Copy)]
struct Row {
    project: u32,
    /// Of the role, plus one; 0 for one who was taken out.
    role: u32,
    revision: i64,
}

#[derive(Debug, Default)]
struct Index {
    projects: Names<ProjectId>,
    roles: Names<RoleName>,
    users: HashMap<UserId, Box<[Row]>>,
    /// The store was read up to this revision: what is older and not held was forgotten.
    read: i64,
}

/// Every stored membership.
#[derive(Debug, Default)]
pub struct Memberships {
    index: RwLock<Index>,
}

impl Memberships {
    /// Puts a change in force; whether anything is different now. One that is older than what is known
    /// changes nothing.
    pub fn apply(&self, change: &Membership) -> bool {
        let mut index = self.write();
        let index = &mut *index;
        let project = index.projects.number(&change.project);
        let rows = index.users.get(&change.user).map_or(&[][..], |rows| rows);
        let at = rows.iter().position(|row| row.project == project);
        let known = at.map_or(index.read, |at| rows[at].revision);
        if known >= change.revision {
            return false;
        }
        let role = match &change.standing {
            Standing::Role(role) => index.roles.number(role) + 1,
            Standing::Removed => 0,
            Standing::Forgotten => {
                let Some(at) = at else { return false };
                index.remove(&change.user, at);
                return true;
            }
        };
        let row = Row { project, role, revision: change.revision };
        let rows = index.users.entry(change.user.clone()).or_default();
        if let Some(at) = at {
            return std::mem::replace(&mut rows[at], row).role != role;
        }
        let mut more = std::mem::take(rows).into_vec();
        more.reserve_exact(1);
        more.push(row);
        *rows = more.into();
        true
    }

    /// Forgets whatever is not among `stored`, unless it is newer than `revision`: the store was read
    /// whole, after it had reached that. Returns whose memberships those were.
    pub fn keep(&self, stored: &HashSet<(ProjectId, UserId)>, revision: i64) -> Vec<UserId> {
        let mut index = self.write();
        let index = &mut *index;
        let mut forgotten = Vec::new();
        for (user, rows) in &index.users {
            for row in rows.iter().filter(|row| row.revision <= revision) {
                let key = (index.projects.values[row.project as usize].clone(), user.clone());
                if !stored.contains(&key) {
                    forgotten.push((key.1, row.project));
                }
            }
        }
        for (user, project) in &forgotten {
            let rows = index.users.get(user).map_or(&[][..], |rows| rows);
            if let Some(at) = rows.iter().position(|row| row.project == *project) {
                index.remove(user, at);
            }
        }
        forgotten.into_iter().map(|(user, _)| user).collect()
    }

    /// Notes that everything the store had at a revision was applied. A message that comes later than that
    /// and is older brings nobody back who was forgotten.
    pub fn read_to(&self, revision: i64) {
        self.write().read = revision;
    }

    /// Lets whatever is read from the store next prevail: it was replaced by an older one.
    pub fn distrust(&self) {
        let mut index = self.write();
        index.read = 0;
        for row in index.users.values_mut().flatten() {
            row.revision = 0;
        }
    }

    /// What is stored of a user: by project a role, or `None` where they were taken out.
    #[must_use]
    pub fn of(&self, user: &UserId) -> Vec<(ProjectId, Option<RoleName>)> {
        let index = self.read();
        let rows = index.users.get(user).map_or(&[][..], |rows| rows);
        rows.iter()
            .map(|row| {
                let role =
                    row.role.checked_sub(1).map(|role| index.roles.values[role as usize].clone());
                (index.projects.values[row.project as usize].clone(), role)
            })
            .collect()
    }

    /// How many are held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.read().users.values().map(|rows| rows.len()).sum()
    }

    /// Whether none is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.read().users.is_empty()
    }

    fn read(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Index> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Index {
    fn remove(&mut self, user: &UserId, at: usize) {
        let Some(rows) = self.users.get_mut(user) else { return };
        let mut left = std::mem::take(rows).into_vec();
        left.swap_remove(at);
        if left.is_empty() {
            self.users.remove(user);
        } else {
            *rows = left.into();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(project: &str, user: &str, role: Option<&str>, revision: i64) -> Membership {
        let standing = role.map(|role| role.parse().unwrap()).into();
        let (project, user) = (project.parse().unwrap(), user.parse().unwrap());
        Membership { project, user, standing, revision }
    }

    fn held(memberships: &Memberships, user: &str) -> Vec<(String, Option<String>)> {
        let mut held: Vec<_> = memberships
            .of(&user.parse().unwrap())
            .into_iter()
            .map(|(project, role)| (project.to_string(), role.map(|role| role.to_string())))
            .collect();
        held.sort();
        held
    }

    fn some(role: &str) -> Option<String> {
        Some(role.to_owned())
    }

    #[test]
    fn the_later_revision_stands_in_whatever_order_they_come() {
        let first = change("p", "ana", Some("editor"), 1);
        let second = change("p", "ana", None, 2);
        for order in [[&first, &second, &first], [&second, &first, &second]] {
            let memberships = Memberships::default();
            for change in order {
                memberships.apply(change);
            }
            assert_eq!(held(&memberships, "ana"), [("p".into(), None)]);
        }
        let memberships = Memberships::default();
        assert!(memberships.apply(&first) && !memberships.apply(&first));
        assert!(!memberships.apply(&change("p", "ana", Some("editor"), 3)), "the role is the same");
        assert!(memberships.apply(&second) || memberships.apply(&change("p", "ana", None, 4)));
    }

    #[test]
    fn an_older_message_brings_nobody_back() {
        let memberships = Memberships::default();
        let stored = change("p", "ana", Some("editor"), 5);
        let forgotten = Membership { standing: Standing::Forgotten, ..change("p", "ana", None, 6) };
        memberships.apply(&stored);
        assert!(memberships.apply(&forgotten));
        memberships.read_to(6);
        assert!(!memberships.apply(&stored) && memberships.is_empty());
        assert!(memberships.apply(&change("p", "ana", Some("viewer"), 7)), "a newer one is news");
        memberships.distrust();
        assert!(memberships.apply(&change("p", "bo", Some("viewer"), 1)), "the store is believed");
    }

    #[test]
    fn rows_of_users_and_projects_are_apart_and_can_be_forgotten() {
        let memberships = Memberships::default();
        for (n, (project, user)) in [("p", "ana"), ("q", "ana"), ("p", "bo")].iter().enumerate() {
            let revision = i64::try_from(n).unwrap() + 1;
            assert!(memberships.apply(&change(project, user, Some("viewer"), revision)));
        }
        assert_eq!(memberships.len(), 3);
        let forget = Membership { standing: Standing::Forgotten, ..change("p", "ana", None, 4) };
        assert!(memberships.apply(&forget) && !memberships.apply(&forget));
        assert_eq!(held(&memberships, "ana"), [("q".into(), some("viewer"))]);
        assert_eq!(held(&memberships, "bo"), [("p".into(), some("viewer"))]);
        assert!(memberships.apply(&change("p", "bo", Some("editor"), 5)));
        let stored = HashSet::from([("q".parse().unwrap(), "ana".parse().unwrap())]);
        assert_eq!(memberships.keep(&stored, 4), [] as [UserId; 0], "a later change is kept");
        memberships.distrust();
        assert!(memberships.apply(&change("p", "bo", Some("viewer"), 1)), "the store is believed");
        assert_eq!(memberships.keep(&HashSet::new(), 1).len(), 2);
        assert!(memberships.is_empty());
    }
}
