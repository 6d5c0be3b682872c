use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::protocol::notify::Lane;

/// `[push]`: when an event that asks to reach a person becomes a push, and how it gets there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Push {
    /// Grace for an acknowledgement, lane critical; none for who has no connection. Default 1 s.
    #[serde(with = "humantime_serde")]
    pub grace_critical: Duration,
    /// Grace for an acknowledgement, lane high. Default 1.5 s.
    #[serde(with = "humantime_serde")]
    pub grace_high: Duration,
    /// Grace for an acknowledgement, lane normal. Default 5 s.
    #[serde(with = "humantime_serde")]
    pub grace_normal: Duration,
    /// How often due pushes are looked for, if nothing wakes the workers before. Default 1 s.
    #[serde(with = "humantime_serde")]
    pub poll: Duration,
    /// How long a push stays with a silent worker. Default 30 s.
    #[serde(with = "humantime_serde")]
    pub lease: Duration,
    /// How long a push of lane critical is of use unless its writer says. Default 1 h.
    #[serde(with = "humantime_serde")]
    pub ttl_critical: Duration,
    /// The same for lane high. Default 6 h.
    #[serde(with = "humantime_serde")]
    pub ttl_high: Duration,
    /// The same for lane normal. Default 1 day.
    #[serde(with = "humantime_serde")]
    pub ttl_normal: Duration,
    /// How long pushes other than critical ones are gathered into one request. Default 25 ms.
    #[serde(with = "humantime_serde")]
    pub linger: Duration,
    /// Pushes of one collapse key after the first are gathered this long. Default 30 s.
    #[serde(with = "humantime_serde")]
    pub coalesce: Duration,
    /// Attempts before a push has failed. Default 8.
    pub attempts: u32,
    /// Pushes to one user in 60 minutes, critical ones not counted; 0 is no cap. Default 0.
    pub cap_per_hour: u32,
    /// Time zone of users whose devices name none. Default UTC.
    pub time_zone: String,
    /// When it gets quiet on the user's clock, e.g. `22:00`; empty is never. Default empty.
    pub quiet_from: String,
    /// When quiet hours end on the user's clock. Default `07:00`.
    pub quiet_to: String,
    /// What becomes of a push in quiet hours. Default defer.
    pub quiet_action: QuietAction,
    /// The lanes that respect quiet hours; critical never does. Default normal.
    pub quiet_lanes: Vec<Lane>,
    /// Schemes of deep links that are passed on. Default https and app.
    pub link_schemes: Vec<String>,
    /// Categories of which nobody should get one twice: not sent again if it may have arrived. Default none.
    pub drop_ambiguous: Vec<String>,
    /// Directory of templates; empty is none. Default empty.
    pub templates: PathBuf,
    /// Locales every template must have; empty leaves it to the templates. Default empty.
    pub locales: Vec<String>,
    /// How long what became of a push is kept. Default 30 days.
    #[serde(with = "humantime_serde")]
    pub keep: Duration,
    /// A token that was neither registered nor reached for so long is not used any more. Default 270 days.
    #[serde(with = "humantime_serde")]
    pub token_idle: Duration,
    /// The Expo push service.
    pub expo: Expo,
    /// Whom to reach about what, without the writer asking.
    pub rules: Vec<Rule>,
}

/// What becomes of a push in quiet hours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum QuietAction {
    /// It comes when they end, gathered with the others.
    Defer,
    /// It does not come; the inbox has it.
    Suppress,
}

/// `[push.expo]`: the Expo push service, or what speaks its protocol.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Expo {
    /// Whether to send. Without it a due push is written to the log. Default false.
    pub enabled: bool,
    /// Where it is. Default <https://exp.host>.
    pub base_url: String,
    /// Access token, if the project asks for one. Default empty.
    pub access_token: String,
    /// Notifications a second, over all instances. Default 500; the service allows 600.
    pub rate: u32,
    /// Requests of one instance under way at once. Default 6.
    pub in_flight: u32,
    /// How long a request may take. Default 10 s.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// How long a push waits for its first receipt. The later ones are asked for after 2, 4, 24 and 92 times
    /// as long. Default 15 min.
    #[serde(with = "humantime_serde")]
    pub receipt_after: Duration,
    /// How long the service is left alone once it fails; doubled each time up to 5 min. Default 10 s.
    #[serde(with = "humantime_serde")]
    pub breaker: Duration,
}

