//! Helpers: from the shim's side, and from their own.

use std::{
    ffi::CStr,
    io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd, RawFd},
        unix::net::UnixStream as StdStream,
    },
    path::Path,
    process::{Command, Stdio},
};

use nix::{
    sys::{prctl, signal::Signal},
    unistd::{Pid, chdir},
};
use shim_protocol::{Context, Error, ErrorKind, Id, Result};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, Interest},
    net::UnixStream,
};

use super::wire::{self, Answer, Request, Work};
use crate::{
    log,
    oci::{self, Store, Streams},
    reaper::{KillOnDrop, Reaper},
    sys::{
        clone::{How, clone},
        fd, process,
        program::{self, Sealed},
    },
};

/// The word on the command line that makes a helper.
pub const COMMAND: &str = "oci-helper";
/// The word behind that for one that logs debug messages, too.
const DEBUG: &str = "debug";
/// What a helper is called by those who look at processes, and so is a
/// container's first one until it is the user's program.
const NAME: &CStr = c"shim-helper";

/// A helper that was forked, and that nobody waits for yet. It ends when this
/// is dropped.
#[derive(Debug)]
pub struct Forked {
    pid: u32,
    socket: StdStream,
}

impl Forked {
    /// Forks a helper, if this program is out of a container's reach. To be
    /// called before there is a thread or an async runtime. While it waits, it
    /// gets ready for the container of `bundle`.
    ///
    /// # Errors
    /// Those of fork(2).
    pub fn new(bundle: &Path) -> Result<Option<Self>> {
        Self::fork(|| {}, Some(bundle))
    }

    /// The same in an async runtime on the only thread. The helper never returns
    /// to that, so it does not matter what it was at.
    fn new_in_runtime() -> Result<Option<Self>> {
        let forget_runtime = || {
            // Its handlers would write to a descriptor that is something else by then.
            process::reset_signals();
            process::ignore_broken_pipes();
        };
        Self::fork(forget_runtime, None)
    }

    fn fork(begin: impl FnOnce(), bundle: Option<&Path>) -> Result<Option<Self>> {
        if !program::is_sealed().context("look at", "this program")? {
            return Ok(None);
        }
        let (ours, theirs) = StdStream::pair().context("make", "a socket")?;
        let parent = Pid::this();
        let how = How { namespaces: nix::sched::CloneFlags::empty(), sibling: false, cgroup: None };
        let helper = clone(&how, || {
            begin();
            if let Err(error) = process::rename_arguments(NAME.to_bytes()) {
                tracing::debug!(%error, "helper goes by the arguments of the shim");
            }
            process::close_all_but(theirs.as_raw_fd());
            serve(&theirs, parent, bundle)
        })
        .context("fork", "a helper")?;
        Ok(Some(Self { pid: helper.pid, socket: ours }))
    }
}

/// A helper that can be asked once. It is killed when nobody waits for its
/// answer any more.
pub(super) struct Helper {
    socket: UnixStream,
    process: KillOnDrop,
}

impl Helper {
    /// Takes over a helper that was forked; `None` when it has ended.
    pub(super) fn adopt(forked: Forked, reaper: &Reaper) -> Option<Self> {
        let process = KillOnDrop::new(forked.pid, reaper.watch(forked.pid).ok()?);
        forked.socket.set_nonblocking(true).ok()?;
        Some(Self { socket: UnixStream::from_std(forked.socket).ok()?, process })
    }

    /// Makes a helper: forks it where that is possible, which costs a fraction of
    /// executing it. `program` stands for this one in tests.
    ///
    /// # Errors
    /// As [`Reaper::spawn`].
    pub(super) fn new(program: Option<&Path>, reaper: &Reaper) -> Result<Self> {
        // Whatever keeps it from being forked does not keep it from being executed.
        if program.is_none()
            && process::is_single_threaded()
            && let Ok(Some(forked)) = Forked::new_in_runtime()
            && let Some(helper) = Self::adopt(forked, reaper)
        {
            return Ok(helper);
        }
        Self::spawn(program, reaper)
    }

