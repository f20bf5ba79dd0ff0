//! Values of the command line.

use std::str::FromStr as _;

use portcullis_wire::Level;

use crate::{
    clock::Timestamp,
    model::{Method, Name},
};

/// When something ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expiry {
    /// It does not.
    Never,
    /// After so many milliseconds.
    After(i64),
}

impl Expiry {
    /// The time it means.
    #[must_use]
    pub fn at(self, now: Timestamp) -> Option<Timestamp> {
        match self {
            Self::Never => None,
            Self::After(millis) => Some(now.plus_millis(millis)),
        }
    }
}

/// Since when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Since {
    /// So many milliseconds ago.
    Ago(i64),
    /// A point in time.
    At(Timestamp),
}

impl Since {
    /// The time it means.
    #[must_use]
    pub fn at(self, now: Timestamp) -> Timestamp {
        match self {
            Self::Ago(millis) => now.plus_millis(millis.saturating_neg()),
            Self::At(at) => at,
        }
    }
}

/// A name of a user, service or role.
pub(super) fn name(text: &str) -> Result<Name, String> {
    Name::parse(text).map_err(|error| error.to_string())
}

/// An authentication method.
pub(super) fn method(text: &str) -> Result<Method, String> {
    Method::from_word(text).ok_or_else(|| format!("one of {}", Method::ALL.map(Method::word).join(", ")))
}

/// A level of an application's log.
pub(super) fn level(text: &str) -> Result<Level, String> {
    let level = Level::ALL.into_iter().find(|level| level.word() == text);
    level.ok_or_else(|| format!("one of {}", Level::ALL.map(Level::word).join(", ")))
}

/// `90d`, `never`.
pub(super) fn expiry(text: &str) -> Result<Expiry, String> {
    match text {
        "never" => Ok(Expiry::Never),
        _ => duration(text).map(Expiry::After).ok_or_else(|| "write 30m, 12h, 90d, 4w or never".to_owned()),
    }
}

/// `2h`, `2026-11-01`, `2026-11-01T08:00:00Z`.
pub(super) fn since(text: &str) -> Result<Since, String> {
    if let Some(millis) = duration(text) {
        return Ok(Since::Ago(millis));
    }
    let day = |text| jiff::civil::Date::from_str(text).ok()?.to_zoned(jiff::tz::TimeZone::UTC).ok();
    let at = jiff::Timestamp::from_str(text).ok().or_else(|| day(text).map(|day| day.timestamp()));
    at.map(|at| Since::At(Timestamp(at.as_millisecond())))
        .ok_or_else(|| "write 2h, 7d, 2026-11-01 or 2026-11-01T08:00:00Z".to_owned())
}

/// A number and a unit, in milliseconds; more than nothing.
fn duration(text: &str) -> Option<i64> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        "w" => 7 * 86_400,
        _ => return None,
    };
    number.parse::<i64>().ok().filter(|number| *number > 0)?.checked_mul(seconds)?.checked_mul(1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_a_number_and_a_unit() {
        assert_eq!(expiry("90d"), Ok(Expiry::After(90 * 86_400_000)));
        assert_eq!(expiry("never"), Ok(Expiry::Never));
        for bad in ["", "d", "0d", "-1d", "90", "1y", "9999999999999999d", "1.5h", "٣d"] {
            assert!(expiry(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn since_is_a_time_ago_a_day_or_an_instant() {
        assert_eq!(since("2h").unwrap().at(Timestamp(10_000_000)), Timestamp(2_800_000));
        assert_eq!(since("1970-01-02"), Ok(Since::At(Timestamp(86_400_000))));
        assert_eq!(since("1970-01-01T00:00:01Z"), Ok(Since::At(Timestamp(1000))));
        assert!(since("yesterday").is_err());
    }
}
