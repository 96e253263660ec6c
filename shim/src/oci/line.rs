//! What a new process and its maker tell each other while it is being made.
//!
//! ```text
//!   process          ◀── g ──   the ids of its user namespace are mapped
//!   process ── h ──▶ ◀── g ──   its mounts are there; hooks have run
//!   process ── r ──▶            it is ready
//!   process          ◀── g ──   an added one may go on
//!   process ── ! kind words     it has failed, whenever that is
//! ```
//!
//! Each end has one holder, so that whoever waits notices when the other is
//! gone: a process whose maker was killed ends, and does not wait for ever.

use std::{
    io::{self, PipeReader, PipeWriter, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
};

use shim_protocol::{Context, Error, ErrorKind, Result};

use crate::sys::fd;

/// The most that is read of what a process says about its failure, in bytes.
const MAX_WORDS_BYTES: u64 = 16 * 1024;
const GO: u8 = b'g';
const FAILED: u8 = b'!';
/// What a client can do something about keeps its kind; all else is of the first.
const KINDS: [ErrorKind; 4] = [
    ErrorKind::Unknown,
    ErrorKind::InvalidArgument,
    ErrorKind::FailedPrecondition,
    ErrorKind::ResourceExhausted,
];

/// What a process has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Point {
    /// Its tree is complete, but it is not in it yet.
    WantsHooks,
    /// It is about to become the user's program.
    Ready,
}

impl Point {
    fn byte(self) -> u8 {
        match self {
            Self::WantsHooks => b'h',
            Self::Ready => b'r',
        }
    }
}

/// All ends.
#[derive(Debug)]
pub(super) struct Line(Option<(Maker, Child)>);

/// The maker's ends.
#[derive(Debug)]
pub(super) struct Maker {
    from: PipeReader,
    to: PipeWriter,
    listener: Option<UnixStream>,
}

/// The process's ends.
#[derive(Debug)]
pub(super) struct Child {
    from: PipeReader,
    to: PipeWriter,
    listener: Option<UnixStream>,
}

impl Line {
    /// `listens` is for a filter with somebody who answers for it.
    pub(super) fn new(listens: bool) -> Result<Self> {
        let pipe = || io::pipe().context("make", "a pipe");
        let (up, down) = (pipe()?, pipe()?);
        let listener = listens.then(UnixStream::pair).transpose().context("make", "a socket")?;
        let (ours, theirs) = listener.map_or((None, None), |(a, b)| (Some(a), Some(b)));
        let maker = Maker { from: up.0, to: down.1, listener: ours };
        let child = Child { from: down.0, to: up.1, listener: theirs };
        Ok(Self(Some((maker, child))))
    }

    /// The maker's ends, once the process is born, which has copies of its own.
    pub(super) fn maker(&mut self) -> Option<Maker> {
        self.0.take().map(|(maker, _)| maker)
    }

    /// The ends of the process, which is a copy of its maker.
    pub(super) fn child(&mut self) -> Option<Child> {
        self.0.take().map(|(_, child)| child)
    }
}

impl Maker {
    /// Waits until the process has come to a point.
    ///
    /// # Errors
    /// Why it has not, in its words.
    pub(super) fn wait_for(&mut self, point: Point) -> Result<()> {
        let mut byte = [0];
        let read = self.from.read_exact(&mut byte);
        match read {
            Ok(()) if byte == [point.byte()] => Ok(()),
            Ok(()) if byte == [FAILED] => Err(self.words()),
            Ok(()) => Err(Error::internal(format!("the container's process said {byte:?}"))),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                Err(Error::new(ErrorKind::Unknown, "the container's process was killed"))
            }
            Err(e) => Err(e).context("hear of", "the container's process"),
        }
    }

    /// Tells it to go on. One that has ended says why when it is waited for.
    pub(super) fn go(&mut self) {
        let _ = self.to.write_all(&[GO]);
    }

    /// Waits until it is the user's program, or has failed to become it.
    ///
    /// # Errors
    /// Why it has failed.
    pub(super) fn wait_until_executed(mut self) -> Result<()> {
        let mut byte = [0];
        match self.from.read(&mut byte).context("hear of", "the container's process")? {
            0 => Ok(()),
            _ => Err(self.words()),
        }
    }

    /// Where the listener of its filter comes from.
    pub(super) fn listener(&self) -> Option<&UnixStream> {
        self.listener.as_ref()
    }

    fn words(&mut self) -> Error {
        let mut said = Vec::new();
        // What cannot be read was not said.
        let _ = (&mut self.from).take(MAX_WORDS_BYTES).read_to_end(&mut said);
        let (kind, words) = said.split_first().unwrap_or((&0, &[]));
        let kind = KINDS.get(usize::from(*kind)).copied().unwrap_or(ErrorKind::Unknown);
        Error::new(kind, String::from_utf8_lossy(words))
    }
}

impl Child {
    /// Tells the maker how far it is.
    ///
    /// # Errors
    /// When the maker is gone.
    pub(super) fn tell(&mut self, point: Point) -> Result<()> {
        self.to.write_all(&[point.byte()]).context("tell", "the maker")
    }

    /// Waits for the maker's word.
    ///
    /// # Errors
    /// When the maker is gone.
    pub(super) fn wait(&mut self) -> Result<()> {
        let mut byte = [0];
        self.from.read_exact(&mut byte).context("wait for", "the maker")
    }

    /// Gives the listener of its filter away.
    ///
    /// # Errors
    /// When nobody waits for one.
    pub(super) fn send_listener(&self, listener: BorrowedFd<'_>) -> Result<()> {
        let socket = self.listener.as_ref().ok_or_else(|| Error::internal("nobody listens"))?;
        fd::send(socket.as_fd(), b"l", &[listener]).context("send", "the listener").map(drop)
    }

    /// Says why the process has failed. Nobody listens to one that was started
    /// long ago; its own standard error is what is left then, as with runc.
    pub(super) fn fail(&mut self, error: &Error) {
        let words = error.report().to_string();
        let kind = KINDS.iter().position(|kind| *kind == error.kind()).unwrap_or_default();
        let message = [&[FAILED, kind as u8], words.as_bytes()].concat();
        if self.to.write_all(&message).is_err() {
            let _ = writeln!(io::stderr(), "{words}");
        }
    }
}
