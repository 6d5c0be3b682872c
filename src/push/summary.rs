//! Numbers for people: what became of pushes, per project, lane and provider. Pure.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::store::push::Stat;

/// What became of the pushes of one project, lane and provider.
#[derive(Debug, Default, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// The project.
    pub project: String,
    /// How urgent.
    pub lane: String,
    /// Through whom; empty for what never got that far.
    pub provider: String,
    /// Accepted by the provider.
    pub sent: i64,
    /// Handed over to the device's platform.
    pub handed: i64,
    /// Confirmed by the device.
    pub delivered: i64,
    /// Opened by a person.
    pub opened: i64,
    /// Will never get there, by reason.
    pub failed: BTreeMap<String, i64>,
    /// Nobody knows.
    pub missing: i64,
    /// Not sent, because it was acknowledged, read or taken back; by reason.
    pub canceled: BTreeMap<String, i64>,
    /// Not sent, because of quiet hours or a cap; by reason.
    pub suppressed: BTreeMap<String, i64>,
    /// Not sent in time.
    pub expired: i64,
    /// Handed over, of what came to an end after it was sent; none if nothing did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub success: Option<f64>,
    /// Bounds of the time from event to acceptance, in milliseconds: half, 95 % and 99 % were faster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<Latency>,
}

/// Upper bounds of the buckets that hold these quantiles; the last bucket has no bound.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Latency {
    /// Half were faster.
    pub p50: Option<i64>,
    /// 95 % were faster.
    pub p95: Option<i64>,
    /// 99 % were faster.
    pub p99: Option<i64>,
}

impl Summary {
    /// Sums up counts.
    #[must_use]
    pub fn of(stats: &[Stat]) -> Vec<Self> {
        let mut by_key: BTreeMap<[&str; 3], (Self, BTreeMap<i64, i64>)> = BTreeMap::new();
        for stat in stats {
            let key = [stat.project.as_str(), &stat.lane, &stat.provider];
            let (summary, latencies) = by_key.entry(key).or_default();
            let reason = || stat.reason.clone();
            match stat.event.as_str() {
                "sent" => summary.sent += stat.count,
                "handed" => summary.handed += stat.count,
                "delivered" => summary.delivered += stat.count,
                "opened" => summary.opened += stat.count,
                "missing" => summary.missing += stat.count,
                "expired" => summary.expired += stat.count,
                "failed" => *summary.failed.entry(reason()).or_default() += stat.count,
                "canceled" => *summary.canceled.entry(reason()).or_default() += stat.count,
                "suppressed" => *summary.suppressed.entry(reason()).or_default() += stat.count,
                "latency" => {
                    let bound = stat.reason.parse().unwrap_or(i64::MAX);
                    *latencies.entry(bound).or_default() += stat.count;
                }
                _ => {}
            }
        }
        let finish =
            |([project, lane, provider], (mut summary, latencies)): ([&str; 3], (Self, _))| {
                summary.project = project.to_owned();
                summary.lane = lane.to_owned();
                summary.provider = provider.to_owned();
                let ended = summary.handed + summary.failed.values().sum::<i64>() + summary.missing;
                summary.success = (ended > 0).then(|| summary.handed as f64 / ended as f64);
                summary.latency_ms = quantiles(&latencies);
                summary
            };
        by_key.into_iter().map(finish).collect()
    }
}

fn quantiles(latencies: &BTreeMap<i64, i64>) -> Option<Latency> {
    let all: i64 = latencies.values().sum();
    let bound = |percent: i64| {
        let mut seen = 0;
        let found = latencies.iter().find(|(_, count)| {
            seen += **count;
            seen * 100 >= all * percent
        });
        found.map(|(bound, _)| *bound).filter(|bound| *bound != i64::MAX)
    };
    (all > 0).then(|| Latency { p50: bound(50), p95: bound(95), p99: bound(99) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(event: &str, reason: &str, count: i64) -> Stat {
        Stat {
            project: "p".into(),
            lane: "high".into(),
            provider: "expo".into(),
            event: event.into(),
            reason: reason.into(),
            count,
        }
    }

    #[test]
    fn success_counts_what_came_to_an_end_after_it_was_sent() {
        let summaries = Summary::of(&[
            stat("sent", "", 110),
            stat("handed", "", 90),
            stat("failed", "DeviceNotRegistered", 6),
            stat("failed", "MessageTooBig", 2),
            stat("missing", "", 2),
            stat("canceled", "acknowledged", 500),
            stat("latency", "50", 60),
            stat("latency", "100", 35),
            stat("latency", "9223372036854775807", 5),
        ]);
        let [summary] = &summaries[..] else { panic!("{summaries:?}") };
        assert_eq!(summary.success, Some(0.9));
        assert_eq!(summary.failed["DeviceNotRegistered"], 6);
        let latency = Latency { p50: Some(50), p95: Some(100), p99: None };
        assert_eq!(summary.latency_ms, Some(latency));
        assert_eq!(Summary::of(&[stat("suppressed", "cap", 1)])[0].success, None);
    }
}
