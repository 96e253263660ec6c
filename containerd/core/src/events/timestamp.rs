//! The time of an event, which is also its place in the order of all events.

use std::{fmt, str::FromStr, time::Duration, time::SystemTime, time::UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use shim_protocol::{Error, Result};

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// Nanoseconds since 1970. The exchange never gives the same one twice, so
/// that a subscriber can name the last event it has seen.
///
/// As text it is `<seconds>.<nine digits>`.
///
/// ```
/// use containerd_core::events::Timestamp;
/// let time: Timestamp = "1700000000.000000042".parse().unwrap();
/// assert_eq!((time.seconds(), time.subsec_nanos()), (1_700_000_000, 42));
/// assert_eq!(time.to_string(), "1700000000.000000042");
/// ```
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Timestamp(u64);

impl Timestamp {
    /// Before every event.
    pub const ZERO: Self = Self(0);

    /// The time now, by the system's clock.
    pub fn now() -> Self {
        SystemTime::now().into()
    }

    /// From nanoseconds since 1970.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// From protobuf's pair. A time before 1970 becomes [`Self::ZERO`]: Go
    /// sends the year 1 for a time that was never set.
    pub fn from_parts(seconds: i64, nanos: i32) -> Self {
        let (Ok(seconds), Ok(nanos)) = (u64::try_from(seconds), u64::try_from(nanos)) else {
            return Self::ZERO;
        };
        Self(seconds.saturating_mul(NANOS_PER_SECOND).saturating_add(nanos))
    }

    /// Nanoseconds since 1970.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Whole seconds since 1970.
    pub const fn seconds(self) -> u64 {
        self.0 / NANOS_PER_SECOND
    }

    /// Nanoseconds past the whole second.
    pub const fn subsec_nanos(self) -> u32 {
        (self.0 % NANOS_PER_SECOND) as u32
    }

    /// The next one.
    pub(super) const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The one before.
    pub(super) const fn before(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        let nanos = time.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos());
        Self(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

impl From<Timestamp> for SystemTime {
    fn from(time: Timestamp) -> Self {
        UNIX_EPOCH + Duration::from_nanos(time.0)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:09}", self.seconds(), self.subsec_nanos())
    }
}

impl FromStr for Timestamp {
    type Err = Error;

    /// # Errors
    /// `InvalidArgument` for anything but `<seconds>.<nine digits>`.
    fn from_str(text: &str) -> Result<Self> {
        let bad = || Error::invalid(format!("time {text:?} must be <seconds>.<nine digits>"));
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        let (seconds, nanos) = text.split_once('.').ok_or_else(bad)?;
        if !digits(seconds) || !digits(nanos) || nanos.len() != 9 {
            return Err(bad());
        }
        let seconds: u64 = seconds.parse().map_err(|_| bad())?;
        let nanos: u64 = nanos.parse().map_err(|_| bad())?;
        let total = seconds.checked_mul(NANOS_PER_SECOND).and_then(|s| s.checked_add(nanos));
        total.map(Self).ok_or_else(bad)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_goes_both_ways() {
        for nanos in [0, 1, 999_999_999, 1_000_000_000, 1_763_769_600_123_456_789, u64::MAX] {
            let time = Timestamp::from_nanos(nanos);
            assert_eq!(time.to_string().parse::<Timestamp>().unwrap(), time);
        }
    }

    #[test]
    fn bad_text_is_refused() {
        for text in [
            "",
            "1",
            "1.",
            ".000000000",
            "1.1",
            "1.0000000000",
            "-1.000000000",
            "+1.000000000",
            "1.00000000a",
            "99999999999999.000000000",
        ] {
            assert!(text.parse::<Timestamp>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn times_that_were_never_set_are_zero() {
        assert_eq!(Timestamp::from_parts(-62_135_596_800, 0), Timestamp::ZERO);
        assert_eq!(Timestamp::from_parts(1, 2), Timestamp::from_nanos(1_000_000_002));
        assert_eq!(Timestamp::from(UNIX_EPOCH - Duration::from_secs(1)), Timestamp::ZERO);
    }
}
