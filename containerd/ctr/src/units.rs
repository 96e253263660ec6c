//! Sizes and ages as Go's clients print them.

use std::time::{Duration, SystemTime};

/// A size in bytes, in decimal units and four digits: `5B`, `1.235MB`.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    #[allow(clippy::cast_precision_loss, reason = "four digits are shown")]
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let decimals = match value {
        v if v >= 100.0 => 1,
        v if v >= 10.0 => 2,
        _ => 3,
    };
    let text = format!("{value:.decimals$}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    format!("{}{}", if text.is_empty() { "0" } else { text }, UNITS[unit])
}

/// A size in bytes, in binary units and one decimal: `5.0 B`, `1.2 MiB`.
pub(crate) fn binary(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    #[allow(clippy::cast_precision_loss, reason = "one decimal is shown")]
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// How long ago a time was: `3 minutes`. None is long ago.
pub(crate) fn age(time: Option<SystemTime>) -> String {
    let time = time.unwrap_or(SystemTime::UNIX_EPOCH);
    duration(SystemTime::now().duration_since(time).unwrap_or_default())
}

fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (minutes, hours) = (seconds / 60, (seconds + 1800) / 3600);
    match (seconds, minutes, hours) {
        (0, ..) => "Less than a second".into(),
        (1, ..) => "1 second".into(),
        (2..60, ..) => format!("{seconds} seconds"),
        (_, 1, _) => "About a minute".into(),
        (_, 2..60, _) => format!("{minutes} minutes"),
        (_, _, 1) => "About an hour".into(),
        (_, _, 2..48) => format!("{hours} hours"),
        (_, _, 48..336) => format!("{} days", hours / 24),
        (_, _, 336..1440) => format!("{} weeks", hours / 24 / 7),
        (_, _, 1440..17520) => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", seconds / 3600 / 24 / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Go's `docker/go-units` prints them.
    #[test]
    fn sizes() {
        for (bytes, text) in [
            (0, "0B"),
            (5, "5B"),
            (999, "999B"),
            (1000, "1kB"),
            (1024, "1.024kB"),
            (1_234_567, "1.235MB"),
            (12_345_678, "12.35MB"),
            (123_456_789, "123.5MB"),
            (3_000_000_000, "3GB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn binary_sizes() {
        for (bytes, text) in
            [(0, "0.0 B"), (1023, "1023.0 B"), (1536, "1.5 KiB"), (3 << 20, "3.0 MiB")]
        {
            assert_eq!(binary(bytes), text);
        }
    }

    #[test]
    fn durations() {
        const HOUR: u64 = 3600;
        for (seconds, text) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (3 * 60, "3 minutes"),
            (60 * 60, "About an hour"),
            (3 * HOUR, "3 hours"),
            (50 * HOUR, "2 days"),
            (24 * 30 * HOUR, "4 weeks"),
            (24 * 90 * HOUR, "3 months"),
            (24 * 365 * 3 * HOUR, "3 years"),
        ] {
            assert_eq!(duration(Duration::from_secs(seconds)), text);
        }
    }
}