/// `[[push.rules]]`: whom to reach about changes of one type.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rule {
    /// The entity type.
    pub entity: String,
    /// What happened to it: `create`, `update`, `delete`; empty is any.
    pub on: Vec<String>,
    /// A field the change must set; empty is no condition.
    pub field: String,
    /// The values of that field, one of which it must have; empty is any.
    pub values: Vec<String>,
    /// All members of the project.
    pub members: bool,
    /// The members with one of these roles.
    pub roles: Vec<String>,
    /// A field of the entity that holds a user or a list of users; empty is none.
    pub users_field: String,
    /// How urgent.
    pub lane: Lane,
    /// The template, filled from the entity's fields, `id`, `project` and `actor`.
    pub template: String,
    /// The deep link, with `{id}` and `{project}` replaced; empty is none.
    pub link: String,
    /// What kind of notification it is; empty is none.
    pub category: String,
    /// The collapse key, with `{id}` and `{project}` replaced; empty is none.
    pub collapse: String,
}

impl Default for Push {
    fn default() -> Self {
        const HOUR: Duration = Duration::from_secs(3600);
        Self {
            grace_critical: Duration::from_secs(1),
            grace_high: Duration::from_millis(1500),
            grace_normal: Duration::from_secs(5),
            poll: Duration::from_secs(1),
            lease: Duration::from_secs(30),
            ttl_critical: HOUR,
            ttl_high: 6 * HOUR,
            ttl_normal: 24 * HOUR,
            linger: Duration::from_millis(25),
            coalesce: Duration::from_secs(30),
            attempts: 8,
            cap_per_hour: 0,
            time_zone: "UTC".into(),
            quiet_from: String::new(),
            quiet_to: "07:00".into(),
            quiet_action: QuietAction::Defer,
            quiet_lanes: vec![Lane::Normal],
            link_schemes: vec!["https".into(), "app".into()],
            drop_ambiguous: Vec::new(),
            templates: PathBuf::new(),
            locales: Vec::new(),
            keep: 30 * 24 * HOUR,
            token_idle: 270 * 24 * HOUR,
            expo: Expo::default(),
            rules: Vec::new(),
        }
    }
}

impl Default for Expo {
    fn default() -> Self {
        Self {
            enabled: false,
            base_url: "https://exp.host".into(),
            access_token: String::new(),
            rate: 500,
            in_flight: 6,
            timeout: Duration::from_secs(10),
            receipt_after: Duration::from_secs(15 * 60),
            breaker: Duration::from_secs(10),
        }
    }
}

impl Push {
    /// Whether an app may be told to open this.
    #[must_use]
    pub fn may_open(&self, link: &str) -> bool {
        link.split_once(':').is_some_and(|(scheme, _)| {
            self.link_schemes.iter().any(|known| known.eq_ignore_ascii_case(scheme))
        })
    }

    /// The grace of a lane, in milliseconds.
    #[must_use]
    pub fn grace_ms(&self, lane: Lane) -> i64 {
        millis(match lane {
            Lane::Critical => self.grace_critical,
            Lane::High => self.grace_high,
            Lane::Normal => self.grace_normal,
        })
    }

    /// How long a push of a lane is of use, in milliseconds.
    #[must_use]
    pub fn ttl_ms(&self, lane: Lane) -> i64 {
        millis(match lane {
            Lane::Critical => self.ttl_critical,
            Lane::High => self.ttl_high,
            Lane::Normal => self.ttl_normal,
        })
    }
}

/// A duration in whole milliseconds.
#[must_use]
pub fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_lane_has_a_grace_and_a_time_of_use_of_its_own() {
        let seconds = Duration::from_secs;
        let push = Push {
            grace_critical: seconds(1),
            grace_high: seconds(2),
            grace_normal: seconds(3),
            ttl_critical: seconds(4),
            ttl_high: seconds(5),
            ttl_normal: seconds(6),
            ..Push::default()
        };
        assert_eq!(Lane::ALL.map(|lane| push.grace_ms(lane)), [1000, 2000, 3000]);
        assert_eq!(Lane::ALL.map(|lane| push.ttl_ms(lane)), [4000, 5000, 6000]);
    }
}
