//! How fields become JSON whose types know nothing of it. For serde's
//! `serialize_with`.

use base64::{Engine, prelude::BASE64_STANDARD};
use prost_types::{Any, Timestamp};
use serde::{Serializer, ser::SerializeStruct};

/// A time, as in RFC 3339.
///
/// # Errors
/// Those of the serializer.
pub fn timestamp<S: Serializer>(
    time: &Option<Timestamp>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => serializer.collect_str(time),
        None => serializer.serialize_none(),
    }
}

/// A packed message: its type, and its bytes in base64.
///
/// # Errors
/// Those of the serializer.
pub fn any<S: Serializer>(any: &Option<Any>, serializer: S) -> Result<S::Ok, S::Error> {
    let Some(any) = any else { return serializer.serialize_none() };
    let mut fields = serializer.serialize_struct("Any", 2)?;
    fields.serialize_field("type_url", &any.type_url)?;
    fields.serialize_field("value", &BASE64_STANDARD.encode(&any.value))?;
    fields.end()
}
