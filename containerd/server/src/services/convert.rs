//! Between the messages of the API and the types of the core, both ways, for
//! what more than one service speaks of.

use std::time::SystemTime;

use containerd_api::{types, v1::types as task};
use containerd_core::{
    Any,
    content::Digest,
    events::{Envelope, Timestamp},
    images::Descriptor,
    tasks::{Exit, Mount, Process, Status},
};
use shim_protocol::{Error, ErrorKind, Id, Result};

pub(super) fn any_in(any: prost_types::Any) -> Any {
    Any { type_url: any.type_url, value: any.value }
}

pub(super) fn any_out(any: Any) -> prost_types::Any {
    prost_types::Any { type_url: any.type_url, value: any.value }
}

pub(crate) fn mount_in(mount: types::Mount) -> Mount {
    let types::Mount { r#type: kind, source, target, options } = mount;
    Mount { kind, source, target, options }
}

pub(super) fn mount_out(mount: Mount) -> types::Mount {
    let Mount { kind, source, target, options } = mount;
    types::Mount { r#type: kind, source, target, options }
}

/// A descriptor; a size below zero counts as none.
///
/// # Errors
/// `InvalidArgument` when its digest is none.
pub(super) fn descriptor_in(descriptor: types::Descriptor) -> Result<Descriptor> {
    let types::Descriptor { media_type, digest, size, annotations } = descriptor;
    let size = u64::try_from(size).unwrap_or_default();
    let mut found = Descriptor::new(media_type, Digest::parse(&digest)?, size);
    found.annotations = annotations;
    Ok(found)
}

pub(super) fn descriptor_out(descriptor: Descriptor) -> types::Descriptor {
    types::Descriptor {
        media_type: descriptor.media_type,
        digest: descriptor.digest.to_string(),
        size: i64::try_from(descriptor.size).unwrap_or(i64::MAX),
        annotations: descriptor.annotations,
    }
}

/// A time that a client sent.
///
/// # Errors
/// `InvalidArgument` when there is no such time.
pub(crate) fn time_in(time: prost_types::Timestamp) -> Result<SystemTime> {
    SystemTime::try_from(time)
        .map_err(|e| Error::caused(ErrorKind::InvalidArgument, "read a time", e))
}

/// The message that a request must have to make sense.
///
/// # Errors
/// `InvalidArgument` naming what is missing.
pub(super) fn required<T>(what: &str, message: Option<T>) -> Result<T> {
    message.ok_or_else(|| Error::invalid(format!("{what} is required")))
}

/// # Errors
/// `InvalidArgument` when the namespace is malformed.
pub(super) fn envelope_in(envelope: types::Envelope) -> Result<Envelope> {
    let timestamp = envelope
        .timestamp
        .map_or(Timestamp::ZERO, |time| Timestamp::from_parts(time.seconds, time.nanos));
    Ok(Envelope {
        timestamp,
        namespace: Id::new("namespace", &envelope.namespace)?,
        topic: envelope.topic,
        event: any_in(required("event", envelope.event)?),
    })
}

pub(super) fn envelope_out(envelope: &Envelope) -> types::Envelope {
    types::Envelope {
        timestamp: Some(std::time::SystemTime::from(envelope.timestamp).into()),
        namespace: envelope.namespace.to_string(),
        topic: envelope.topic.clone(),
        event: Some(any_out(envelope.event.clone())),
    }
}

pub(super) fn process_out(process: Process) -> task::Process {
    let (exit_status, exited_at) = exit_out(process.exit);
    let id = process.exec_id.as_ref().unwrap_or(&process.container_id).to_string();
    task::Process {
        container_id: process.container_id.to_string(),
        id,
        pid: process.pid,
        status: status_out(process.status).into(),
        stdin: process.stdio.stdin,
        stdout: process.stdio.stdout,
        stderr: process.stdio.stderr,
        terminal: process.stdio.terminal,
        exit_status,
        exited_at,
    }
}

/// Status and time of an exit; a process that still runs has neither.
pub(super) fn exit_out(exit: Option<Exit>) -> (u32, Option<prost_types::Timestamp>) {
    exit.map_or((0, None), |exit| (exit.status, Some(exit.at.into())))
}

fn status_out(status: Status) -> task::Status {
    match status {
        Status::Unknown => task::Status::Unknown,
        Status::Created => task::Status::Created,
        Status::Running => task::Status::Running,
        Status::Stopped => task::Status::Stopped,
        Status::Paused => task::Status::Paused,
        Status::Pausing => task::Status::Pausing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_envelope_comes_back() {
        let envelope = types::Envelope {
            timestamp: Some(prost_types::Timestamp { seconds: 1_700_000_000, nanos: 42 }),
            namespace: "default".into(),
            topic: "/tasks/exit".into(),
            event: Some(prost_types::Any { type_url: "a".into(), value: vec![1] }),
        };
        assert_eq!(envelope_out(&envelope_in(envelope.clone()).unwrap()), envelope);
    }

    #[test]
    fn an_envelope_without_an_event_is_refused() {
        let envelope = types::Envelope { namespace: "default".into(), ..Default::default() };
        assert_eq!(envelope_in(envelope).unwrap_err().to_string(), "event is required");
    }
}
