//! The terminal of a process: the runtime makes it, and sends us its
//! controlling side over a unix socket.

use std::{
    fs::{self, File},
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use shim_protocol::{Context, Error, ErrorKind, Result};
use tokio::{
    io::Interest,
    net::{UnixListener, UnixStream},
    time::timeout,
};

use super::copy::{Pollable, pollable};
use crate::sys::{fd, tty};

/// The runtime has sent the terminal before it says that it is done, so this
/// only bounds the wait for one that has not.
const RECEIVE_DEADLINE: Duration = Duration::from_secs(10);

/// Makes the sockets' names unique.
static COUNTER: AtomicU64 = AtomicU64::new(0);

/// Where the runtime sends the terminal.
pub(super) struct ConsoleSocket {
    listener: UnixListener,
    path: PathBuf,
    /// A short way to the socket's folder: a bundle's path may be longer than
    /// the 107 bytes of a socket's address.
    dir: File,
    name: String,
}

impl ConsoleSocket {
    pub(super) fn bind(dir: &Path) -> Result<Self> {
        let name = format!(".console-{}", COUNTER.fetch_add(1, Ordering::Relaxed));
        let path = dir.join(&name);
        let dir = File::open(dir).context("open", dir.display())?;
        let address = format!("/proc/self/fd/{}/{name}", dir.as_raw_fd());
        let listener = UnixListener::bind(address).context("bind", path.display())?;
        Ok(Self { listener, path, dir, name })
    }

    /// The address for another process, valid as long as `self`.
    pub(super) fn address(&self) -> PathBuf {
        let (pid, fd) = (std::process::id(), self.dir.as_raw_fd());
        PathBuf::from(format!("/proc/{pid}/fd/{fd}/{}", self.name))
    }

    /// # Errors
    /// `DeadlineExceeded` when nothing was sent.
    pub(super) async fn receive(self) -> Result<Terminal> {
        let receive = async {
            let (stream, _) = self.listener.accept().await?;
            receive_fd(&stream).await
        };
        let master = timeout(RECEIVE_DEADLINE, receive)
            .await
            .map_err(|_| Error::new(ErrorKind::DeadlineExceeded, "runtime sent no terminal"))?
            .context("receive", "terminal")?;
        Terminal::new(master).context("take over", "terminal")
    }
}

impl Drop for ConsoleSocket {
    fn drop(&mut self) {
        // What stays behind goes with the bundle.
        let _ = fs::remove_file(&self.path);
    }
}

async fn receive_fd(stream: &UnixStream) -> io::Result<OwnedFd> {
    loop {
        stream.readable().await?;
        match stream.try_io(Interest::READABLE, || fd::receive(stream.as_fd())) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            result => return result,
        }
    }
}

/// The controlling side of a terminal.
pub(super) struct Terminal {
    master: Arc<Pollable>,
    /// The process's side. While it is open, reading from ours waits; else it
    /// would fail whenever the process has closed it for a moment, as init
    /// systems do.
    peer: Option<OwnedFd>,
}

impl Terminal {
    fn new(master: OwnedFd) -> io::Result<Self> {
        let peer = tty::open_peer(master.as_fd())?;
        let master = Arc::new(pollable(master, Interest::READABLE | Interest::WRITABLE)?);
        Ok(Self { master, peer: Some(peer) })
    }

    pub(super) fn master(&self) -> Arc<Pollable> {
        Arc::clone(&self.master)
    }

    pub(super) fn resize(&self, columns: u16, rows: u16) -> io::Result<()> {
        tty::resize(self.master.get_ref().as_fd(), columns, rows)
    }

    /// The process has ended: once its output is read, that is the end.
    pub(super) fn expect_end(&mut self) {
        self.peer = None;
    }
}
