//! Times and durations as people read and write them.

use std::time::{Duration, SystemTime};

use prost_types::Timestamp;

/// A duration in Go's words: a sum of numbers with units, such as `1m30s` or
/// `1.5h`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("{text:?} is no duration, such as 300ms, 10s or 1h30m");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text;
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(bad)?;
        let number: f64 = rest[..end].parse().map_err(|_| bad())?;
        rest = &rest[end..];
        let end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        seconds += number
            * match &rest[..end] {
                "ns" => 1e-9,
                "us" | "µs" => 1e-6,
                "ms" => 1e-3,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                _ => return Err(bad()),
            };
        rest = &rest[end..];
    }
    if text.is_empty() {
        Err(bad())
    } else {
        Duration::try_from_secs_f64(seconds).map_err(|_| bad())
    }
}

/// As [`parse_duration`]; 0 is no limit, and stands for a very long time.
pub(crate) fn parse_limit(text: &str) -> Result<Duration, String> {
    const NEVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
    parse_duration(text).map(|limit| if limit.is_zero() { NEVER } else { limit })
}

/// A time as in RFC 3339, in UTC; "no time" is Go's.
pub(crate) fn rfc3339(time: Option<SystemTime>) -> String {
    time.map_or_else(|| "0001-01-01T00:00:00Z".into(), |time| Timestamp::from(time).to_string())
}

/// A time as Go prints one: `2026-01-02 03:04:05.678 +0000 UTC`, without trailing zeros.
pub(crate) fn go(time: Option<SystemTime>) -> String {
    let time = rfc3339(time).replacen('T', " ", 1);
    let time = time.trim_end_matches('Z');
    let time = if time.contains('.') { time.trim_end_matches('0') } else { time };
    format!("{time} +0000 UTC")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, millis) in
            [("10s", 10_000), ("1m30s", 90_000), ("1.5h", 5_400_000), ("250ms", 250), ("0", 0)]
        {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for bad in ["", "10", "s", "1x", "-1s", "1s5", "1.2.3s"] {
            assert!(parse_duration(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn times() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_millis(1_500);
        assert_eq!(rfc3339(Some(time)), "1970-01-01T00:00:01.500Z");
        assert_eq!(go(Some(time)), "1970-01-01 00:00:01.5 +0000 UTC");
        assert_eq!(go(None), "0001-01-01 00:00:00 +0000 UTC");
    }
}
