//! Removing what a process or container leaves behind.

use std::time::Duration;

use shim_protocol::{Context as _, Error, ErrorKind, Id, Result, exits};
use tracing::warn;

use super::{Container, Exit, create::unmount_rootfs, start::KILL_TIMEOUT, state::State};

/// How long output may take to reach its reader after the process has ended.
/// Longer waits are for a reader that does not read, or for a process outside
/// the container that holds the pipe.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

impl Container {
    /// Removes an exec that has ended or never ran: its pid and exit.
    ///
    /// # Errors
    /// `NotFound`, or `FailedPrecondition` when it runs.
    pub(super) async fn delete_exec(&self, id: &Id) -> Result<(u32, Option<Exit>)> {
        let process = self.life().begin_delete(Some(id))?;
        self.drain(Some(id)).await;
        self.close_streams(Some(id)).await;
        if let Err(e) = exits::remove(self.bundle.path(), Some(id)) {
            warn!("{}", e.report());
        }
        if let Err(e) = self.bundle.remove_exec_pid(id) {
            warn!("{}", e.report());
        }
        self.execs().remove(id);
        self.life().forget_exec(id);
        Ok((process.pid, process.exit))
    }

    /// Removes the container: init's pid and exit. One that was created but
    /// never started is killed first.
    ///
    /// # Errors
    /// `FailedPrecondition` when it runs; else those of the OCI runtime and of
    /// unmounting, after which it may be tried again.
    pub(super) async fn delete(&self) -> Result<(u32, Option<Exit>)> {
        if self.snapshot(None)?.state == State::Created {
            self.kill_created().await?;
        }
        let init = self.life().begin_delete(None)?;
        self.drain(None).await;
        if let Err(error) = self.remove().await {
            self.life().delete_failed(None);
            return Err(error);
        }
        self.unwatch.cancel();
        let execs: Vec<Id> = self.execs().keys().cloned().collect();
        for exec in &execs {
            self.close_streams(Some(exec)).await;
        }
        self.close_streams(None).await;
        self.announce(|life| life.deleted());
        Ok((init.pid, init.exit))
    }

    async fn kill_created(&self) -> Result<()> {
        match self.runtime.kill(&self.id, nix::libc::SIGKILL as u32, false).await {
            Err(e) if !e.is_not_found() => return Err(e),
            _ => {}
        }
        match tokio::time::timeout(KILL_TIMEOUT, self.wait(None)).await {
            Ok(exit) => exit.map(drop),
            Err(_) => Err(Error::new(ErrorKind::DeadlineExceeded, "init does not end")),
        }
    }

    async fn remove(&self) -> Result<()> {
        match self.runtime.delete(&self.id, false).await {
            // A checkpoint that stops the container has removed it, and one
            // that was never restored is not there yet.
            Err(e) if !e.is_not_found() => return Err(e).context("delete container", &self.id),
            _ => {}
        }
        unmount_rootfs(self.rootfs.clone()).await
    }

    async fn drain(&self, exec: Option<&Id>) {
        if let Some(io) = self.streams(exec)
            && !io.drained(DRAIN_TIMEOUT).await
        {
            warn!("output of {} {exec:?} is incomplete: its reader is too slow", self.id);
        }
    }
}
