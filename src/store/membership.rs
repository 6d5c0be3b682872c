//! What is known of a user in a project, and what changes it: plain values, no SQL.

use serde::{Deserialize, Serialize};

use crate::id::{EntityId, EntityRef, OpId, ProjectId, RoleName, UserId};
use crate::protocol::op::{Outcome, StoredVerdict, Verdict};

/// What is known of a user in a project.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// The project.
    pub project: ProjectId,
    /// The user.
    pub user: UserId,
    /// Where they stand.
    pub standing: Standing,
    /// When that changed: it rises with every change of any membership.
    pub revision: i64,
}

/// Where a user stands in a project.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// They have this role.
    Role(RoleName),
    /// They have none, whatever a token says.
    Removed,
    /// Nothing is known of them any more.
    Forgotten,
}

impl Standing {
    /// The role, if it is one.
    #[must_use]
    pub fn role(self) -> Option<RoleName> {
        match self {
            Self::Role(role) => Some(role),
            Self::Removed | Self::Forgotten => None,
        }
    }
}

impl From<Option<RoleName>> for Standing {
    fn from(role: Option<RoleName>) -> Self {
        role.map_or(Self::Removed, Self::Role)
    }
}

/// How far memberships have changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MembershipHead {
    /// The latest revision.
    pub revision: i64,
    /// The revision of the latest deletion, of which no row tells.
    pub forgotten: i64,
}

/// A backend's event about a member.
#[derive(Debug, Clone)]
pub struct MemberEvent {
    /// The event's id.
    pub op_id: OpId,
    /// SHA-256 of what it says: the same id with another hash is the backend's fault.
    pub payload_hash: [u8; 32],
    /// The user.
    pub user: UserId,
    /// Their role; none takes them out.
    pub role: Option<RoleName>,
    /// Who sent it: [`super::Actor::client`].
    pub client: String,
}

impl MemberEvent {
    /// The verdict that answers a repetition. A user's name has the form of an entity's id.
    pub(super) fn verdict(&self, outcome: Outcome) -> Verdict {
        let id = EntityId::new(self.user.as_str()).expect("a user's name is an entity's id");
        Verdict {
            op_id: self.op_id.clone(),
            outcome,
            id: EntityRef::Id(id),
            local_id: None,
            seq: None,
            version: None,
            code: None,
            message: None,
            fields: None,
            current: None,
            conflict: None,
        }
    }

    pub(super) fn change(&self, project: &ProjectId, revision: i64) -> Membership {
        let standing = self.role.clone().into();
        Membership { project: project.clone(), user: self.user.clone(), standing, revision }
    }
}

/// What became of a backend's event about a member.
#[derive(Debug, Clone)]
pub enum MemberAnswer {
    /// It was applied; none if that changed nothing.
    New(Option<Membership>),
    /// It was answered before.
    Replayed(StoredVerdict),
    /// Its id was used for something else.
    Reused,
}
