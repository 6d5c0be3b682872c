//! Whom a change has to reach: what a writer asks with an operation or an event.
//!
//! [`Notify::check`] bounds all of it but the number of users (`limits.notify_users`); called where an
//! operation or an event is read.

use serde::{Deserialize, Serialize};

use super::error::{ErrorCode, Refusal};
use super::op::Fields;
use crate::id::{RoleName, UserId};
use crate::localtime;

/// Roles named.
const ROLES: usize = 32;
/// Characters of a title.
const TITLE: usize = 200;
/// Characters of a text.
const BODY: usize = 2000;
/// Characters of a template's, a category's or a zone's name, and of a collapse key.
const NAME: usize = 64;
/// Characters of a deep link.
const LINK: usize = 1024;
/// Bytes of `data`: a push carries about 4 KB, text included.
const DATA: usize = 2048;
/// Bytes of `data` and `link` together: of what a push carries, they leave some for the title.
const DATA_AND_LINK: usize = 2560;
/// Bytes of the variables of a template.
pub const VARS: usize = 8192;
/// The latest moment that is scheduled for: the end of the year 9999.
const LATEST: i64 = 253_402_300_799_999;
/// The longest a push may wait to be delivered, in seconds: what providers keep it for.
const TTL: u32 = 28 * 24 * 3600;

/// How urgent a notification is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Lane {
    /// An emergency: shortest grace, own workers, no caps, no quiet hours.
    Critical,
    /// Someone is waiting.
    High,
    /// Everything else.
    #[default]
    Normal,
}

impl Lane {
    /// All of them, the most urgent first.
    pub const ALL: [Self; 3] = [Self::Critical, Self::High, Self::Normal];

    /// 0 is the most urgent.
    #[must_use]
    pub fn rank(self) -> u8 {
        match self {
            Self::Critical => 0,
            Self::High => 1,
            Self::Normal => 2,
        }
    }

    /// The lane of this name; what nobody knows is not urgent.
    #[must_use]
    pub fn read(name: &str) -> Self {
        Self::ALL.into_iter().find(|lane| lane.as_str() == name).unwrap_or_default()
    }

    /// The lane as it stands on the wire and in the store.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::High => "high",
            Self::Normal => "normal",
        }
    }
}

/// When a notification is due, if not at once.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(untagged, deny_unknown_fields)]
pub enum SendAt {
    /// Milliseconds since the Unix epoch.
    At(i64),
    /// A time on the wall, e.g. `2026-12-01T09:00`.
    Local {
        /// The time, without a zone.
        local: String,
        /// The zone, e.g. `Europe/Berlin`; each recipient's own without it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tz: Option<String>,
    },
}

/// Whom a change has to reach, and with what words.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Notify {
    /// The recipients. The actor is never notified of their own act.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub users: Vec<UserId>,
    /// All members of the project.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub members: bool,
    /// The members with one of these roles.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<RoleName>,
    /// The title a person reads.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub title: String,
    /// The text a person reads.
    #[serde(default)]
    pub body: String,
    /// A configured template, instead of a title and a text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// What the template says `{{ … }}` of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vars: Option<Fields>,
    /// Data for the app.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Fields>,
    /// A deep link for the app to open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
    /// How urgent.
    #[serde(default)]
    pub lane: Lane,
    /// Pushes of one key are gathered, and the later replaces the earlier on the device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collapse: Option<String>,
    /// Seconds after which the push is of no use any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<u32>,
    /// When it is due; at once without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub send_at: Option<SendAt>,
    /// What kind it is, for the app's settings and buttons.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub category: Option<String>,
}

impl Notify {
    /// Checks what the types leave open.
    ///
    /// # Errors
    /// A `bad_request` that says what is wrong.
    pub fn check(&self) -> Result<(), Refusal> {
        let refuse = |what: String| Err(Refusal::new(ErrorCode::BadRequest, what));
        if self.users.is_empty() && !self.members && self.roles.is_empty() {
            return refuse("`notify` needs `users`, `members: true` or `roles`".into());
        }
        if self.title.is_empty() && self.template.is_none() {
            return refuse("`notify` needs a `title` or a `template`".into());
        }
        if self.roles.len() > ROLES {
            return refuse(format!("`notify.roles` must name at most {ROLES}"));
        }
        let short = |text: &Option<String>| text.as_deref().map_or(0, |t| t.chars().count());
        let zone = match &self.send_at {
            Some(SendAt::Local { local, tz }) => {
                local.chars().count().max(tz.as_deref().map_or(0, |tz| tz.chars().count()))
            }
            _ => 0,
        };
        for (name, length, most) in [
            ("title", self.title.chars().count(), TITLE),
            ("body", self.body.chars().count(), BODY),
            ("template", short(&self.template), NAME),
            ("collapse", short(&self.collapse), NAME),
            ("category", short(&self.category), NAME),
            ("link", short(&self.link), LINK),
            ("send_at", zone, NAME),
        ] {
            if length > most {
                return refuse(format!("`notify.{name}` must have at most {most} characters"));
            }
        }
        if matches!(self.send_at, Some(SendAt::At(ms)) if ms > LATEST) {
            return refuse(format!("`notify.send_at` must be at most {LATEST} milliseconds"));
        }
        // A time that cannot be read would be now, for everybody.
        if let Some(SendAt::Local { local, tz }) = &self.send_at {
            let tz = tz.as_deref().unwrap_or("UTC");
            if !localtime::is_zone(tz) {
                return refuse("`notify.send_at.tz` must be a zone such as `Europe/Berlin`".into());
            }
            if !localtime::is_local(local) || localtime::instant(local, tz).is_none() {
                return refuse(
                    "`notify.send_at.local` must be a date and a time such as `2026-12-01T09:00`, \
                    without an offset"
                        .into(),
                );
            }
        }
        let (data, vars, link) = (bytes(&self.data), bytes(&self.vars), bytes(&self.link));
        for (name, bytes, most) in [("data", data, DATA), ("vars", vars, VARS)] {
            if bytes > most {
                return refuse(format!("`notify.{name}` must have at most {most} bytes"));
            }
        }
        if data + link > DATA_AND_LINK {
            return refuse(format!(
                "`notify.data` and `notify.link` must have at most {DATA_AND_LINK} bytes together"
            ));
        }
        if self.ttl.is_some_and(|ttl| ttl == 0 || ttl > TTL) {
            return refuse(format!("`notify.ttl` must be 1 to {TTL} seconds"));
        }
        for (name, text) in [("collapse", &self.collapse), ("category", &self.category)] {
            if text.as_deref().is_some_and(|t| t.is_empty() || t.chars().any(char::is_control)) {
                return refuse(format!("`notify.{name}` must be printable text"));
            }
        }
        Ok(())
    }
}

