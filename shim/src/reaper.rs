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

use nix::sys::{prctl, signal::Signal};
use shim_protocol::{Context, Error, Result};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::oneshot,
    task::JoinHandle,
};

use crate::sys::{process, wait};

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

/// A child that nobody needs any more once this is dropped: it is killed then.
#[derive(Debug)]
pub(crate) struct KillOnDrop {
    pid: u32,
    exit: ExitFuture,
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

impl KillOnDrop {
    pub(crate) fn new(pid: u32, exit: ExitFuture) -> Self {
        Self { pid, exit }
    }

    /// Its end; not to be asked for again once it was told.
    pub(crate) async fn ended(&mut self) -> ProcessExit {
        (&mut self.exit).await
    }

    /// Sends it a signal, unless it has ended.
    pub(crate) fn signal(&self, signal: Signal) {
        // Until it is reaped, its pid is not used again.
        if self.exit.is_over() {
            return;
        }
        if let Err(error) = process::kill(self.pid, signal as u32) {
            tracing::debug!(pid = self.pid, %error, "signal a child");
        }
    }
}

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
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

impl ExitFuture {
    /// True once the process was reaped.
    fn is_over(&self) -> bool {
        !self.0.is_empty() || self.0.is_terminated()
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

#[cfg(test)]
mod tests {
    use std::{io::Read, process::Stdio};

    use nix::{sys::signal::kill, unistd::Pid};
    use shim_protocol::ErrorKind;

    use super::*;
    use crate::testing::{run, sh};

    #[test]
    fn status_is_the_code_or_128_plus_the_signal() {
        run(async |reaper| {
            for (script, status) in
                [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137), ("kill -40 $$", 168)]
            {
                let child = reaper.spawn(&mut sh(script)).unwrap();
                assert_eq!(child.exit.await.status, status, "{script}");
            }
        });
    }

    #[test]
    fn no_exit_of_many_is_lost() {
        run(async |reaper| {
            let children: Vec<_> =
                (0..100).map(|n| reaper.spawn(&mut sh(&format!("exit {n}"))).unwrap()).collect();
            for (n, child) in children.into_iter().enumerate() {
                assert_eq!(child.exit.await.status, n as u32);
            }
        });
    }

    /// Starts a process that starts another and ends: the pid of the latter,
    /// which runs `script` once the returned pipe is closed.
    async fn orphan(reaper: &Reaper, script: &str) -> (u32, OwnedFd) {
        let (ours, theirs) = std::io::pipe().map(|(r, w)| (OwnedFd::from(w), r)).unwrap();
        let script = format!("exec 3<&0; (read x <&3; {script}) >/dev/null & echo $!");
        let mut command = sh(&script);
        let mut child = reaper.spawn(command.stdin(theirs).stdout(Stdio::piped())).unwrap();
        drop(command);
        let mut pid = String::new();
        std::fs::File::from(child.stdout.take().unwrap()).read_to_string(&mut pid).unwrap();
        assert_eq!(child.exit.await.status, 0);
        (pid.trim().parse().unwrap(), ours)
    }

    #[test]
    fn an_orphan_that_lives_is_watched() {
        run(async |reaper| {
            let (pid, _pipe) = orphan(&reaper, "exit 0").await;
            let exit = reaper.watch(pid).unwrap();
            kill(Pid::from_raw(pid as i32), Signal::SIGTERM).unwrap();
            assert_eq!(exit.await.status, 143);
        });
    }

    #[test]
    fn an_exit_before_the_pid_is_known_is_kept_while_expected() {
        run(async |reaper| {
            let expectation = reaper.expect();
            let (pid, pipe) = orphan(&reaper, "exit 5").await;
            drop(pipe);
            while lock(&reaper.state).unclaimed.is_empty() {
                tokio::task::yield_now().await;
            }
            assert_eq!(expectation.watch(pid).unwrap().await.status, 5);
            drop(expectation);
            assert!(lock(&reaper.state).unclaimed.is_empty());
        });
    }

    #[test]
    fn an_unexpected_exit_is_reaped_and_forgotten() {
        run(async |reaper| {
            let (pid, pipe) = orphan(&reaper, "exit 5").await;
            drop(pipe);
            while wait::is_child(pid) {
                tokio::task::yield_now().await;
            }
            assert_eq!(reaper.watch(pid).unwrap_err().kind(), ErrorKind::NotFound);
            assert!(lock(&reaper.state).watchers.is_empty());
        });
    }

    #[test]
    fn a_child_that_nobody_needs_is_killed() {
        run(async |reaper| {
            let mut child = reaper.spawn(&mut sh("exec sleep 1000")).unwrap();
            let bound = KillOnDrop::new(child.pid, child.exit);
            bound.signal(Signal::SIGTERM);
            while !bound.exit.is_over() {
                tokio::task::yield_now().await;
            }
            // It is not taken away by asking, and nobody is killed for it.
            let mut bound = bound;
            bound.signal(Signal::SIGKILL);
            assert_eq!(bound.ended().await.status, 143);
            drop(bound);

            child = reaper.spawn(&mut sh("exec sleep 1000")).unwrap();
            drop(KillOnDrop::new(child.pid, child.exit));
            while wait::is_child(child.pid) {
                tokio::task::yield_now().await;
            }
        });
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut state = State::default();
        let exit = ProcessExit { status: 0, at: SystemTime::now() };
        for pid in 0..MAX_UNCLAIMED as u32 + 10 {
            state.keep(pid, exit);
        }
        assert_eq!(state.unclaimed.len(), MAX_UNCLAIMED);
        assert_eq!(state.unclaimed.front().unwrap().0, 10);
    }

    #[test]
    fn a_missing_program_is_said_so() {
        run(async |reaper| {
            let error = reaper.spawn(&mut Command::new("/no/such/program")).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
            assert_eq!(error.to_string(), "run /no/such/program");
        });
    }
}
