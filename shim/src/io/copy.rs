//! Copying from one descriptor to another, with one buffer for all.
//!
//! A shim has many streams and one thread. So a stream that waits owns no
//! buffer: bytes are read into a shared one and written on in the same step,
//! and only what the receiver does not take at once is kept aside.

use std::{
    cell::RefCell,
    fs::File,
    io::{self, ErrorKind, Write},
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl},
    unistd,
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    task::consume_budget,
};

use crate::sys::fd;

/// Size of the shared buffer: a quarter of what a pipe holds.
const BUFFER_BYTES: usize = 16 * 1024;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A descriptor that never blocks.
pub(super) type Pollable = AsyncFd<OwnedFd>;

/// Makes a FIFO, pipe or terminal pollable. Descriptors that share its open
/// file do not block any more either.
pub(super) fn pollable(fd: OwnedFd, interest: Interest) -> io::Result<Pollable> {
    let flags = OFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFL)?);
    fcntl(&fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    fd::register(fd, interest)
}

/// What takes the bytes.
#[derive(Clone)]
pub(super) enum Sink {
    /// Forgets them.
    Null,
    /// A FIFO, pipe or terminal.
    Pollable(Arc<Pollable>),
    /// A regular file or device, written on a thread for blocking work.
    File(Arc<File>),
}

/// What copying is up to, for who has to judge whether more will come.
#[derive(Default)]
pub(super) struct Progress {
    steps: AtomicU64,
    blocked: AtomicUsize,
}

impl Progress {
    /// Number of steps taken, or `None` while a receiver is too slow.
    pub(super) fn steps(&self) -> Option<u64> {
        let steps = self.steps.load(Ordering::Relaxed);
        (self.blocked.load(Ordering::Relaxed) == 0).then_some(steps)
    }
}

/// What one step has brought.
enum Step {
    End,
    Done,
    Rest(Vec<u8>),
    Broken(io::Error),
}

/// Copies until `source` has ended.
///
/// # Errors
/// Only those of the sink; the bytes at hand are lost then, and copying may be
/// taken up again.
pub(super) async fn copy(source: &Pollable, sink: &Sink, progress: &Progress) -> io::Result<()> {
    loop {
        // A source that never runs dry must not keep the shim's only thread.
        consume_budget().await;
        let Ok(mut ready) = source.readable().await else { return Ok(()) };
        let step = ready.try_io(|source| {
            BUFFER.with_borrow_mut(|buffer| {
                buffer.resize(BUFFER_BYTES, 0);
                step(source.get_ref(), sink, buffer)
            })
        });
        // That there is nothing to read is no step.
        let Ok(step) = step else { continue };
        progress.steps.fetch_add(1, Ordering::Relaxed);
        match step {
            Ok(Step::Done) => {}
            Ok(Step::Rest(bytes)) => {
                progress.blocked.fetch_add(1, Ordering::Relaxed);
                let written = sink.write_all(bytes).await;
                progress.blocked.fetch_sub(1, Ordering::Relaxed);
                written?;
            }
            Ok(Step::Broken(error)) => return Err(error),
            // EIO is how a terminal says that its other side is closed.
            Ok(Step::End) | Err(_) => return Ok(()),
        }
    }
}

fn step(source: &OwnedFd, sink: &Sink, buffer: &mut [u8]) -> io::Result<Step> {
    let length = match unistd::read(source, buffer) {
        Ok(0) => return Ok(Step::End),
        Ok(length) => length,
        Err(Errno::EINTR) => return Ok(Step::Done),
        Err(errno) => return Err(errno.into()),
    };
    let bytes = &buffer[..length];
    Ok(match sink.try_write(bytes) {
        Ok(taken) if taken == length => Step::Done,
        Ok(taken) => Step::Rest(bytes[taken..].to_vec()),
        Err(error) => Step::Broken(error),
    })
}

impl Sink {
    /// Writes what can be written without waiting.
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Null => Ok(bytes.len()),
            Self::File(_) => Ok(0),
            Self::Pollable(fd) => write_some(fd.get_ref(), bytes),
        }
    }

    async fn write_all(&self, bytes: Vec<u8>) -> io::Result<()> {
        match self {
            Self::Null => Ok(()),
            Self::File(file) => {
                let file = Arc::clone(file);
                tokio::task::spawn_blocking(move || (&*file).write_all(&bytes)).await?
            }
            Self::Pollable(fd) => {
                let mut rest = bytes.as_slice();
                while !rest.is_empty() {
                    let mut ready = fd.writable().await?;
                    let taken = ready.try_io(|fd| match write_some(fd.get_ref(), rest)? {
                        0 => Err(ErrorKind::WouldBlock.into()),
                        taken => Ok(taken),
                    });
                    if let Ok(taken) = taken {
                        rest = &rest[taken?..];
                    }
                }
                Ok(())
            }
        }
    }
}

/// Writes until the receiver is full.
fn write_some(fd: &OwnedFd, bytes: &[u8]) -> io::Result<usize> {
    let mut taken = 0;
    while taken < bytes.len() {
        match unistd::write(fd, &bytes[taken..]) {
            Ok(length) => taken += length,
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => break,
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use nix::unistd::pipe2;

    use super::*;

    /// More than a task may do in one turn.
    const PACKETS: usize = 250;

    #[tokio::test]
    async fn a_source_that_never_runs_dry_lets_others_run() {
        // Each write is one read (pipe(2), O_DIRECT), so small is many. Without O_CLOEXEC,
        // the children of other tests would keep the end away.
        let (reader, writer) = pipe2(OFlag::O_DIRECT | OFlag::O_CLOEXEC).unwrap();
        fcntl(&writer, FcntlArg::F_SETPIPE_SZ(1 << 20)).unwrap();
        for _ in 0..PACKETS {
            unistd::write(&writer, b"x").unwrap();
        }
        let source = pollable(reader.try_clone().unwrap(), Interest::READABLE).unwrap();
        let copying =
            tokio::spawn(async move { copy(&source, &Sink::Null, &Progress::default()).await });
        while fd::bytes_to_read(reader.as_fd()).unwrap() == PACKETS {
            tokio::task::yield_now().await;
        }
        assert_ne!(fd::bytes_to_read(reader.as_fd()).unwrap(), 0);
        drop(writer);
        copying.await.unwrap().unwrap();
    }
}
