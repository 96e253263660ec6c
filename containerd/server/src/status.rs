//! The only place where an error kind becomes a gRPC code, or comes of one.

use shim_protocol::{Error, ErrorKind};
use tonic::{Code, Status};

/// What a client gets to see: the code, and the text. The last step of a handler.
pub(crate) fn of(error: Error) -> Status {
    Status::new(code(error.kind()), text(&error))
}

/// The whole chain as text. Many errors only name the thing, and not every client
/// shows the code. What is added are the words of containerd, whose clients know
/// them (`errdefs`).
pub(crate) fn text(error: &Error) -> String {
    let mut text = error.report().to_string();
    match error.kind() {
        ErrorKind::NotFound => text.push_str(": not found"),
        ErrorKind::AlreadyExists => text.push_str(": already exists"),
        _ => {}
    }
    text
}

/// The gRPC code of a kind.
pub(crate) fn code(kind: ErrorKind) -> Code {
    match kind {
        ErrorKind::NotFound => Code::NotFound,
        ErrorKind::AlreadyExists => Code::AlreadyExists,
        ErrorKind::InvalidArgument => Code::InvalidArgument,
        ErrorKind::FailedPrecondition => Code::FailedPrecondition,
        ErrorKind::OutOfRange => Code::OutOfRange,
        ErrorKind::PermissionDenied => Code::PermissionDenied,
        ErrorKind::ResourceExhausted => Code::ResourceExhausted,
        ErrorKind::Aborted => Code::Aborted,
        ErrorKind::Unavailable => Code::Unavailable,
        ErrorKind::DeadlineExceeded => Code::DeadlineExceeded,
        ErrorKind::Cancelled => Code::Cancelled,
        ErrorKind::Unimplemented => Code::Unimplemented,
        ErrorKind::DataLoss => Code::DataLoss,
        ErrorKind::Internal => Code::Internal,
        ErrorKind::Unknown => Code::Unknown,
    }
}

/// The kind of a gRPC code, of another process that we ask.
pub(crate) fn kind(code: Code) -> ErrorKind {
    match code {
        Code::NotFound => ErrorKind::NotFound,
        Code::AlreadyExists => ErrorKind::AlreadyExists,
        Code::InvalidArgument => ErrorKind::InvalidArgument,
        Code::FailedPrecondition => ErrorKind::FailedPrecondition,
        Code::OutOfRange => ErrorKind::OutOfRange,
        Code::PermissionDenied | Code::Unauthenticated => ErrorKind::PermissionDenied,
        Code::ResourceExhausted => ErrorKind::ResourceExhausted,
        Code::Aborted => ErrorKind::Aborted,
        Code::Unavailable => ErrorKind::Unavailable,
        Code::DeadlineExceeded => ErrorKind::DeadlineExceeded,
        Code::Cancelled => ErrorKind::Cancelled,
        Code::Unimplemented => ErrorKind::Unimplemented,
        Code::DataLoss => ErrorKind::DataLoss,
        Code::Internal => ErrorKind::Internal,
        Code::Ok | Code::Unknown => ErrorKind::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers as in gRPC's `doc/statuscodes.md`.
    #[test]
    fn each_kind_has_its_code() {
        for (kind, number) in [
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
        ] {
            assert_eq!(code(kind) as i32, number, "{kind:?}");
            assert_eq!(super::kind(code(kind)), kind);
        }
    }

    #[test]
    fn the_client_reads_the_whole_chain() {
        let error = Error::caused(
            ErrorKind::NotFound,
            "kill task \"a\"",
            Error::not_found("there is no such task"),
        );
        let status = of(error);
        assert_eq!(status.code(), Code::NotFound);
        assert_eq!(status.message(), "kill task \"a\": there is no such task: not found");
        let status = of(Error::internal("no luck"));
        assert_eq!(status.message(), "no luck");
    }
}
