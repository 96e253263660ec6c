//! Starting processes, and what happens when they end.

use std::{path::Path, sync::Arc, time::Duration};

use nix::sys::signal::Signal;
use shim_protocol::{
    Error, ErrorKind, Id, Result,
    exits::{self, ExitRecord},
};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::{
    Container, Exit,
    container::{RUNTIME_GRACE, Restoring},
    lifecycle::Lifecycle,
};
use crate::{
    io::ProcessIo,
    kernel::is_exiting,
    reaper::{ExitFuture, KillOnDrop, ProcessExit},
    runtime::{Exec, Restore, Started},
    sys::{process, wait},
};

pub(super) const SIGKILL: u32 = Signal::SIGKILL as u32;
/// How long a process that was killed may take to be reaped.
pub(super) const KILL_TIMEOUT: Duration = Duration::from_secs(10);

impl Container {
    /// Starts init, or an exec that was added; returns its pid.
    ///
    /// # Errors
    /// `NotFound` for an unknown exec, `FailedPrecondition` when it cannot be
    /// started (any more); else those of the OCI runtime. After a failure it
    /// may be tried again, unless the process has ended.
    pub async fn start(self: &Arc<Self>, exec: Option<&Id>) -> Result<u32> {
        self.life().begin_start(exec)?;
        let restoring = Restoring::default();
        if exec.is_none() {
            *self.restoring() = restoring.clone();
        }
        let _ended = restoring.ended.drop_guard();
        let started = match (exec, &self.restore) {
            (Some(id), _) => self.start_exec(id).await.map(Some),
            (None, Some(restore)) => {
                self.start_restored(restore, &restoring.give_up).await.map(Some)
            }
            (None, None) => self.unless_gone(self.runtime.start(&self.id)).await.map(|()| None),
        };
        let result = match started {
            // Restored or added just now.
            Ok(Some(Started { pid, exit })) => {
                self.try_announce(|life| life.started(exec, pid))?;
                self.supervise(exec, pid, exit);
                Ok(pid)
            }
            // Created before, and supervised since.
            Ok(None) => {
                let pid = self.pid();
                self.try_announce(|life| life.started(exec, pid))?;
                Ok(pid)
            }
            Err(error) => {
                self.try_announce(|life| life.start_failed(exec))?;
                Err(if exec.is_some() { self.blame_init(error) } else { error })
            }
        };
        if exec.is_some() && self.life().is_init_gone() {
            // What was made may have come too late to be ended with the others.
            self.end_leftovers(false).await;
        }
        result
    }

    /// A refusal of the OCI runtime that has no kind is init's fault if init is
    /// on its way out. The runtime itself calls it running until it is a zombie.
    fn blame_init(&self, error: Error) -> Error {
        let ending = || self.life().is_init_gone() || is_exiting(self.pid());
        if error.kind() == ErrorKind::Unknown && ending() {
            return error.with_kind(ErrorKind::FailedPrecondition);
        }
        error
    }

    async fn start_exec(&self, id: &Id) -> Result<Started> {
        let spec = self.exec_spec(id)?;
        let (io, stdio) = self.open_streams(id, &spec.stdio).await?;
        let pid_file = self.bundle.exec_pid_file(id);
        let request = Exec { pid_file: &pid_file, process: &spec.process, stdio };
        let started = self.unless_gone(self.runtime.exec(&self.id, request)).await;
        self.attach(Some(id), io, started).await
    }

    async fn start_restored(
        self: &Arc<Self>,
        restore: &Path,
        give_up: &CancellationToken,
    ) -> Result<Started> {
        let (io, stdio) = self.open_streams(&self.id, &self.stdio).await?;
        let work_path = self.criu_work_path();
        let request = Restore {
            bundle: self.bundle.path(),
            image_path: restore,
            work_path: Some(&work_path),
            stdio,
            no_pivot_root: self.options.no_pivot_root,
            give_up,
        };
        let started = self.runtime.restore(&self.id, request).await;
        let started = self.attach(None, io, started).await?;
        self.found_init(started.pid);
        Ok(started)
    }

