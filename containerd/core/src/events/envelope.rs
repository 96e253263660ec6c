//! One event with its time, its namespace and its topic.

use std::borrow::Cow;

use runtime_v2::Any;
use shim_protocol::{Context, Error, Id, Result};

use super::{Timestamp, content};
use crate::filter::Adaptor;

/// An event as subscribers get it.
#[derive(Clone, Debug, PartialEq)]
pub struct Envelope {
    /// When the exchange published it; greater than that of every event
    /// before. In an envelope that is forwarded, when its sender made it.
    pub timestamp: Timestamp,
    /// The namespace it is about.
    pub namespace: Id,
    /// What sort of event, such as `/tasks/exit`.
    pub topic: String,
    /// The event itself.
    pub event: Any,
}

/// Fields that filters can ask for: `namespace`, `topic`, and below `event.`
/// the text fields and labels of containerd's messages (containerd,
/// `core/events/events.go`).
impl Adaptor for Envelope {
    fn field(&self, path: &[String]) -> Option<Cow<'_, str>> {
        match path.split_first()? {
            (first, _) if first == "namespace" => Some(Cow::Borrowed(self.namespace.as_str())),
            (first, _) if first == "topic" => Some(Cow::Borrowed(&self.topic)),
            (first, rest) if first == "event" => content::field(&self.event, rest).map(Cow::Owned),
            _ => None,
        }
    }
}

/// The biggest event, in bytes. What containerd publishes has some hundred; a
/// container's labels can make it more.
const MAX_EVENT: usize = 1 << 20;

/// Checks what a publisher has sent.
///
/// # Errors
/// `InvalidArgument` for a malformed topic, or an event that is too big.
pub(super) fn check(envelope: &Envelope) -> Result<()> {
    check_topic(&envelope.topic)?;
    let size = envelope.topic.len() + envelope.event.type_url.len() + envelope.event.value.len();
    if size > MAX_EVENT {
        let topic = &envelope.topic;
        return Err(Error::invalid(format!(
            "event {topic} of {size} bytes, {MAX_EVENT} are allowed"
        )));
    }
    Ok(())
}

/// `/` and at least one component, each of which is an identifier (containerd,
/// `core/events/exchange`).
fn check_topic(topic: &str) -> Result<()> {
    let Some(components) = topic.strip_prefix('/') else {
        return Err(Error::invalid(format!("topic {topic:?} must start with '/'")));
    };
    for component in components.split('/') {
        Id::new("component", component).context("topic", format_args!("{topic:?}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_are_checked() {
        for good in ["/a", "/tasks/exit", "/tasks/exec-added", "/a/b/c"] {
            check_topic(good).unwrap();
        }
        for bad in ["", "/", "a", "tasks/exit", "/tasks/", "//a", "/a//b", "/a b", "/ä"] {
            assert!(check_topic(bad).is_err(), "{bad:?}");
        }
    }
}
