//! The one error type of the library: a kind that callers match on, what was
//! being done and to what, and the cause.

use std::{error::Error as StdError, fmt, io};

use tonic::{Code, Status};

/// A result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

type Source = Box<dyn StdError + Send + Sync + 'static>;

/// What sort of failure it is: the gRPC code, for failures that the daemon
/// reports, and the code it would have had for those on this side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The thing that was named does not exist.
    NotFound,
    /// The thing that was to be made exists.
    AlreadyExists,
    /// The request could never succeed, whatever the state.
    InvalidArgument,
    /// The request does not fit the present state of the thing.
    FailedPrecondition,
    /// The request is past the end of what exists.
    OutOfRange,
    /// The caller may not do that.
    PermissionDenied,
    /// Disk, memory, descriptors, quota or a queue are used up.
    ResourceExhausted,
    /// Somebody else was faster; trying again may work.
    Aborted,
    /// The daemon, or the shim behind it, cannot be reached now.
    Unavailable,
    /// It took longer than was allowed.
    DeadlineExceeded,
    /// One side gave up.
    Cancelled,
    /// The daemon does not know this call, or cannot do it with this runtime.
    Unimplemented,
    /// Data on the wire is not what it must be.
    DataLoss,
    /// A bug, or a failure of the system below.
    Internal,
    /// The daemon reported a failure without a class.
    Unknown,
}

impl From<Code> for ErrorKind {
    fn from(code: Code) -> Self {
        match code {
            Code::NotFound => Self::NotFound,
            Code::AlreadyExists => Self::AlreadyExists,
            Code::InvalidArgument => Self::InvalidArgument,
            Code::FailedPrecondition => Self::FailedPrecondition,
            Code::OutOfRange => Self::OutOfRange,
            Code::PermissionDenied | Code::Unauthenticated => Self::PermissionDenied,
            Code::ResourceExhausted => Self::ResourceExhausted,
            Code::Aborted => Self::Aborted,
            Code::Unavailable => Self::Unavailable,
            Code::DeadlineExceeded => Self::DeadlineExceeded,
            Code::Cancelled => Self::Cancelled,
            Code::Unimplemented => Self::Unimplemented,
            Code::DataLoss => Self::DataLoss,
            Code::Internal => Self::Internal,
            Code::Ok | Code::Unknown => Self::Unknown,
        }
    }
}

/// An error: kind, context, and the cause below it.
///
/// `Display` shows the context alone and leaves the cause to whoever prints
/// the chain of [`source`](StdError::source)s; [`Error::report`] does.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    context: String,
    source: Option<Source>,
}

impl Error {
    /// An error without a cause below it.
    pub fn new(kind: ErrorKind, context: impl Into<String>) -> Self {
        Self(Box::new(Inner { kind, context: context.into(), source: None }))
    }

    /// An error with a cause below it.
    pub fn caused(kind: ErrorKind, context: impl Into<String>, source: impl Into<Source>) -> Self {
        Self(Box::new(Inner { kind, context: context.into(), source: Some(source.into()) }))
    }

    /// Shorthand for [`ErrorKind::InvalidArgument`].
    pub fn invalid(context: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidArgument, context)
    }

    /// A response that lacks a field which it must have.
    pub(crate) fn incomplete(action: &str, field: &str) -> Self {
        Self::new(ErrorKind::DataLoss, format!("{action}: the answer has no {field}"))
    }

    /// The kind, for callers that branch on it.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// True when the thing that was named does not exist.
    pub fn is_not_found(&self) -> bool {
        self.0.kind == ErrorKind::NotFound
    }

    /// True when the thing that was to be made exists.
    pub fn is_already_exists(&self) -> bool {
        self.0.kind == ErrorKind::AlreadyExists
    }

    /// The whole chain in one line, outermost context first.
    ///
    /// ```
    /// use containerd_client::{Error, ErrorKind};
    /// let cause = std::io::Error::other("disk on fire");
    /// let error = Error::caused(ErrorKind::Internal, "create fifos of web", cause);
    /// assert_eq!(error.to_string(), "create fifos of web");
    /// assert_eq!(error.report().to_string(), "create fifos of web: disk on fire");
    /// ```
    pub fn report(&self) -> impl fmt::Display + '_ {
        Report(self)
    }
}

impl From<shim_protocol::ErrorKind> for ErrorKind {
    fn from(kind: shim_protocol::ErrorKind) -> Self {
        use shim_protocol::ErrorKind as Other;
        match kind {
            Other::NotFound => Self::NotFound,
            Other::AlreadyExists => Self::AlreadyExists,
            Other::InvalidArgument => Self::InvalidArgument,
            Other::FailedPrecondition => Self::FailedPrecondition,
            Other::OutOfRange => Self::OutOfRange,
            Other::PermissionDenied => Self::PermissionDenied,
            Other::ResourceExhausted => Self::ResourceExhausted,
            Other::Aborted => Self::Aborted,
            Other::Unavailable => Self::Unavailable,
            Other::DeadlineExceeded => Self::DeadlineExceeded,
            Other::Cancelled => Self::Cancelled,
            Other::Unimplemented => Self::Unimplemented,
            Other::DataLoss => Self::DataLoss,
            Other::Internal => Self::Internal,
            Other::Unknown => Self::Unknown,
        }
    }
}