    fn spawn(program: Option<&Path>, reaper: &Reaper) -> Result<Self> {
        let sealed = Sealed::new().context("seal", "this program")?;
        let (ours, theirs) = UnixStream::pair().context("make", "a socket")?;
        let theirs = theirs.into_std().context("make", "a socket")?;
        theirs.set_nonblocking(false).context("make", "a socket")?;
        let mut command = Command::new(program.map_or_else(|| sealed.path(), Path::to_owned));
        command
            .arg(COMMAND)
            .arg(std::process::id().to_string())
            .arg(if log::is_debug() { DEBUG } else { "" })
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            // The service manager hears from the daemon only.
            .env_remove("NOTIFY_SOCKET");
        let child = reaper.spawn(&mut command)?;
        Ok(Self { socket: ours, process: KillOnDrop::new(child.pid, child.exit) })
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// Those of the work; `Unknown` when the helper was killed.
    pub(super) async fn ask(mut self, request: &Request, fds: Vec<OwnedFd>) -> Result<u32> {
        let answer = match self.talk(request, fds).await {
            Ok(answer) => answer,
            Err(error) => {
                drop(self.socket);
                let status = self.process.ended().await.status;
                let what = format!("the runtime's helper ended with {status}");
                return Err(Error::caused(ErrorKind::Unknown, what, error));
            }
        };
        answer.into()
    }

    async fn talk(&mut self, request: &Request, fds: Vec<OwnedFd>) -> Result<Answer> {
        let (head, json) = wire::encode(request)?;
        let send = || {
            let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
            fd::send(self.socket.as_fd(), &head, &fds)
        };
        let sent =
            self.socket.async_io(Interest::WRITABLE, send).await.context("write", "request")?;
        // Whoever reads the streams is to see their end when the process ends.
        drop(fds);
        let rest = head.get(sent..).unwrap_or_default();
        self.socket.write_all(rest).await.context("write", "request")?;
        self.socket.write_all(&json).await.context("write", "request")?;
        let mut head = [0; wire::LENGTH_BYTES];
        self.socket.read_exact(&mut head).await.context("read", "answer")?;
        let mut json = vec![0; wire::length(head)?];
        self.socket.read_exact(&mut json).await.context("read", "answer")?;
        wire::decode(&json)
    }
}

/// The life of a helper that was executed: the socket is its standard input.
///
/// # Errors
/// `InvalidArgument` when it was not executed by a shim.
pub fn main(parent: Option<&str>, log_level: Option<&str>) -> Result<()> {
    log::init_own(log_level == Some(DEBUG), None);
    let parent = parent.and_then(|pid| pid.parse().ok()).map(Pid::from_raw);
    let parent = parent.ok_or_else(|| Error::invalid("only a shim starts a helper"))?;
    program::seal_self().context("seal", "this program")?;
    let socket = process::take_stdin().context("take", "standard input")?;
    match serve(&StdStream::from(socket), parent, None) {
        0 => Ok(()),
        _ => Err(Error::internal("the helper has failed")),
    }
}

/// Answers one question.
fn serve(socket: &StdStream, parent: Pid, bundle: Option<&Path>) -> u8 {
    let prepared = || bundle.and_then(oci::Prepared::early);
    let served = ready(parent).map(|()| prepared()).and_then(|prepared| {
        match wire::receive(socket)? {
            // Not needed any more.
            None => Ok(()),
            Some((request, fds)) => {
                let answer = run(request, fds, prepared, socket.as_raw_fd()).into();
                wire::answer(socket, &answer)
            }
        }
    });
    match served {
        Ok(()) => 0,
        Err(error) => {
            tracing::error!(error = %error.report(), "helper");
            1
        }
    }
}

/// A helper must not go on for a shim that is gone. Its working folder may be
/// that of a container that is gone, too.
fn ready(parent: Pid) -> Result<()> {
    let get_ready = || {
        prctl::set_name(NAME)?;
        prctl::set_pdeathsig(Signal::SIGKILL)?;
        if Pid::parent() != parent {
            return Err(nix::errno::Errno::ESRCH);
        }
        chdir("/")
    };
    get_ready().map_err(io::Error::from).context("prepare", "the helper")
}

/// `socket` must have an end when we have one.
fn run(
    request: Request,
    fds: Vec<OwnedFd>,
    prepared: Option<oci::Prepared>,
    socket: RawFd,
) -> Result<u32> {
    let Request { id, root, streams, console, work } = request;
    let id = Id::new("container id", &id)?;
    let store = Store::new(root);
    let mut fds = fds.into_iter();
    let fds = streams.map(|is_there| if is_there { fds.next() } else { None });
    let streams = Streams { fds, console };
    let (sibling, own) = (true, Some(socket));
    match work {
        Work::Create { bundle, pid_file, no_pivot_root, no_new_keyring, systemd_cgroup } => {
            let (bundle, pid_file) = (&*bundle, Some(&*pid_file));
            let request = oci::Create {
                id: &id,
                bundle,
                streams,
                pid_file,
                no_pivot_root,
                no_new_keyring,
                systemd_cgroup,
                sibling,
                own,
                prepared,
            };
            oci::create(&store, request)
        }
        Work::Exec { process, pid_file } => {
            let (process, pid_file) = (process.as_bytes(), Some(&*pid_file));
            oci::exec(&store, oci::Exec { id: &id, process, streams, pid_file, sibling, own })
        }
        Work::Start => oci::start(&store, &id).map(|()| 0),
        Work::Delete { force } => oci::delete(&store, &id, force).map(|()| 0),
    }
}
