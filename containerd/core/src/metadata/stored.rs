//! Parts that several records have.

use std::time::{Duration, SystemTime};

/// A message of a client under the name of its type.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Any {
    #[prost(string, tag = "1")]
    pub(crate) type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) value: Vec<u8>,
}

impl From<crate::Any> for Any {
    fn from(any: crate::Any) -> Self {
        Self { type_url: any.type_url, value: any.value }
    }
}

impl From<Any> for crate::Any {
    fn from(any: Any) -> Self {
        Self { type_url: any.type_url, value: any.value }
    }
}

/// Nanoseconds since 1970, good until 2554. An earlier clock counts as 1970.
pub(crate) fn from_time(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// The time of [`from_time`].
pub(crate) fn to_time(nanoseconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_nanos(nanoseconds)
}