impl From<ErrorKind> for shim_protocol::ErrorKind {
    fn from(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::NotFound => Self::NotFound,
            ErrorKind::AlreadyExists => Self::AlreadyExists,
            ErrorKind::InvalidArgument => Self::InvalidArgument,
            ErrorKind::FailedPrecondition => Self::FailedPrecondition,
            ErrorKind::OutOfRange => Self::OutOfRange,
            ErrorKind::PermissionDenied => Self::PermissionDenied,
            ErrorKind::ResourceExhausted => Self::ResourceExhausted,
            ErrorKind::Aborted => Self::Aborted,
            ErrorKind::Unavailable => Self::Unavailable,
            ErrorKind::DeadlineExceeded => Self::DeadlineExceeded,
            ErrorKind::Cancelled => Self::Cancelled,
            ErrorKind::Unimplemented => Self::Unimplemented,
            ErrorKind::DataLoss => Self::DataLoss,
            ErrorKind::Internal => Self::Internal,
            ErrorKind::Unknown => Self::Unknown,
        }
    }
}

impl From<shim_protocol::Error> for Error {
    fn from(error: shim_protocol::Error) -> Self {
        let kind = error.kind().into();
        let context = error.to_string();
        match StdError::source(&error) {
            None => Self::new(kind, context),
            Some(_) => Self::caused(kind, context, Chain(error)),
        }
    }
}

impl From<Error> for shim_protocol::Error {
    fn from(error: Error) -> Self {
        let Inner { kind, context, source } = *error.0;
        match source {
            None => Self::new(kind.into(), context),
            Some(source) => Self::caused(kind.into(), context, source),
        }
    }
}

/// The causes of an error, without its own context.
struct Chain(shim_protocol::Error);

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match StdError::source(&self.0) {
            Some(source) => fmt::Display::fmt(source, f),
            None => Ok(()),
        }
    }
}

impl StdError for Chain {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        StdError::source(&self.0).and_then(StdError::source)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.context)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.0.kind, Report(self))
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|s| s as _)
    }
}

struct Report<'a>(&'a Error);

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut next = self.0.source();
        while let Some(cause) = next {
            write!(f, ": {cause}")?;
            next = cause.source();
        }
        Ok(())
    }
}

/// What the daemon said. [`Status`] itself prints its code and metadata too,
/// which the kind has already.
#[derive(Debug)]
struct Remote(Status);

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.message() {
            "" => f.write_str(self.0.code().description()),
            message => f.write_str(message),
        }
    }
}

impl StdError for Remote {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source()
    }
}

/// Adds what was being done, and to what, to a failure.
pub trait Context<T> {
    /// Makes it an [`Error`] under `action subject`.
    ///
    /// # Errors
    /// The failure, if it was one.
    fn context(self, action: &str, subject: impl fmt::Display) -> Result<T>;
}

impl<T> Context<T> for std::result::Result<T, Status> {
    fn context(self, action: &str, subject: impl fmt::Display) -> Result<T> {
        self.map_err(|status| {
            // Only a failure on this side has a cause: the connection broke, by
            // whatever code the transport calls that.
            let lost = status.source().is_some();
            let kind = if lost { ErrorKind::Unavailable } else { status.code().into() };
            Error::caused(kind, join(action, subject), Remote(status))
        })
    }
}

impl<T> Context<T> for io::Result<T> {
    fn context(self, action: &str, subject: impl fmt::Display) -> Result<T> {
        self.map_err(|e| {
            let kind = match e.kind() {
                io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
                io::ErrorKind::NotFound => ErrorKind::NotFound,
                io::ErrorKind::AlreadyExists => ErrorKind::AlreadyExists,
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    ErrorKind::ResourceExhausted
                }
                _ => ErrorKind::Internal,
            };
            Error::caused(kind, join(action, subject), e)
        })
    }
}

impl<T> Context<T> for nix::Result<T> {
    fn context(self, action: &str, subject: impl fmt::Display) -> Result<T> {
        self.map_err(io::Error::from).context(action, subject)
    }
}

fn join(action: &str, subject: impl fmt::Display) -> String {
    let subject = subject.to_string();
    if subject.is_empty() { action.to_owned() } else { format!("{action} {subject}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_daemons_words_are_the_cause() {
        let answer: Result<(), Status> = Err(Status::not_found("no running task found"));
        let error = answer.context("start task", "web").unwrap_err();
        assert!(error.is_not_found());
        assert_eq!(error.report().to_string(), "start task web: no running task found");
    }

    #[test]
    fn an_error_keeps_its_chain_on_both_ways() {
        let answer: Result<(), Status> = Err(Status::not_found("no such image"));
        let error: shim_protocol::Error = answer.context("get image", "a").unwrap_err().into();
        assert_eq!(error.kind(), shim_protocol::ErrorKind::NotFound);
        let error = Error::from(error);
        assert!(error.is_not_found());
        assert_eq!(error.report().to_string(), "get image a: no such image");
    }

    #[test]
    fn a_silent_status_is_described_by_its_code() {
        let answer: Result<(), Status> = Err(Status::new(Code::Aborted, ""));
        let error = answer.context("list tasks", "").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Aborted);
        assert_eq!(error.report().to_string(), "list tasks: The operation was aborted");
    }

    #[test]
    fn a_missing_file_is_not_found() {
        let error = std::fs::read("/nowhere").context("read", "/nowhere").unwrap_err();
        assert!(error.is_not_found());
    }
}
