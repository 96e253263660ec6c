//! Messages inside `google.protobuf.Any`, named the way containerd does it.

use std::{error, fmt};

use prost::{DecodeError, Name};
use prost_types::Any;

/// Why an [`Any`] could not be taken for the message that was asked for.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum AnyError {
    /// It holds another message.
    Type {
        /// Full name of the message that was asked for.
        expected: String,
        /// The type URL that was found.
        found: String,
    },
    /// Its bytes are not a message of its type.
    Decode {
        /// Full name of the message.
        name: String,
        /// What is wrong with the bytes.
        source: DecodeError,
    },
}

impl fmt::Display for AnyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Type { expected, found } => {
                write!(f, "expected a message {expected}, found {found:?}")
            }
            Self::Decode { name, .. } => write!(f, "malformed message {name}"),
        }
    }
}

impl error::Error for AnyError {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Self::Type { .. } => None,
            Self::Decode { source, .. } => Some(source),
        }
    }
}

/// Packs a message. The type URL is the message's full name and nothing more:
/// containerd's clients look it up as it is.
///
/// [`Any::from_msg`] is not the same: it puts a slash in front of the name.
pub fn to_any<M: Name>(message: &M) -> Any {
    Any { type_url: M::full_name(), value: message.encode_to_vec() }
}

/// Unpacks a message. The type URL may be the bare name, as [`to_any`] writes
/// it, or have anything up to a last slash before the name, as in
/// `type.googleapis.com/containerd.events.TaskExit`.
///
/// # Errors
///
/// [`AnyError::Type`] if `any` holds another message, [`AnyError::Decode`] if
/// its bytes make no sense.
pub fn from_any<M: Name + Default>(any: &Any) -> Result<M, AnyError> {
    let expected = M::full_name();
    let url = any.type_url.as_str();
    if url.rsplit_once('/').map_or(url, |(_, name)| name) != expected {
        return Err(AnyError::Type { expected, found: url.to_owned() });
    }
    M::decode(any.value.as_slice()).map_err(|source| AnyError::Decode { name: expected, source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cgroups, events, google, grpc, runc, runtimeoptions,
        services::{containers::v1::container, images},
        types, v1,
    };

    fn exit() -> events::TaskExit {
        events::TaskExit {
            container_id: "redis".into(),
            id: "shell".into(),
            pid: 42,
            exit_status: 137,
            exited_at: Some(prost_types::Timestamp { seconds: 1, nanos: 2 }),
        }
    }

    #[test]
    fn the_type_url_is_the_bare_name() {
        let any = to_any(&exit());
        assert_eq!(any.type_url, "containerd.events.TaskExit");
        assert_eq!(from_any(&any), Ok(exit()));
    }

    #[test]
    fn any_prefix_is_accepted() {
        for url in [
            "/containerd.events.TaskExit",
            "type.googleapis.com/containerd.events.TaskExit",
            "https://example.com/a/b/containerd.events.TaskExit",
        ] {
            let any = Any { type_url: url.into(), ..to_any(&exit()) };
            assert_eq!(from_any(&any), Ok(exit()), "{url}");
        }
    }

    #[test]
    fn another_type_is_refused() {
        for url in [
            "",
            "/",
            "TaskExit",
            "containerd.events.TaskExit/",
            "xcontainerd.events.TaskExit",
            "containerd.events.TaskExit2",
            "containerd.events.TaskStart",
        ] {
            let any = Any { type_url: url.into(), ..to_any(&exit()) };
            assert_eq!(
                from_any::<events::TaskExit>(&any),
                Err(AnyError::Type {
                    expected: "containerd.events.TaskExit".into(),
                    found: url.into(),
                }),
            );
        }
    }

    #[test]
    fn broken_bytes_are_an_error() {
        let mut any = to_any(&exit());
        any.value.truncate(3);
        let error = from_any::<events::TaskExit>(&any).unwrap_err();
        assert!(matches!(error, AnyError::Decode { .. }));
        assert_eq!(error.to_string(), "malformed message containerd.events.TaskExit");
    }

    /// Names are part of the contract with clients; the ones of well-known
    /// odd packages and spellings are easily lost.
    #[test]
    fn names_are_containerds() {
        fn name<M: Name>() -> String {
            M::full_name()
        }
        assert_eq!(name::<events::TaskOom>(), "containerd.events.TaskOOM");
        assert_eq!(name::<events::TaskIo>(), "containerd.events.TaskIO");
        assert_eq!(name::<events::ContainerCreate>(), "containerd.events.ContainerCreate");
        assert_eq!(name::<images::v1::ImageCreate>(), "containerd.services.images.v1.ImageCreate");
        assert_eq!(
            name::<container::Runtime>(),
            "containerd.services.containers.v1.Container.Runtime"
        );
        assert_eq!(name::<types::Mount>(), "containerd.types.Mount");
        assert_eq!(name::<v1::types::Process>(), "containerd.v1.types.Process");
        assert_eq!(name::<runc::v1::Options>(), "containerd.runc.v1.Options");
        assert_eq!(name::<runtimeoptions::v1::Options>(), "runtimeoptions.v1.Options");
        assert_eq!(name::<cgroups::v1::Metrics>(), "io.containerd.cgroups.v1.Metrics");
        assert_eq!(name::<cgroups::v2::Metrics>(), "io.containerd.cgroups.v2.Metrics");
        assert_eq!(name::<google::rpc::Status>(), "google.rpc.Status");
        assert_eq!(
            name::<grpc::health::v1::HealthCheckRequest>(),
            "grpc.health.v1.HealthCheckRequest"
        );
    }
}
