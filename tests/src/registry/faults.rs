//! What can go wrong on the way from a registry.

use std::{fmt, sync::Arc};

/// What is done to the answer to a request.
#[derive(Clone)]
pub enum Fault {
    /// The registry does not hear of it; the answer is this status. Further
    /// header lines may follow, each with its end of line.
    Status(u16, String),
    /// The same with a body of this media type.
    Body(String, Arc<Vec<u8>>),
    /// So many bytes of the body come, then the connection ends.
    Cut(u64),
    /// So many bytes of the body come, then nothing more.
    Stall(u64),
    /// Not even a status comes.
    Silence,
    /// So many bytes of the body come each second.
    Slow(u64),
    /// The byte at this place of the body is another one.
    Wrong(u64),
    /// The length that stands in the head is off by so much; the body is whole.
    Length(i64),
    /// A header of so many bytes.
    Header(usize),
}

impl Fault {
    /// A status without anything else.
    pub fn status(code: u16) -> Self {
        Self::Status(code, String::new())
    }

    /// A redirection.
    pub fn redirect(location: &str) -> Self {
        Self::Status(307, format!("Location: {location}\r\n"))
    }

    /// Other bytes in the place of the answer.
    pub fn body(media_type: &str, bytes: impl Into<Vec<u8>>) -> Self {
        Self::Body(media_type.into(), Arc::new(bytes.into()))
    }
}

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(code, more) => write!(f, "status {code} {more:?}"),
            Self::Body(kind, bytes) => write!(f, "{} bytes of {kind}", bytes.len()),
            Self::Cut(bytes) => write!(f, "cut after {bytes} bytes"),
            Self::Stall(bytes) => write!(f, "stall after {bytes} bytes"),
            Self::Silence => write!(f, "silence"),
            Self::Slow(bytes) => write!(f, "{bytes} bytes per second"),
            Self::Wrong(place) => write!(f, "a wrong byte at {place}"),
            Self::Length(by) => write!(f, "a length that is off by {by}"),
            Self::Header(bytes) => write!(f, "a header of {bytes} bytes"),
        }
    }
}

/// Which requests meet a fault, and how many of them.
#[derive(Clone, Debug)]
pub struct Rule {
    /// The method; empty for GET and HEAD.
    pub method: String,
    /// Stands in the path.
    pub path: String,
    /// How many of these requests meet it; the others do not.
    pub times: usize,
    /// What they meet.
    pub fault: Fault,
}

impl Rule {
    /// The next `times` readings of what has `path` in its path.
    pub fn new(path: &str, times: usize, fault: Fault) -> Self {
        Self { method: String::new(), path: path.into(), times, fault }
    }

    /// All readings of what has `path` in its path.
    pub fn always(path: &str, fault: Fault) -> Self {
        Self::new(path, usize::MAX, fault)
    }

    /// For requests of another method.
    #[must_use]
    pub fn method(mut self, method: &str) -> Self {
        self.method = method.into();
        self
    }

    pub(crate) fn takes(&self, method: &str, path: &str) -> bool {
        let wanted = match self.method.as_str() {
            "" => matches!(method, "GET" | "HEAD"),
            wanted => method == wanted,
        };
        self.times > 0 && wanted && path.contains(&self.path)
    }
}
