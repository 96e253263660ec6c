//! What can be done to a container or process that is there.

use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde_json::Value;
use shim_protocol::{Context as _, Error, ErrorKind, Id, Result, images};
use tokio::time::timeout;
use tracing::warn;

use super::{
    Container, ExecSpec,
    container::Restoring,
    start::{KILL_TIMEOUT, SIGKILL},
    state::{State, Unstarted},
};
use crate::{
    kernel::is_exiting,
    runtime::{Checkpoint, Status},
    sys::{process, wait},
};

impl Container {
    /// Describes a process that may be started later.
    ///
    /// # Errors
    /// `AlreadyExists` for a taken id, `FailedPrecondition` when init does not
    /// run, `InvalidArgument` when it is no OCI process.
    pub fn add_exec(&self, id: &Id, mut spec: ExecSpec) -> Result<()> {
        spec.process = with_terminal(&spec.process, spec.stdio.terminal).context_as(
            ErrorKind::InvalidArgument,
            "read the process of exec",
            id,
        )?;
        // Described before it is announced, and not at all when it is refused.
        let mut execs = self.execs();
        self.try_announce(|life| life.add_exec(id))?;
        execs.insert(id.clone(), Arc::new(spec));
        Ok(())
    }

    /// Sends a signal to init, to all processes, or to one exec. SIGKILL also ends
    /// a restore that is under way: init then is one that was not started.
    ///
    /// # Errors
    /// `NotFound` when the process has ended, `FailedPrecondition` when it was
    /// not started yet.
    pub async fn kill(&self, exec: Option<&Id>, signal: u32, all: bool) -> Result<()> {
        if exec.is_none() && signal == SIGKILL && self.give_up_restore().await? {
            return Ok(());
        }
        let target = self.life().snapshot(exec)?;
        target.state.may_kill()?;
        match exec {
            None => self.unless_gone(self.runtime.kill(&self.id, signal, all)).await,
            // A zombie keeps its pid: what is still our child is no stranger.
            Some(_) if !wait::is_child(target.pid) => {
                Err(Error::not_found("process already finished"))
            }
            Some(id) => match process::kill(target.pid, signal) {
                Err(e) if e.raw_os_error() == Some(libc::ESRCH) => {
                    Err(e).context_as(ErrorKind::NotFound, "kill exec", id)
                }
                Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {
                    Err(e).context_as(ErrorKind::InvalidArgument, "send signal", signal)
                }
                other => other.context("kill exec", id),
            },
        }
    }

    /// Ends a restore that is under way, and may hang. There is nothing else to be
    /// killed then, unless it has just come to its end.
    async fn give_up_restore(&self) -> Result<bool> {
        if self.life().snapshot(None)?.state != State::Starting(Unstarted::Prepared) {
            return Ok(false);
        }
        let Restoring { give_up, ended } = self.restoring().clone();
        give_up.cancel();
        timeout(KILL_TIMEOUT, ended.cancelled()).await.map_err(|_| {
            Error::new(ErrorKind::DeadlineExceeded, "the restore that was given up does not end")
        })?;
        Ok(self.life().snapshot(None)?.state == State::Prepared)
    }

    /// Freezes the container.
    ///
    /// # Errors
    /// `FailedPrecondition` unless it runs.
    pub async fn pause(&self) -> Result<()> {
        let _steering = self.steering.lock().await;
        self.life().step(State::begin_pause)?;
        match self.unless_gone(self.runtime.pause(&self.id)).await {
            Ok(()) => self.try_announce(|life| life.paused()),
            Err(error) => {
                // Refused when init ended meanwhile; the first error says more.
                let _ = self.life().step(State::pause_failed);
                Err(error)
            }
        }
    }

    /// Lets a frozen container run.
    ///
    /// # Errors
    /// `FailedPrecondition` unless it is frozen.
    pub async fn resume(&self) -> Result<()> {
        let _steering = self.steering.lock().await;
        self.life().step(State::begin_resume)?;
        match self.unless_gone(self.runtime.resume(&self.id)).await {
            Ok(()) => self.try_announce(|life| life.resumed()),
            Err(error) => {
                let _ = self.life().step(State::resume_failed);
                Err(error)
            }
        }
    }

    /// Changes limits; `resources` is an OCI `LinuxResources` as JSON.
    ///
    /// # Errors
    /// `FailedPrecondition` unless there is an init; else the OCI runtime's.
    pub async fn update(&self, resources: &[u8]) -> Result<()> {
        let _steering = self.steering.lock().await;
        self.life().snapshot(None)?.state.may_update()?;
        self.unless_gone(self.runtime.update(&self.id, resources)).await
    }

