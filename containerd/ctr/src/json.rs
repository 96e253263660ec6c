//! Messages as JSON, in the way of Go: empty fields are left out.

use anyhow::Result;
use containerd_api::{AnyError, events, from_any, services::images};
use containerd_client::Any;
use prost::Name;
use serde::Serialize;
use serde_json::Value;

use crate::output;

/// Prints a document with four spaces of indentation, as Go's `ctr` does.
pub(crate) fn print(document: &impl Serialize) -> Result<()> {
    print_indented(document, "    ")
}

/// Prints a document with an indentation of the caller's choice.
pub(crate) fn print_indented(document: &impl Serialize, indent: &str) -> Result<()> {
    let mut bytes = Vec::new();
    let format = serde_json::ser::PrettyFormatter::with_indent(indent.as_bytes());
    document.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, format))?;
    Ok(output::line(String::from_utf8_lossy(&bytes))?)
}

/// Leaves out what is empty: zeros, `false`, `null`, and empty text, lists and
/// objects. Elements of lists stay.
pub(crate) fn without_empty(value: Value) -> Value {
    match value {
        Value::Object(fields) => fields
            .into_iter()
            .map(|(key, value)| (key, without_empty(value)))
            .filter(|(_, value)| !is_empty(value))
            .collect(),
        Value::Array(values) => values.into_iter().map(without_empty).collect(),
        value => value,
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(values) => values.is_empty(),
        Value::Object(_) => false,
    }
}

/// An `Any` whose message is not known here.
pub(crate) fn any(any: &Any) -> Value {
    // Two texts always have a JSON.
    containerd_api::json::any(&Some(any.clone()), serde_json::value::Serializer).unwrap_or_default()
}

/// The message in an event: one that is known, or else the bytes.
pub(crate) fn event(event: &Any) -> Result<Value, AnyError> {
    let name = event.type_url.rsplit('/').next().unwrap_or_default();
    macro_rules! decode {
        ($($message:ty),+ $(,)?) => {
            $(if name == <$message>::full_name() {
                return decode::<$message>(event);
            })+
        };
    }
    decode!(
        events::TaskCreate,
        events::TaskStart,
        events::TaskExit,
        events::TaskDelete,
        events::TaskOom,
        events::TaskExecAdded,
        events::TaskExecStarted,
        events::TaskPaused,
        events::TaskResumed,
        events::TaskCheckpointed,
        events::ContainerCreate,
        events::ContainerUpdate,
        events::ContainerDelete,
        events::NamespaceCreate,
        events::NamespaceUpdate,
        events::NamespaceDelete,
        events::ContentCreate,
        events::ContentDelete,
        events::SnapshotPrepare,
        events::SnapshotCommit,
        events::SnapshotRemove,
        images::v1::ImageCreate,
        images::v1::ImageUpdate,
        images::v1::ImageDelete,
    );
    Ok(any(event))
}

fn decode<M: Name + Default + Serialize>(any: &Any) -> Result<Value, AnyError> {
    let message: M = from_any(any)?;
    // Text, numbers, lists and maps by text: all of that has a JSON.
    Ok(serde_json::to_value(message).map_or(Value::Null, without_empty))
}

#[cfg(test)]
mod tests {
    use containerd_api::to_any;
    use serde_json::json;

    use super::*;

    #[test]
    fn an_event_as_go_writes_it() {
        let exit = events::TaskExit {
            container_id: "web".into(),
            id: "web".into(),
            pid: 7,
            exit_status: 0,
            exited_at: Some(prost_types::Timestamp { seconds: 1, nanos: 0 }),
        };
        assert_eq!(
            event(&to_any(&exit)).unwrap(),
            json!({"container_id": "web", "exited_at": "1970-01-01T00:00:01Z", "id": "web", "pid": 7})
        );
    }

    #[test]
    fn an_unknown_event_is_its_bytes() {
        let unknown = Any { type_url: "example.com/My.Event".into(), value: vec![1, 2] };
        assert_eq!(
            event(&unknown).unwrap(),
            json!({"type_url": "example.com/My.Event", "value": "AQI="})
        );
    }
}
