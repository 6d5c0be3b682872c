//! Times on people's clocks: schedules and quiet hours in their zones.

use jiff::Timestamp;
use jiff::civil::{DateTime, Time};
use jiff::fmt::temporal::Pieces;
use jiff::tz::TimeZone;

/// A wall-clock time before it is anywhere: the clock of UTC+14 gets there first.
const FIRST_OFFSET_MS: i64 = 14 * 3600 * 1000;

/// Whether there is such a zone.
#[must_use]
pub fn is_zone(name: &str) -> bool {
    TimeZone::get(name).is_ok()
}

/// Whether `text` is a date and a time such as `2026-12-01T09:00`, on nobody's clock yet.
#[must_use]
pub fn is_local(text: &str) -> bool {
    let on_no_clock =
        |it: &Pieces<'_>| it.offset().is_none() && it.time_zone_annotation().is_none();
    Pieces::parse(text).is_ok_and(|it| it.time().is_some() && on_no_clock(&it))
}

/// When a time such as `2026-12-01T09:00` comes in a zone, in milliseconds since the Unix epoch. A time
/// that a change of the clocks leaves out comes an hour later, one that it repeats counts the first time.
#[must_use]
pub fn instant(local: &str, zone: &str) -> Option<i64> {
    let local: DateTime = local.parse().ok()?;
    let zone = TimeZone::get(zone).ok()?;
    Some(zone.to_ambiguous_timestamp(local).compatible().ok()?.as_millisecond())
}

/// When that time comes to the first place on earth.
#[must_use]
pub fn earliest(local: &str) -> Option<i64> {
    instant(local, "UTC").map(|ms| ms.saturating_sub(FIRST_OFFSET_MS))
}

/// Whether `text` is a time of day such as `22:00`.
#[must_use]
pub fn is_time(text: &str) -> bool {
    text.parse::<Time>().is_ok()
}

/// If it is quiet at `now_ms` in the zone, when that ends. Quiet hours may span midnight.
#[must_use]
pub fn quiet_until(now_ms: i64, zone: &str, from: &str, to: &str) -> Option<i64> {
    let (from, to) = (from.parse::<Time>().ok()?, to.parse::<Time>().ok()?);
    let zone = TimeZone::get(zone).ok()?;
    let local = zone.to_datetime(Timestamp::from_millisecond(now_ms).ok()?);
    let time = local.time();
    let (quiet, ends_tomorrow) = if from <= to {
        (from <= time && time < to, false)
    } else {
        (time >= from || time < to, time >= from)
    };
    if !quiet {
        return None;
    }
    let day = if ends_tomorrow { local.date().tomorrow().ok()? } else { local.date() };
    let end = zone.to_ambiguous_timestamp(day.to_datetime(to)).compatible().ok()?;
    Some(end.as_millisecond())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(utc: &str) -> i64 {
        utc.parse::<Timestamp>().unwrap().as_millisecond()
    }

    #[test]
    fn a_local_time_comes_when_the_zones_clock_says_so() {
        let at = |local, zone| instant(local, zone).unwrap();
        assert_eq!(at("2026-12-01T09:00", "Europe/Berlin"), ms("2026-12-01T08:00:00Z"));
        assert_eq!(at("2026-07-01T09:00", "Europe/Berlin"), ms("2026-07-01T07:00:00Z"));
        assert_eq!(at("2026-03-29T02:30", "Europe/Berlin"), ms("2026-03-29T01:30:00Z"), "left out");
        assert_eq!(at("2026-10-25T02:30", "Europe/Berlin"), ms("2026-10-25T00:30:00Z"), "repeated");
        assert_eq!(
            at("2026-12-01T09:00", "Pacific/Kiritimati"),
            earliest("2026-12-01T09:00").unwrap()
        );
        assert_eq!(instant("soon", "UTC"), None);
        assert!(is_local("2026-12-01T09:00") && is_local("2026-12-01 09:00:30"));
        let elsewhere = ["2026-12-01T09:00Z", "2026-12-01T09:00+02:00", "2026-12-01T09:00[UTC]"];
        assert!(!elsewhere.into_iter().any(is_local));
        assert!(!["2026-12-01", "09:00", "2026-13-01T09:00", ""].into_iter().any(is_local));
        assert_eq!(instant("2026-12-01T09:00", "Mars/Olympus"), None);
    }

    #[test]
    fn quiet_hours_span_midnight_and_changes_of_the_clock() {
        let until = |utc, zone| quiet_until(ms(utc), zone, "22:00", "07:00");
        assert_eq!(
            until("2026-11-26T21:30:00Z", "Europe/Berlin"),
            Some(ms("2026-11-27T06:00:00Z"))
        );
        assert_eq!(
            until("2026-11-27T05:59:00Z", "Europe/Berlin"),
            Some(ms("2026-11-27T06:00:00Z"))
        );
        assert_eq!(until("2026-11-27T06:00:00Z", "Europe/Berlin"), None);
        assert_eq!(until("2026-11-26T20:59:00Z", "Europe/Berlin"), None);
        assert_eq!(until("2026-11-26T21:30:00Z", "Asia/Tokyo"), Some(ms("2026-11-26T22:00:00Z")));
        // The night in which an hour is left out.
        assert_eq!(
            until("2026-03-28T22:00:00Z", "Europe/Berlin"),
            Some(ms("2026-03-29T05:00:00Z"))
        );
        assert_eq!(
            quiet_until(ms("2026-11-26T13:00:00Z"), "UTC", "12:00", "14:00"),
            Some(ms("2026-11-26T14:00:00Z"))
        );
        assert_eq!(quiet_until(ms("2026-11-26T15:00:00Z"), "UTC", "12:00", "14:00"), None);
        assert_eq!(quiet_until(0, "UTC", "", "07:00"), None);
    }
}