    /// Takes the terminal of a process that was made, or ends both.
    pub(super) async fn attach(
        &self,
        exec: Option<&Id>,
        io: ProcessIo,
        started: Result<Started>,
    ) -> Result<Started> {
        let started = match started {
            Ok(started) => started,
            Err(error) => {
                io.close().await;
                return Err(error);
            }
        };
        if let Err(error) = io.attach_console().await {
            self.end(exec, started).await;
            io.close().await;
            return Err(error);
        }
        self.keep_streams(exec, io);
        Ok(started)
    }

    /// Ends a process that nobody has heard of yet; with init goes the container.
    async fn end(&self, exec: Option<&Id>, Started { pid, exit }: Started) {
        if exec.is_none() {
            let removed = self.runtime.delete(&self.id, true).await;
            return removed.unwrap_or_else(|e| warn!("{}", e.report()));
        }
        let mut process = KillOnDrop::new(pid, exit);
        process.signal(Signal::SIGKILL);
        if timeout(KILL_TIMEOUT, process.ended()).await.is_err() {
            error!("process {pid} in {} does not end", self.id);
        }
    }

    /// Waits in the background for a process, and handles its end.
    pub(super) fn supervise(self: &Arc<Self>, exec: Option<&Id>, pid: u32, exit: ExitFuture) {
        let (container, exec) = (Arc::clone(self), exec.cloned());
        self.context.background.spawn(async move {
            let ProcessExit { status, at } = exit.await;
            container.ended(exec, pid, Exit { status, at }).await;
        });
    }

    /// A process was reaped: the record first, so that the status survives the
    /// shim, then what init leaves behind, then the announcement.
    async fn ended(&self, exec: Option<Id>, pid: u32, exit: Exit) {
        let Exit { status, at } = exit;
        let record = ExitRecord { exec_id: exec.clone(), pid, status, at };
        // A small file on a tmpfs: a thread would cost more than it saves.
        if let Err(e) = exits::write(self.bundle.path(), &record) {
            error!("record the exit of {pid} in {}: {}", self.id, e.report());
        }
        if let Some(io) = self.streams(exec.as_ref()) {
            io.process_ended();
        }
        if exec.is_none() {
            let frozen = {
                let mut life = self.life();
                life.init_ending(exit);
                is_frozen(&life)
            };
            self.init_gone.cancel();
            self.end_leftovers(frozen).await;
        }
        // The cause before what came of it, even if both are found in one turn.
        if self.oom().as_ref().is_some_and(|oom| oom.take()) {
            self.publish_oom();
        }
        self.announce(|life| life.reaped(exec.as_ref(), exit));
    }

    /// Without a pid namespace of its own, a container's processes survive
    /// init; and frozen ones cannot even die.
    async fn end_leftovers(&self, frozen: bool) {
        if self.own_pid_namespace && !frozen {
            return;
        }
        let thaw = async {
            if frozen && let Err(e) = self.runtime.resume(&self.id).await {
                warn!("thaw what is left of {}: {}", self.id, e.report());
            }
        };
        if timeout(RUNTIME_GRACE, thaw).await.is_err() {
            warn!("the OCI runtime does not thaw what is left of {}", self.id);
        }
        match timeout(RUNTIME_GRACE, self.runtime.kill(&self.id, SIGKILL, true)).await {
            Ok(Ok(())) => return,
            Ok(Err(e)) if e.is_not_found() => {}
            Ok(Err(e)) => warn!("end what is left of {}: {}", self.id, e.report()),
            Err(_) => warn!("the OCI runtime does not end what is left of {}", self.id),
        }
        self.kill_execs();
    }

    /// Ends the execs without the OCI runtime, as init's end is not announced
    /// before theirs. What they have started is out of reach.
    fn kill_execs(&self) {
        for (id, pid) in self.life().running_execs() {
            // It may have been reaped just now, and its end not noticed yet.
            if wait::is_child(pid)
                && let Err(e) = process::kill(pid, SIGKILL)
            {
                warn!("kill exec {id} in {}: {e}", self.id);
            }
        }
    }
}

fn is_frozen(life: &Lifecycle) -> bool {
    use super::state::State;
    let state = life.snapshot(None).map(|init| init.state);
    matches!(state, Ok(State::Pausing | State::Paused | State::Resuming))
}
