//! The client's FIFOs, held so that a client may come and go.
//!
//! We hold both ends. Of an output FIFO the reading end: without it a write
//! would fail whenever no client is there. Of an input FIFO the writing end:
//! without it the process would see the end of its input whenever the client
//! goes away. Opening never blocks, because the other end is always open.

use std::{
    fs::OpenOptions,
    io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::fs::OpenOptionsExt,
    },
    path::Path,
    sync::Arc,
};

use nix::{
    libc,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::inotify::{AddWatchFlags, InitFlags, Inotify},
};
use tokio::io::Interest;

use super::copy::{Pollable, pollable};
use crate::sys::fd;

/// A FIFO that a client reads.
pub(super) struct OutputFifo {
    writer: Arc<Pollable>,
    reader: OwnedFd,
}

/// An output FIFO with bytes that nobody has read, and with no reader.
pub(super) struct Unread {
    writer: Arc<Pollable>,
    opened: Pollable,
}

impl OutputFifo {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let (reader, writer) = open_both(path)?;
        Ok(Self { writer: Arc::new(pollable(writer, Interest::WRITABLE)?), reader })
    }

    pub(super) fn writer(&self) -> Arc<Pollable> {
        Arc::clone(&self.writer)
    }

    /// Closes it, so that the client sees the end. Bytes in a FIFO vanish with
    /// its last descriptor: if there are some and no client, it stays open and
    /// is returned.
    pub(super) fn close(self) -> io::Result<Option<Unread>> {
        let Self { writer, reader } = self;
        // Before looking for readers, so that none can slip in between.
        let opened = watch_opens(writer.get_ref())?;
        drop(reader);
        let fd = writer.get_ref();
        if has_reader(fd)? || fd::bytes_to_read(fd.as_fd())? == 0 {
            return Ok(None);
        }
        Ok(Some(Unread { writer, opened }))
    }
}

impl Unread {
    /// Waits for a client; it finds the bytes, and then the end.
    pub(super) async fn handed_over(self) -> io::Result<()> {
        loop {
            let mut ready = self.opened.readable().await?;
            let mut events = [0; 512];
            // Only that something happened counts, not what.
            if ready.try_io(|fd| Ok(nix::unistd::read(fd.get_ref(), &mut events)?)).is_err() {
                continue;
            }
            if has_reader(self.writer.get_ref())? {
                return Ok(());
            }
        }
    }
}

/// A FIFO that a client writes.
pub(super) struct InputFifo {
    /// Where its bytes come out.
    pub(super) reader: Pollable,
    /// Keeps the end of input away until it is dropped.
    pub(super) keeper: OwnedFd,
}

impl InputFifo {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let (reader, keeper) = open_both(path)?;
        Ok(Self { reader: pollable(reader, Interest::READABLE)?, keeper })
    }
}

/// The reading and the writing end. Opening the former does not wait for a
/// writer (fifo(7)), and then the latter finds a reader.
fn open_both(path: &Path) -> io::Result<(OwnedFd, OwnedFd)> {
    let reader = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    // By descriptor: the path may be another file by now.
    let same = format!("/proc/self/fd/{}", reader.as_raw_fd());
    let writer = OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(same)?;
    Ok((reader.into(), writer.into()))
}

/// A writing end without any reading end reports an error to poll (pipe(7)).
fn has_reader(writer: &OwnedFd) -> io::Result<bool> {
    let mut fds = [PollFd::new(writer.as_fd(), PollFlags::empty())];
    poll(&mut fds, PollTimeout::ZERO)?;
    Ok(!fds[0].any().unwrap_or_default())
}

fn watch_opens(fifo: &OwnedFd) -> io::Result<Pollable> {
    let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
    let path = format!("/proc/self/fd/{}", fifo.as_raw_fd());
    inotify.add_watch(path.as_str(), AddWatchFlags::IN_OPEN)?;
    pollable(inotify.into(), Interest::READABLE)
}
