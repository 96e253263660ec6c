//! Removing what a process or container leaves behind.

use std::time::Duration;

use shim_protocol::{Context as _, Error, ErrorKind, Id, Result, exits};
use tokio::time::timeout;
use tracing::warn;

use super::{Container, Exit, create::unmount_rootfs, start::KILL_TIMEOUT, state::State};

/// How long output may take to reach its reader after the process has ended.
/// Longer waits are for a reader that does not read, or for a process outside
/// the container that holds the pipe.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the OCI runtime may take to remove a container. The deletion can be
/// tried again, so this is less than a daemon waits for an answer.
const REMOVE_TIMEOUT: Duration = Duration::from_secs(60);

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
        let ended = async {
            match self.runtime.kill(&self.id, nix::libc::SIGKILL as u32, false).await {
                Err(e) if !e.is_not_found() => Err(e),
                _ => self.wait(None).await.map(drop),
            }
        };
        timeout(KILL_TIMEOUT, ended)
            .await
            .map_err(|_| Error::new(ErrorKind::DeadlineExceeded, "init does not end"))?
    }

    async fn remove(&self) -> Result<()> {
        let removed = timeout(REMOVE_TIMEOUT, self.runtime.delete(&self.id, false)).await;
        let removed = removed.unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::DeadlineExceeded, "the OCI runtime does not end"))
        });
        match removed {
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