/// Bytes of a value as JSON; none of what is not there.
fn bytes(value: &Option<impl Serialize>) -> usize {
    let text = value.as_ref().and_then(|value| serde_json::to_string(value).ok());
    text.map_or(0, |text| text.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(notify: serde_json::Value) -> Result<(), String> {
        let notify: Notify = serde_json::from_value(notify).map_err(|e| e.to_string())?;
        notify.check().map_err(|refusal| refusal.message)
    }

    #[test]
    fn everything_a_stranger_can_ask_for_is_bounded() {
        check(json!({"users": ["bo"], "title": "t"})).unwrap();
        check(json!({"members": true, "template": "sos", "vars": {"a": 1}})).unwrap();
        check(json!({"roles": ["lead"], "title": "t", "send_at": {"local": "2026-12-01T09:00"}}))
            .unwrap();
        let at = |local: &str, tz: Option<&str>| {
            let send_at = json!({"local": local, "tz": tz});
            json!({"users": ["bo"], "title": "t", "send_at": send_at})
        };
        for (local, tz) in [("2026-12-01T09:00:30", None), ("2026-12-01 09:00", Some("Asia/Tokyo"))]
        {
            check(at(local, tz)).unwrap();
        }
        for (notify, reason) in [
            (json!({"title": "t"}), "needs `users`"),
            (json!({"users": ["bo"]}), "needs a `title`"),
            (json!({"users": ["bo"], "title": "t", "send_at": i64::MAX}), "`notify.send_at` must"),
            (json!({"roles": vec!["r"; 33], "title": "t"}), "`notify.roles`"),
            (json!({"users": ["bo"], "title": "t".repeat(201)}), "`notify.title`"),
            (json!({"users": ["bo"], "title": "t", "body": "b".repeat(2001)}), "`notify.body`"),
            (json!({"users": ["bo"], "title": "t", "link": "l".repeat(1025)}), "`notify.link`"),
            (
                json!({"users": ["bo"], "title": "t", "data": {"x": "d".repeat(2048)}}),
                "`notify.data`",
            ),
            (
                json!({"users": ["bo"], "title": "t", "data": {"x": "d".repeat(2000)}, "link": "l".repeat(600)}),
                "together",
            ),
            (
                json!({"users": ["bo"], "title": "t", "link": "ü".repeat(1024), "data": {"x": "d".repeat(600)}}),
                "together",
            ),
            (json!({"users": ["bo"], "title": "t", "ttl": 0}), "`notify.ttl`"),
            (json!({"users": ["bo"], "title": "t", "collapse": ""}), "`notify.collapse`"),
            (json!({"users": ["bo"], "title": "t", "collapes": "x"}), "unknown field"),
            (
                json!({"users": ["bo"], "title": "t", "send_at": {"local": "2026-12-01T09:00", "zone": "UTC"}}),
                "SendAt",
            ),
            (at("9 o'clock", None), "`notify.send_at.local`"),
            (at("9999-12-31T23:59", None), "`notify.send_at.local`"),
            (at("2026-13-01T09:00", None), "`notify.send_at.local`"),
            (at("2026-12-01", None), "`notify.send_at.local`"),
            (at("2026-12-01T09:00Z", None), "`notify.send_at.local`"),
            (at("2026-12-01T09:00+02:00", Some("Europe/Berlin")), "`notify.send_at.local`"),
            (at("2026-12-01T09:00[Europe/Berlin]", None), "`notify.send_at.local`"),
            (at("2026-12-01T09:00", Some("Europe/Belrin")), "`notify.send_at.tz`"),
            (at("2026-12-01T09:00", Some("")), "`notify.send_at.tz`"),
        ] {
            let error = check(notify.clone()).unwrap_err();
            assert!(error.contains(reason), "{notify}: {error}");
        }
    }
}
