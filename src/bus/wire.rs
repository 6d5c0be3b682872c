//! What goes over Redis: a topic's channel name, the header before a payload, a channel's hash slot.
//!
//! Pure. A payload is preceded by `version (1) · origin instance (16) · sent at, ms (8, big-endian)`.

use bytes::{Buf, Bytes};
use uuid::Uuid;

use crate::id::{InstanceId, ProjectId, UserId};

/// What instances talk about. Reference counting is the caller's.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Topic {
    /// A project's changes and ephemeral events.
    Project(ProjectId),
    /// A user's inbox.
    User(UserId),
    /// What concerns every instance.
    Control,
}

impl Topic {
    /// `{prefix}:p:{<project>}`, `{prefix}:u:{<user>}` or `{prefix}:control`; the inner braces are
    /// literal, so that a project's channel shares its keys' slot.
    pub(crate) fn channel(&self, prefix: &str) -> String {
        match self {
            Self::Project(project) => format!("{prefix}:p:{{{project}}}"),
            Self::User(user) => format!("{prefix}:u:{{{user}}}"),
            Self::Control => format!("{prefix}:control"),
        }
    }

    /// The topic of a channel, if it is one's.
    pub(crate) fn of_channel(prefix: &str, channel: &[u8]) -> Option<Self> {
        let rest = std::str::from_utf8(channel).ok()?.strip_prefix(prefix)?.strip_prefix(':')?;
        if rest == "control" {
            return Some(Self::Control);
        }
        let (kind, name) = rest.split_once(":{")?;
        let name = name.strip_suffix('}')?;
        match kind {
            "p" => ProjectId::new(name).ok().map(Self::Project),
            "u" => UserId::new(name).ok().map(Self::User),
            _ => None,
        }
    }
}

/// Changes when an older instance could not read a newer one's messages.
const VERSION: u8 = 1;
const HEADER: usize = 1 + 16 + 8;

/// A payload with its header.
pub(crate) fn seal(origin: InstanceId, sent_at_ms: u64, payload: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(HEADER + payload.len());
    message.push(VERSION);
    message.extend_from_slice(origin.0.as_bytes());
    message.extend_from_slice(&sent_at_ms.to_be_bytes());
    message.extend_from_slice(payload);
    message
}

/// Origin, sending time and payload; `None` for what no instance of this version has written.
pub(crate) fn open(mut message: Bytes) -> Option<(InstanceId, u64, Bytes)> {
    if message.len() < HEADER || message.get_u8() != VERSION {
        return None;
    }
    let origin = InstanceId(Uuid::from_u128(message.get_u128()));
    let sent_at_ms = message.get_u64();
    Some((origin, sent_at_ms, message))
}

/// Redis Cluster's hash slot of a channel: CRC16 (XMODEM) of the first non-empty `{tag}`, or of all.
pub(crate) fn slot(channel: &str) -> u16 {
    let tag = channel
        .split_once('{')
        .and_then(|(_, rest)| rest.split_once('}'))
        .map(|(tag, _)| tag)
        .filter(|tag| !tag.is_empty())
        .unwrap_or(channel);
    let crc = tag.bytes().fold(0_u16, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(byte) << 8), |crc, _| {
            if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
        })
    });
    crc % 16384
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_leads_back_to_its_topic() {
        let user = |name| Topic::User(UserId::new(name).unwrap());
        let project = Topic::Project(ProjectId::new("p-1").unwrap());
        for topic in
            [project.clone(), user("ana@example.org"), user("}"), user("a}b"), Topic::Control]
        {
            let channel = topic.channel("hub");
            assert_eq!(Topic::of_channel("hub", channel.as_bytes()), Some(topic));
            assert_eq!(Topic::of_channel("other", channel.as_bytes()), None);
        }
        assert_eq!(project.channel("hub"), "hub:p:{p-1}");
        assert_eq!(Topic::of_channel("hub", b"hub:p:{a b}"), None);
    }

    #[test]
    fn a_sealed_payload_opens() {
        let origin = InstanceId(Uuid::new_v4());
        let message = Bytes::from(seal(origin, 17, b"hi"));
        assert_eq!(open(message.clone()), Some((origin, 17, Bytes::from_static(b"hi"))));
        assert_eq!(open(message.slice(..HEADER - 1)), None);
        assert_eq!(open(Bytes::from_static(&[9; HEADER])), None);
    }

    #[test]
    fn slots_are_those_of_redis() {
        // `CLUSTER KEYSLOT` of a server says the same.
        assert_eq!(slot("123456789"), 12739);
        assert_eq!(slot("foo"), 12182);
        assert_eq!(slot("a:{foo}:b"), slot("foo"));
        assert_ne!(slot("a:{}:b{foo}"), slot("foo"), "an empty first tag makes it all the key");
    }
}
