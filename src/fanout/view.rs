//! What a change looks like to those who may not see all of it.
//!
//! Most roles hide no field, and share the one frame a change was encoded into. For a class of roles that
//! hides some field of the change's type, the frame is made when its first reader needs it, and then
//! shared by all of the class, on every shard.

use std::sync::OnceLock;

use bytes::Bytes;

use super::About;
use super::feed::EncodedChange;
use crate::auth::Role;
use crate::protocol::{frame, redact};

/// The frames made so far, a short list that only grows: it is read without a lock.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Views(OnceLock<Box<View>>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct View {
    class: u16,
    /// None if nothing of the change is seen.
    frame: Option<Bytes>,
    next: Views,
}

impl Views {
    fn of(&self, class: u16, make: impl Fn() -> Option<Bytes>) -> Option<&Bytes> {
        let mut views = self;
        loop {
            let view = views
                .0
                .get_or_init(|| Box::new(View { class, frame: make(), next: Self::default() }));
            if view.class == class {
                return view.frame.as_ref();
            }
            views = &view.next;
        }
    }
}

impl EncodedChange {
    /// The frame for a reader of this role; none if it sees nothing of the change.
    #[must_use]
    pub fn seen_by(&self, role: &Role) -> Option<&Bytes> {
        let kind = &self.entity.kind;
        if !role.can_read(kind) {
            return None;
        }
        let hidden = role.hidden(kind);
        if hidden.is_empty() {
            return Some(&self.frame);
        }
        self.views.of(role.class, || {
            let payload = redact::change(&frame::payload(&self.frame), hidden)?;
            Some(frame::text(|out| out.extend(payload)))
        })
    }
}

/// A frame for a user as a connection of theirs with this role may see it; none if it may not.
#[must_use]
pub fn for_user(frame: &Bytes, about: &About, role: &Role) -> Option<Bytes> {
    let Some(kind) = &about.kind else { return Some(frame.clone()) };
    if !role.can_read(kind) {
        return None;
    }
    let hidden = role.hidden(kind);
    if hidden.is_empty() {
        return Some(frame.clone());
    }
    // Of what users are sent, conflicts alone hold fields of entities; others pass unchanged.
    let payload = redact::conflict(&frame::payload(frame), hidden)?;
    Some(frame::text(|out| out.extend(payload)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Roles;
    use crate::config;
    use crate::id::{EntityKey, RoleName, Seq};

    #[test]
    fn a_class_that_hides_a_field_shares_one_frame_without_it() {
        let role = |hidden: &[(&str, &str)]| config::Role {
            read: vec!["*".into()],
            hidden: hidden.iter().map(|(t, f)| ((*t).into(), vec![(*f).into()])).collect(),
            ..config::Role::default()
        };
        let roles = [
            ("all", role(&[])),
            ("clerk", role(&[("task", "salary")])),
            ("other", role(&[("task", "salary")])),
            ("blind", role(&[("task", "title")])),
            ("notes", role(&[("note", "salary")])),
        ];
        let roles = roles.map(|(name, role)| (name.to_owned(), role)).into();
        let roles = Roles::compile(&config::Roles(roles)).unwrap();
        let role = |name| roles.get(&RoleName::new(name).unwrap()).unwrap();
        let text = |text: &str| frame::text(|p| p.extend(text.bytes()));
        let change = EncodedChange::from_frame(
            Seq(1),
            EntityKey { kind: "task".parse().unwrap(), id: "1".parse().unwrap() },
            text(r#"{"kind":"update","fields":{"salary":1}}"#),
        );
        let address = |name| change.seen_by(role(name)).map(|frame| frame.as_ptr());
        assert_eq!(address("all"), Some(change.frame.as_ptr()));
        assert_eq!(address("notes"), Some(change.frame.as_ptr()));
        assert_eq!(change.seen_by(role("clerk")), Some(&text(r#"{"kind":"update","fields":{}}"#)));
        let change = EncodedChange::from_frame(
            Seq(2),
            change.entity.clone(),
            text(r#"{"kind":"update","fields":{"salary":1,"title":2}}"#),
        );
        let address = |name| change.seen_by(role(name)).map(|frame| frame.as_ptr());
        assert_eq!(
            change.seen_by(role("clerk")),
            Some(&text(r#"{"kind":"update","fields":{"title":2}}"#))
        );
        assert_eq!(
            change.seen_by(role("blind")),
            Some(&text(r#"{"kind":"update","fields":{"salary":1}}"#))
        );
        assert_eq!(address("clerk"), address("other"));
        assert_ne!(address("clerk"), address("blind"));
    }
}
