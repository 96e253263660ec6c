//! The only place where an error kind becomes a ttrpc code, and back; and the
//! names that travel beside a ttrpc call.

use ttrpc::Code;

use crate::{Error, ErrorKind};

/// ttrpc metadata key that carries the containerd namespace
/// (containerd, `pkg/namespaces/ttrpc.go`).
pub const NAMESPACE_KEY: &str = "containerd-namespace-ttrpc";

/// Name of version 2 of the shim's service.
pub const TASK_SERVICE_V2: &str = "containerd.task.v2.Task";
/// Name of version 3 of the shim's service.
pub const TASK_SERVICE_V3: &str = "containerd.task.v3.Task";

/// Annotation in a shim's answer to `-info`, our own: it is the same shim when
/// it is executed by a descriptor of its file, wherever that is mounted.
pub const BY_DESCRIPTOR: &str = "io.containerd.shim.by-descriptor";

impl From<Error> for ttrpc::Error {
    /// The last step of a handler: what the caller gets to see.
    fn from(error: Error) -> Self {
        ttrpc::Error::RpcStatus(ttrpc::get_status(code(error.kind()), error.report()))
    }
}

impl From<ttrpc::Error> for Error {
    /// The first step after a call. A broken connection is `Unavailable`.
    fn from(error: ttrpc::Error) -> Self {
        match error {
            ttrpc::Error::RpcStatus(status) => Self::new(kind(status.code()), status.message),
            ttrpc::Error::Socket(_)
            | ttrpc::Error::Nix(_)
            | ttrpc::Error::LocalClosed
            | ttrpc::Error::RemoteClosed
            | ttrpc::Error::Eof
            | ttrpc::Error::Others(_) => {
                Self::caused(ErrorKind::Unavailable, "ttrpc connection", error)
            }
        }
    }
}

/// The ttrpc code of a kind.
pub fn code(kind: ErrorKind) -> Code {
    match kind {
        ErrorKind::NotFound => Code::NOT_FOUND,
        ErrorKind::AlreadyExists => Code::ALREADY_EXISTS,
        ErrorKind::InvalidArgument => Code::INVALID_ARGUMENT,
        ErrorKind::FailedPrecondition => Code::FAILED_PRECONDITION,
        ErrorKind::OutOfRange => Code::OUT_OF_RANGE,
        ErrorKind::PermissionDenied => Code::PERMISSION_DENIED,
        ErrorKind::ResourceExhausted => Code::RESOURCE_EXHAUSTED,
        ErrorKind::Aborted => Code::ABORTED,
        ErrorKind::Unavailable => Code::UNAVAILABLE,
        ErrorKind::DeadlineExceeded => Code::DEADLINE_EXCEEDED,
        ErrorKind::Cancelled => Code::CANCELLED,
        ErrorKind::Unimplemented => Code::UNIMPLEMENTED,
        ErrorKind::DataLoss => Code::DATA_LOSS,
        ErrorKind::Internal => Code::INTERNAL,
        ErrorKind::Unknown => Code::UNKNOWN,
    }
}

/// The kind of a ttrpc code. An "ok" inside an error is a bug of the other
/// side, and unauthenticated callers do not exist on a unix socket.
pub fn kind(code: Code) -> ErrorKind {
    match code {
        Code::NOT_FOUND => ErrorKind::NotFound,
        Code::ALREADY_EXISTS => ErrorKind::AlreadyExists,
        Code::INVALID_ARGUMENT => ErrorKind::InvalidArgument,
        Code::FAILED_PRECONDITION => ErrorKind::FailedPrecondition,
        Code::OUT_OF_RANGE => ErrorKind::OutOfRange,
        Code::PERMISSION_DENIED | Code::UNAUTHENTICATED => ErrorKind::PermissionDenied,
        Code::RESOURCE_EXHAUSTED => ErrorKind::ResourceExhausted,
        Code::ABORTED => ErrorKind::Aborted,
        Code::UNAVAILABLE => ErrorKind::Unavailable,
        Code::DEADLINE_EXCEEDED => ErrorKind::DeadlineExceeded,
        Code::CANCELLED => ErrorKind::Cancelled,
        Code::UNIMPLEMENTED => ErrorKind::Unimplemented,
        Code::DATA_LOSS => ErrorKind::DataLoss,
        Code::INTERNAL => ErrorKind::Internal,
        Code::UNKNOWN | Code::OK => ErrorKind::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [(ErrorKind, i32); 15] = [
        (ErrorKind::Cancelled, 1),
        (ErrorKind::Unknown, 2),
        (ErrorKind::InvalidArgument, 3),
        (ErrorKind::DeadlineExceeded, 4),
        (ErrorKind::NotFound, 5),
        (ErrorKind::AlreadyExists, 6),
        (ErrorKind::PermissionDenied, 7),
        (ErrorKind::ResourceExhausted, 8),
        (ErrorKind::FailedPrecondition, 9),
        (ErrorKind::Aborted, 10),
        (ErrorKind::OutOfRange, 11),
        (ErrorKind::Unimplemented, 12),
        (ErrorKind::Internal, 13),
        (ErrorKind::Unavailable, 14),
        (ErrorKind::DataLoss, 15),
    ];

    #[test]
    fn each_kind_is_one_code_and_comes_back() {
        for (kind_, number) in ALL {
            assert_eq!(code(kind_) as i32, number);
            assert_eq!(kind(code(kind_)), kind_);
        }
    }

    #[test]
    fn the_caller_reads_the_whole_chain() {
        let error = Error::caused(ErrorKind::NotFound, "kill a", Error::not_found("no task"));
        let ttrpc::Error::RpcStatus(status) = ttrpc::Error::from(error) else { unreachable!() };
        assert_eq!((status.code(), status.message.as_str()), (Code::NOT_FOUND, "kill a: no task"));
    }

    #[test]
    fn a_broken_connection_is_unavailable() {
        assert_eq!(Error::from(ttrpc::Error::Eof).kind(), ErrorKind::Unavailable);
    }
}
