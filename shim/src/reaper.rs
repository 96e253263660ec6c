//! The one place that waits for children.
//!
//! The shim is a subreaper: besides what it starts itself, it inherits the
//! container's processes when the OCI runtime that made them ends. Such a
//! process may be dead before anybody here knows its pid. Whoever starts one
//! therefore takes an [`Expectation`] first; as long as one exists, exits
//! nobody asked for are kept. Otherwise they are only reaped: these are
//! orphans of the containers.
//!
//! A pid cannot be used again while its zombie is unreaped, and a kept exit is
//! dropped when a new child gets its pid, so an exit never goes to the wrong
//! process.

use std::{
    collections::VecDeque,
    future::Future,
    os::fd::OwnedFd,
    pin::Pin,
    process::Command,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{self, Poll},
    time::SystemTime,
};

use nix::sys::prctl;
use shim_protocol::{Context, Error, Result};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::oneshot,
    task::JoinHandle,
};

use crate::sys::wait;

/// Exits kept for whoever asks next. A container that sheds more orphans than
/// this while one of its processes is being started loses the oldest.
const MAX_UNCLAIMED: usize = 1024;

/// Status of a process whose end could not be seen (containerd's
/// `UnknownExitStatus`).
pub const UNKNOWN_STATUS: u32 = 255;

/// How and when a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessExit {
    /// Its exit code, or 128 plus the number of the signal that ended it.
    pub status: u32,
    /// When it was reaped.
    pub at: SystemTime,
}

/// Waits for all children of this process; becomes their subreaper.
pub struct Reaper {
    state: Arc<Mutex<State>>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct State {
    watchers: Vec<(u32, oneshot::Sender<ProcessExit>)>,
    expectations: usize,
    unclaimed: VecDeque<(u32, ProcessExit)>,
}

/// A child this process started itself.
#[derive(Debug)]
pub struct Child {
    /// Its process id.
    pub pid: u32,
    /// Our end of its standard output, if that was piped.
    pub stdout: Option<OwnedFd>,
    /// Its end.
    pub exit: ExitFuture,
}

/// While one exists, the exits of unknown children are kept.
pub struct Expectation {
    state: Arc<Mutex<State>>,
}

/// Resolves when the process has ended and is reaped. Dropping it is fine.
#[derive(Debug)]
pub struct ExitFuture(oneshot::Receiver<ProcessExit>);

impl Reaper {
    /// Becomes subreaper and starts to reap. Call it inside the runtime, once
    /// per process, and before anything is spawned.
    ///
    /// # Errors
    /// `Internal` when the kernel refuses the subreaper or the signal handler.
    pub fn start() -> Result<Arc<Self>> {
        prctl::set_child_subreaper(true)
            .map_err(std::io::Error::from)
            .context("become", "subreaper")?;
        let mut children = signal(SignalKind::child()).context("handle", "SIGCHLD")?;
        let state = Arc::new(Mutex::new(State::default()));
        let reaped = Arc::clone(&state);
        let task = tokio::spawn(async move {
            // The stream ends only with the runtime.
            while children.recv().await.is_some() {
                lock(&reaped).reap();
            }
        });
        Ok(Arc::new(Self { state, task }))
    }

    /// Starts a child. Only its standard output can be piped back; hand other
    /// streams in as descriptors.
    ///
    /// # Errors
    /// `FailedPrecondition` when there is no such program, else `Internal` or
    /// `ResourceExhausted`.
    pub fn spawn(&self, command: &mut Command) -> Result<Child> {
        // Held over the fork: the child cannot be reaped before it is watched.
        let mut state = lock(&self.state);
        let mut child = command.spawn().map_err(|error| spawn_error(command, error))?;
        let exit = state.watch_new(child.id());
        Ok(Child { pid: child.id(), stdout: child.stdout.take().map(OwnedFd::from), exit })
    }

    /// From now on keeps exits of processes that nobody watches yet.
    pub fn expect(&self) -> Expectation {
        lock(&self.state).expectations += 1;
        Expectation { state: Arc::clone(&self.state) }
    }

    /// The end of a child that is not being waited for by anybody else.
    ///
    /// # Errors
    /// `NotFound` when `pid` is not a child, or was reaped without an
    /// [`Expectation`].
    pub fn watch(&self, pid: u32) -> Result<ExitFuture> {
        lock(&self.state).watch(pid)
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Expectation {
    /// The end of the expected process, even if it was reaped meanwhile.
    ///
    /// # Errors
    /// `NotFound` when `pid` is not a child of this process.
    pub fn watch(&self, pid: u32) -> Result<ExitFuture> {
        lock(&self.state).watch(pid)
    }
}

impl Drop for Expectation {
    fn drop(&mut self) {
        let mut state = lock(&self.state);
        state.expectations -= 1;
        if state.expectations == 0 {
            state.unclaimed = VecDeque::new();
        }
    }
}

impl Future for ExitFuture {
    type Output = ProcessExit;

    fn poll(mut self: Pin<&mut Self>, context: &mut task::Context<'_>) -> Poll<ProcessExit> {
        Pin::new(&mut self.0).poll(context).map(|exit| {
            // The sender goes away unused only when the process itself shuts down.
            exit.unwrap_or_else(|_| ProcessExit { status: UNKNOWN_STATUS, at: SystemTime::now() })
        })
    }
}

impl State {
    fn reap(&mut self) {
        while let Some((pid, status)) = wait::reap_any() {
            let exit = ProcessExit { status, at: SystemTime::now() };
            match self.watchers.iter().position(|(watched, _)| *watched == pid) {
                Some(index) => {
                    // Fails when nobody is interested any more; that is their choice.
                    let _ = self.watchers.swap_remove(index).1.send(exit);
                }
                None if self.expectations > 0 => self.keep(pid, exit),
                None => {}
            }
        }
    }

    fn keep(&mut self, pid: u32, exit: ProcessExit) {
        if self.unclaimed.len() == MAX_UNCLAIMED {
            self.unclaimed.pop_front();
        }
        self.unclaimed.push_back((pid, exit));
    }

    fn watch_new(&mut self, pid: u32) -> ExitFuture {
        self.unclaimed.retain(|(kept, _)| *kept != pid);
        let (sender, receiver) = oneshot::channel();
        self.watchers.push((pid, sender));
        ExitFuture(receiver)
    }

    fn watch(&mut self, pid: u32) -> Result<ExitFuture> {
        // The newest: an older one is of a process that had the pid before.
        if let Some(index) = self.unclaimed.iter().rposition(|(kept, _)| *kept == pid) {
            let (sender, receiver) = oneshot::channel();
            if let Some((_, exit)) = self.unclaimed.remove(index) {
                // The receiver is right here.
                let _ = sender.send(exit);
            }
            return Ok(ExitFuture(receiver));
        }
        if !wait::is_child(pid) {
            return Err(Error::not_found(format!("process {pid} is not a child")));
        }
        Ok(self.watch_new(pid))
    }
}

fn spawn_error(command: &Command, error: std::io::Error) -> Error {
    let what = format!("run {}", command.get_program().to_string_lossy());
    match error.kind() {
        std::io::ErrorKind::NotFound | std::io::ErrorKind::PermissionDenied => {
            Error::caused(shim_protocol::ErrorKind::FailedPrecondition, what, error)
        }
        _ => Error::caused(shim_protocol::error::io_kind(&error), what, error),
    }
}

/// The state is consistent between statements, so a panic elsewhere while it
/// was locked does not spoil it.
fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
