//! Messages in an `Any`, the way containerd packs them: the type URL is the
//! bare message name, with no `type.googleapis.com/` before it.

use protobuf::{Message, well_known_types::any::Any};

use crate::{Error, ErrorKind, Result, proto};

/// Type URL of an OCI runtime configuration as JSON.
pub const OCI_SPEC_URL: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";
/// Type URL of an OCI process as JSON.
pub const OCI_PROCESS_URL: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";
/// Type URL of OCI Linux resources as JSON.
pub const OCI_RESOURCES_URL: &str =
    "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources";

/// A message with its full name. The lite runtime keeps only the short one.
pub trait Named: Message {
    /// Package and name, such as `containerd.events.TaskExit`.
    const FULL_NAME: &'static str;
}

/// Packs a message under its bare name.
///
/// # Errors
/// `Internal` when the message cannot be encoded.
pub fn pack<M: Named>(message: &M) -> Result<Any> {
    let value = message
        .write_to_bytes()
        .map_err(|e| Error::caused(ErrorKind::Internal, format!("encode {}", M::FULL_NAME), e))?;
    Ok(Any { type_url: M::FULL_NAME.into(), value, ..Default::default() })
}

/// Unpacks a message; a host part before the name is accepted.
///
/// # Errors
/// `InvalidArgument` when it is another message, or its bytes are broken.
pub fn unpack<M: Named>(any: &Any) -> Result<M> {
    if !is::<M>(any) {
        return Err(Error::invalid(format!("expected {}, got {:?}", M::FULL_NAME, any.type_url)));
    }
    M::parse_from_bytes(&any.value).map_err(|e| {
        Error::caused(ErrorKind::InvalidArgument, format!("decode {}", M::FULL_NAME), e)
    })
}

/// Does `any` hold an `M`?
pub fn is<M: Named>(any: &Any) -> bool {
    any.type_url.rsplit('/').next() == Some(M::FULL_NAME)
}

macro_rules! named {
    ($($package:literal: $($module:ident::$name:ident),+;)+) => {
        $($(impl Named for proto::$module::$name {
            const FULL_NAME: &'static str = concat!($package, ".", stringify!($name));
        })+)+
    };
}

named! {
    "containerd.events":
        task_events::TaskCreate, task_events::TaskStart, task_events::TaskDelete,
        task_events::TaskExit, task_events::TaskOOM, task_events::TaskExecAdded,
        task_events::TaskExecStarted, task_events::TaskPaused, task_events::TaskResumed,
        task_events::TaskCheckpointed;
    "containerd.runc.v1":
        runc_options::Options, runc_options::CheckpointOptions, runc_options::ProcessDetails;
    "runtimeoptions.v1": runtime_options::Options;
    "io.containerd.cgroups.v1": cgroups_v1::Metrics;
    "io.containerd.cgroups.v2": cgroups_v2::Metrics;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::task_events::{TaskExit, TaskStart};

    #[test]
    fn round_trip_under_the_bare_name() {
        let exit = TaskExit { container_id: "c".into(), exit_status: 7, ..Default::default() };
        let any = pack(&exit).unwrap();
        assert_eq!(any.type_url, "containerd.events.TaskExit");
        assert_eq!(unpack::<TaskExit>(&any).unwrap(), exit);
    }

    #[test]
    fn a_host_part_is_accepted_and_another_type_is_not() {
        let mut any = pack(&TaskExit::default()).unwrap();
        any.type_url.insert_str(0, "type.googleapis.com/");
        assert!(is::<TaskExit>(&any));
        let error = unpack::<TaskStart>(&any).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    }

    #[test]
    fn broken_bytes_are_invalid() {
        let any =
            Any { type_url: TaskExit::FULL_NAME.into(), value: vec![0xff], ..Default::default() };
        assert_eq!(unpack::<TaskExit>(&any).unwrap_err().kind(), ErrorKind::InvalidArgument);
    }
}
