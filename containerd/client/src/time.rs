//! Times: the wire's and the standard library's.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prost_types::Timestamp;

/// The wire's time as a [`SystemTime`]. Absent, and Go's "no time", which is
/// the first second of the year 1, are `None`.
pub(crate) fn from_wire(time: Option<Timestamp>) -> Option<SystemTime> {
    let Timestamp { seconds, nanos } = time?;
    let seconds = u64::try_from(seconds).ok()?;
    let nanos = u32::try_from(nanos).ok()?;
    (seconds > 0 || nanos > 0).then(|| UNIX_EPOCH + Duration::new(seconds, nanos))
}

/// `<seconds>.<9 digits>` since 1970.
pub(crate) fn decimal(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("{}.{:09}", since.as_secs(), since.subsec_nanos())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_time_is_none() {
        assert_eq!(from_wire(None), None);
        assert_eq!(from_wire(Some(Timestamp::default())), None);
        assert_eq!(from_wire(Some(Timestamp { seconds: -62_135_596_800, nanos: 0 })), None);
    }

    #[test]
    fn nanoseconds_survive() {
        let time = from_wire(Some(Timestamp { seconds: 12, nanos: 34 })).unwrap();
        assert_eq!(decimal(time), "12.000000034");
    }
}