    /// Writes the container's processes to disk. If that fails, they go on as
    /// before.
    ///
    /// # Errors
    /// `FailedPrecondition` unless it runs, or when somebody else writes to the
    /// folder, or CRIU is missing or too old; else the OCI runtime's.
    pub async fn checkpoint(&self, mut request: Checkpoint) -> Result<()> {
        if request.image_path.as_os_str().is_empty() {
            request.image_path = PathBuf::from(&self.options.criu_image_path);
        }
        if request.image_path.as_os_str().is_empty() {
            return Err(Error::invalid("a checkpoint needs a folder for its images"));
        }
        request.work_path.get_or_insert_with(|| self.criu_work_path());
        // What is locked is in use, also by one that waits for its turn: a daemon that
        // was started meanwhile leaves it.
        let _held = lock_folder(&request.image_path)?;
        let _steering = self.steering.lock().await;
        self.life().snapshot(None)?.state.may_checkpoint()?;
        // Not given up when init is gone: it may end init itself, and not be done yet.
        let written = self.runtime.checkpoint(&self.id, &request).await;
        if written.is_ok() {
            self.publish_checkpoint(&request.image_path.to_string_lossy());
        }
        // CRIU's last act is to end what it has written, and all can fail after that.
        // Nobody may take its images for those of a process that runs.
        if request.exit && (written.is_ok() || is_exiting(self.pid())) {
            self.end_of_written().await;
        }
        if written.is_err() {
            self.undo_freeze().await;
        }
        written
    }

    /// Waits until it is known that init, which CRIU has ended, is gone.
    async fn end_of_written(&self) {
        if timeout(KILL_TIMEOUT, self.wait(None)).await.is_err() {
            warn!("{} does not end with its checkpoint", self.id);
        }
    }

    /// CRIU freezes what it writes, and may have died before it thawed it. Only
    /// what the client has paused stays as it is.
    async fn undo_freeze(&self) {
        let wanted = |state| match state {
            State::Running => Some(false),
            State::Paused => Some(true),
            _ => None,
        };
        let Some(paused) = self.life().snapshot(None).ok().and_then(|init| wanted(init.state))
        else {
            return;
        };
        let undone = async {
            let is_paused = self.runtime.state(&self.id).await?.status == Status::Paused;
            match (is_paused, paused) {
                (true, false) => self.runtime.resume(&self.id).await,
                (false, true) => self.runtime.pause(&self.id).await,
                _ => Ok(()),
            }
        };
        match undone.await {
            Err(e) if !e.is_not_found() => {
                warn!("after a failed checkpoint of {}: {}", self.id, e.report());
            }
            _ => {}
        }
    }

    /// Where CRIU works and logs, where a request does not say.
    pub(super) fn criu_work_path(&self) -> PathBuf {
        match self.options.criu_work_path.as_str() {
            "" => self.bundle.work(),
            path => PathBuf::from(path),
        }
    }

    /// Changes the size of a process's terminal; without one, nothing happens.
    /// Nor does it when init has ended, since clients set the size at a time of
    /// their own (containerd's shim makes the same difference).
    ///
    /// # Errors
    /// `NotFound` for an unknown exec, `FailedPrecondition` for one that ended.
    pub fn resize(&self, exec: Option<&Id>, columns: u32, rows: u32) -> Result<()> {
        let state = self.life().snapshot(exec)?.state;
        match (state, exec) {
            (State::Stopped | State::Deleting(_), None) => return Ok(()),
            (State::Stopped | State::Deleting(_), Some(id)) => {
                return Err(Error::precondition(format!("exec {id} has ended")));
            }
            _ => {}
        }
        let size = |value: u32| {
            u16::try_from(value).map_err(|_| Error::invalid(format!("terminal size {value}")))
        };
        let (columns, rows) = (size(columns)?, size(rows)?);
        match self.streams(exec) {
            Some(io) if self.stdio_of(exec)?.terminal => io.resize(columns, rows),
            _ => Ok(()),
        }
    }

    /// Closes the input of a process; again is fine.
    ///
    /// # Errors
    /// `NotFound` for an unknown exec.
    pub fn close_stdin(&self, exec: Option<&Id>) -> Result<()> {
        self.life().snapshot(exec)?;
        if let Some(io) = self.streams(exec) {
            io.close_stdin();
        }
        Ok(())
    }
}

/// The lock of a folder whose name is the client's, if there is one.
///
/// # Errors
/// `FailedPrecondition` when somebody else has locked it.
fn lock_folder(path: &Path) -> Result<Option<File>> {
    match images::lock(path) {
        Ok(None) => {
            let text = format!("{} is in use by another checkpoint", path.display());
            Err(Error::precondition(text))
        }
        // There is none, or its filesystem has no locks.
        locked => Ok(locked.ok().flatten()),
    }
}

/// The process with the request's word on whether it has a terminal.
fn with_terminal(process: &[u8], terminal: bool) -> Result<Vec<u8>> {
    let invalid = |e| Error::caused(ErrorKind::InvalidArgument, "decode JSON", e);
    let mut process: serde_json::Map<String, Value> =
        serde_json::from_slice(process).map_err(invalid)?;
    process.insert("terminal".into(), Value::Bool(terminal));
    serde_json::to_vec(&process).map_err(invalid)
}
