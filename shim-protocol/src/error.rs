//! The one error type: a kind that callers match on, what was being done and
//! to what, and the cause.
//!
//! `Display` shows only the outermost context; [`Error::report`] shows the
//! whole chain, and is what a client gets to read. The kind becomes a ttrpc
//! code in `rpc` and a gRPC code in the daemon's `status` module,
//! and nowhere else.

use std::{error::Error as StdError, fmt, io};

/// A result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

type Source = Box<dyn StdError + Send + Sync + 'static>;

/// What sort of failure it is. Each kind is one gRPC and one ttrpc code of
/// the same name, and clients branch on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The thing that was named does not exist.
    NotFound,
    /// The thing that was to be made exists.
    AlreadyExists,
    /// The request could never succeed, whatever the state.
    InvalidArgument,
    /// The request does not fit the present state of the thing.
    FailedPrecondition,
    /// The request is good, but past the end of what exists.
    OutOfRange,
    /// The caller may not do that.
    PermissionDenied,
    /// Disk, memory, descriptors or quota are used up.
    ResourceExhausted,
    /// Somebody else was faster; trying again may work.
    Aborted,
    /// The other side cannot be reached now.
    Unavailable,
    /// It took longer than was allowed.
    DeadlineExceeded,
    /// The caller gave up.
    Cancelled,
    /// Not built, or not possible with this runtime.
    Unimplemented,
    /// Data on disk or on the wire is not what it must be.
    DataLoss,
    /// A bug, or a failure of the system below.
    Internal,
    /// The other side reported something without a class.
    Unknown,
}

/// An error: kind, context, and the cause below it.
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

    /// Shorthand for [`ErrorKind::NotFound`].
    pub fn not_found(context: impl Into<String>) -> Self {
        Self::new(ErrorKind::NotFound, context)
    }

    /// Shorthand for [`ErrorKind::AlreadyExists`].
    pub fn already_exists(context: impl Into<String>) -> Self {
        Self::new(ErrorKind::AlreadyExists, context)
    }

    /// Shorthand for [`ErrorKind::InvalidArgument`].
    pub fn invalid(context: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidArgument, context)
    }

    /// Shorthand for [`ErrorKind::FailedPrecondition`].
    pub fn precondition(context: impl Into<String>) -> Self {
        Self::new(ErrorKind::FailedPrecondition, context)
    }

    /// Shorthand for [`ErrorKind::Unimplemented`].
    pub fn unimplemented(context: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unimplemented, context)
    }

    /// Shorthand for [`ErrorKind::Unavailable`].
    pub fn unavailable(context: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unavailable, context)
    }

    /// Shorthand for [`ErrorKind::Internal`].
    pub fn internal(context: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, context)
    }

    /// The kind, for callers that branch on it.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// True when the thing that was named does not exist.
    pub fn is_not_found(&self) -> bool {
        self.0.kind == ErrorKind::NotFound
    }

    /// The same error under another kind.
    pub fn with_kind(mut self, kind: ErrorKind) -> Self {
        self.0.kind = kind;
        self
    }

    /// The whole chain in one line, outermost context first.
    pub fn report(&self) -> impl fmt::Display + '_ {
        Report(self)
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

/// Adds what was being done, and to what, on the way up.
pub trait Context<T> {
    /// Wraps the error under `action subject`. The kind stays; a system error
    /// gets the kind that [`io_kind`] gives it.
    ///
    /// ```
    /// use shim_protocol::{Context, ErrorKind};
    /// let e = std::fs::read("/nowhere").context("read", "/nowhere").unwrap_err();
    /// assert_eq!(e.kind(), ErrorKind::Internal);
    /// assert!(e.report().to_string().starts_with("read /nowhere: No such file"));
    /// ```
    fn context(self, action: &str, subject: impl fmt::Display) -> Result<T>;

    /// Wraps the error under `action subject` and a kind of the caller's choice.
    fn context_as(self, kind: ErrorKind, action: &str, subject: impl fmt::Display) -> Result<T>;
}

impl<T> Context<T> for Result<T, Error> {
    fn context(self, action: &str, subject: impl fmt::Display) -> Result<T> {
        self.map_err(|e| Error::caused(e.kind(), format!("{action} {subject}"), e))
    }

    fn context_as(self, kind: ErrorKind, action: &str, subject: impl fmt::Display) -> Result<T> {
        self.map_err(|e| Error::caused(kind, format!("{action} {subject}"), e))
    }
}

impl<T> Context<T> for std::result::Result<T, io::Error> {
    fn context(self, action: &str, subject: impl fmt::Display) -> Result<T> {
        self.map_err(|e| Error::caused(io_kind(&e), format!("{action} {subject}"), e))
    }

    fn context_as(self, kind: ErrorKind, action: &str, subject: impl fmt::Display) -> Result<T> {
        self.map_err(|e| Error::caused(kind, format!("{action} {subject}"), e))
    }
}

/// The kind of a system error. A missing file is `Internal` here: only the
/// caller knows whether the file stands for a thing that a client named.
pub fn io_kind(error: &io::Error) -> ErrorKind {
    match error.kind() {
        io::ErrorKind::StorageFull
        | io::ErrorKind::QuotaExceeded
        | io::ErrorKind::OutOfMemory
        | io::ErrorKind::FileTooLarge => ErrorKind::ResourceExhausted,
        io::ErrorKind::TimedOut => ErrorKind::DeadlineExceeded,
        io::ErrorKind::ConnectionRefused
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::BrokenPipe
        | io::ErrorKind::NotConnected => ErrorKind::Unavailable,
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => ErrorKind::DataLoss,
        _ => match error.raw_os_error() {
            // No kind of their own in std.
            Some(libc::EMFILE | libc::ENFILE) => ErrorKind::ResourceExhausted,
            _ => ErrorKind::Internal,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn context_keeps_kind_and_chain() {
        let inner: Result<()> = Err(Error::not_found("task \"a\""));
        let outer = inner.context("kill", "a").unwrap_err();
        assert!(outer.is_not_found());
        assert_eq!(outer.to_string(), "kill a");
        assert_eq!(outer.report().to_string(), "kill a: task \"a\"");
    }

    #[test]
    fn a_full_disk_is_resource_exhausted() {
        let full: io::Result<()> = Err(io::Error::from(io::ErrorKind::StorageFull));
        assert_eq!(full.context("write", "x").unwrap_err().kind(), ErrorKind::ResourceExhausted);
    }

    #[test]
    fn context_as_overrides_the_kind() {
        let gone: io::Result<()> = Err(io::Error::from(io::ErrorKind::NotFound));
        let error = gone.context_as(ErrorKind::NotFound, "open bundle", "b").unwrap_err();
        assert!(error.is_not_found());
    }
}
