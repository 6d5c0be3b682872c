//! What a user may do now: the token's claims and the stored memberships, against the configured roles.
//!
//! Asked by the session whenever a connection brings a token or a membership of its user changed, and by
//! the HTTP endpoints for every request.

use std::collections::BTreeMap;

use super::claims::Claims;
use super::memberships::Memberships;
use super::policy::{Grants, Roles};
use crate::config;
use crate::id::{ProjectId, UserId};
use crate::store::Standing;

/// Roles, and who has them.
#[derive(Debug)]
pub struct Access {
    roles: Roles,
    memberships: Memberships,
    mode: config::Memberships,
}

/// Proof that a recipient may be told of something now; made by [`Access::told`] only.
#[derive(Debug)]
#[must_use]
pub struct Told(());

impl Access {
    /// Roles, with no membership known yet.
    #[must_use]
    pub fn new(roles: Roles, mode: config::Memberships) -> Self {
        Self { roles, memberships: Memberships::default(), mode }
    }

    /// What the holder of a token with these claims may do.
    #[must_use]
    pub fn grants(&self, claims: &Claims) -> Grants {
        let stored = match self.mode {
            config::Memberships::Token => Vec::new(),
            _ => self.memberships.of(&claims.user),
        };
        if self.mode != config::Memberships::Hub && stored.is_empty() {
            return Grants::resolve(&claims.user, &claims.projects, &self.roles)
                .on(claims.device.as_deref());
        }
        let mut projects = match self.mode {
            config::Memberships::Hub => BTreeMap::new(),
            _ => claims.projects.clone(),
        };
        let mut by_store = Vec::with_capacity(stored.len());
        for (project, role) in stored {
            match role {
                Some(role) => {
                    by_store.push(project.clone());
                    projects.insert(project, role);
                }
                None => drop(projects.remove(&project)),
            }
        }
        Grants::resolve(&claims.user, &projects, &self.roles)
            .on(claims.device.as_deref())
            .stored_in(by_store)
    }

    /// What is stored of a user in a project, as far as it counts; `Forgotten` leaves it to the token.
    #[must_use]
    pub fn standing(&self, user: &UserId, project: &ProjectId) -> Standing {
        let stored = self.memberships().map(|stored| stored.of(user)).unwrap_or_default();
        match stored.into_iter().find(|(stored, _)| stored == project) {
            Some((_, Some(role))) => Standing::Role(role),
            Some((_, None)) => Standing::Removed,
            None if self.mode == config::Memberships::Hub => Standing::Removed,
            None => Standing::Forgotten,
        }
    }

    /// Whether somebody may be told now about an entity of a type, where no token of theirs is at hand.
    /// `standing` is what is stored of them in the project: a role, nothing for who was taken out, none if
    /// there is no row. Who has none was named by the writer, and is left to the token they come with,
    /// unless the store alone says who is in a project. Without a type it is about no entity.
    #[must_use]
    pub fn told(&self, standing: Option<&str>, kind: Option<&str>) -> Option<Told> {
        let role = match (self.mode, standing) {
            (config::Memberships::Token, _) | (config::Memberships::Override, None) => {
                return Some(Told(()));
            }
            (config::Memberships::Hub, None) => return None,
            (_, Some(role)) => self.roles.get(&role.parse().ok()?)?,
        };
        let reads = match kind {
            None | Some("") => true,
            Some(kind) => role.can_read(&kind.parse().ok()?),
        };
        reads.then_some(Told(()))
    }

    /// The stored memberships, if they count at all.
    #[must_use]
    pub fn memberships(&self) -> Option<&Memberships> {
        (self.mode != config::Memberships::Token).then_some(&self.memberships)
    }

    /// The configured roles.
    #[must_use]
    pub fn roles(&self) -> &Roles {
        &self.roles
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Membership;

    #[test]
    fn who_may_not_read_a_type_now_is_not_told_of_it() {
        let told = |mode, standing, kind| {
            let viewer = config::Role { read: vec!["task".into()], ..config::Role::default() };
            let roles = config::Roles([("viewer".to_owned(), viewer)].into());
            Access::new(Roles::compile(&roles).unwrap(), mode).told(standing, kind).is_some()
        };
        let (by_rows, by_tokens) = (config::Memberships::Hub, config::Memberships::Token);
        for mode in [config::Memberships::Override, by_rows] {
            assert!(told(mode, Some("viewer"), Some("task")));
            assert!(told(mode, Some("viewer"), Some("")) && told(mode, Some("viewer"), None));
            assert!(!told(mode, Some("viewer"), Some("payroll")));
            assert!(!told(mode, Some(""), Some("task")) && !told(mode, Some(""), None));
            assert!(!told(mode, Some("no-such-role"), Some("task")));
        }
        assert!(told(config::Memberships::Override, None, Some("payroll")), "by name");
        assert!(!told(by_rows, None, Some("task")), "the store alone says who is in");
        assert!(told(by_tokens, Some(""), Some("task")), "rows count nothing");
    }

    #[test]
    fn a_row_decides_or_the_claim_as_configured() {
        let claim =
            |(project, role): (&str, &str)| (project.parse().unwrap(), role.parse().unwrap());
        let claims = Claims {
            user: "ana".parse().unwrap(),
            projects: [("kept", "viewer"), ("raised", "viewer"), ("taken", "editor")]
                .map(claim)
                .into(),
            device: None,
            jti: None,
            issued_at: None,
            expires_at: 0,
        };
        let both = vec![("kept", "viewer"), ("new", "editor"), ("raised", "admin")];
        for (mode, expected) in [
            (
                config::Memberships::Token,
                vec![("kept", "viewer"), ("raised", "viewer"), ("taken", "editor")],
            ),
            (config::Memberships::Override, both),
            (config::Memberships::Hub, vec![("new", "editor"), ("raised", "admin")]),
        ] {
            let roles = Roles::compile(&config::Roles::default()).unwrap();
            let access = Access::new(roles, mode);
            let rows = [
                ("raised", Some("admin")),
                ("taken", None),
                ("new", Some("editor")),
                ("unknown", Some("no-such-role")),
            ];
            for (revision, (project, role)) in (1..).zip(rows) {
                access.memberships.apply(&Membership {
                    project: project.parse().unwrap(),
                    user: claims.user.clone(),
                    standing: role.map(|role| role.parse().unwrap()).into(),
                    revision,
                });
            }
            let grants = access.grants(&claims);
            let held: Vec<_> =
                grants.projects().map(|(p, role)| (p.as_str(), role.name.as_str())).collect();
            assert_eq!(held, expected, "{mode:?}");
            assert_eq!(access.memberships().is_some(), mode != config::Memberships::Token);
        }
    }
}
