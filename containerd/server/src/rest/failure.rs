//! The only place where an error kind becomes an HTTP status.

use axum::{
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use shim_protocol::{Error, ErrorKind};

/// What a client gets to see as a line of text.
pub(super) enum Failure {
    /// The core says so.
    Core(Error),
    /// The request could not be read.
    Request(StatusCode, String),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Core(error)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        match self {
            // As the gRPC API says it.
            Self::Core(error) => plain(status(error.kind()), &crate::status::text(&error)),
            Self::Request(status, text) => plain(status, &text),
        }
        .into_response()
    }
}

/// A line of text, as Go's `http.Error` has it.
pub(super) fn plain(status: StatusCode, text: &str) -> impl IntoResponse + use<> {
    let headers = [
        (header::CONTENT_TYPE, "text/plain; charset=utf-8"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (status, headers, format!("{text}\n"))
}

fn status(kind: ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::NotFound => StatusCode::NOT_FOUND,
        ErrorKind::AlreadyExists | ErrorKind::FailedPrecondition | ErrorKind::Aborted => {
            StatusCode::CONFLICT
        }
        ErrorKind::InvalidArgument | ErrorKind::OutOfRange => StatusCode::BAD_REQUEST,
        ErrorKind::PermissionDenied => StatusCode::FORBIDDEN,
        ErrorKind::ResourceExhausted => StatusCode::INSUFFICIENT_STORAGE,
        ErrorKind::Unavailable | ErrorKind::Cancelled => StatusCode::SERVICE_UNAVAILABLE,
        ErrorKind::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        ErrorKind::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        ErrorKind::DataLoss | ErrorKind::Internal | ErrorKind::Unknown => {
            StatusCode::INTERNAL_SERVER_ERROR
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_its_status() {
        for (kind, number) in [
            (ErrorKind::NotFound, 404),
            (ErrorKind::AlreadyExists, 409),
            (ErrorKind::InvalidArgument, 400),
            (ErrorKind::FailedPrecondition, 409),
            (ErrorKind::OutOfRange, 400),
            (ErrorKind::PermissionDenied, 403),
            (ErrorKind::ResourceExhausted, 507),
            (ErrorKind::Aborted, 409),
            (ErrorKind::Unavailable, 503),
            (ErrorKind::DeadlineExceeded, 504),
            (ErrorKind::Cancelled, 503),
            (ErrorKind::Unimplemented, 501),
            (ErrorKind::DataLoss, 500),
            (ErrorKind::Internal, 500),
            (ErrorKind::Unknown, 500),
        ] {
            assert_eq!(status(kind).as_u16(), number, "{kind:?}");
        }
    }
}
