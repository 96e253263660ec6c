//! What can be asked of a container.

use protobuf::well_known_types::any::Any;
use shim_protocol::{Error, Id, Result};

use super::{Container, Exit, blocking, lifecycle::Snapshot};
use crate::{bundle::Bundle, cgroup::Cgroup, io::Stdio};

impl Container {
    /// Its bundle.
    pub fn bundle(&self) -> &Bundle {
        &self.bundle
    }

    /// The pid of init; 0 before there is one.
    pub fn pid(&self) -> u32 {
        self.life().snapshot(None).map_or(0, |init| init.pid)
    }

    /// What is known of a process.
    ///
    /// # Errors
    /// `NotFound` for an unknown exec.
    pub fn snapshot(&self, exec: Option<&Id>) -> Result<Snapshot> {
        self.life().snapshot(exec)
    }

    /// Where a process's streams go.
    ///
    /// # Errors
    /// `NotFound` for an unknown exec.
    pub fn stdio_of(&self, exec: Option<&Id>) -> Result<Stdio> {
        match exec {
            None => Ok(self.stdio.clone()),
            Some(id) => Ok(self.exec_spec(id)?.stdio.clone()),
        }
    }

    /// Waits for the end of a process. One that has ended answers at once.
    ///
    /// # Errors
    /// `NotFound` for an unknown exec, or one that is deleted before it runs.
    pub async fn wait(&self, exec: Option<&Id>) -> Result<Exit> {
        let mut ended = self.life().subscribe(exec)?;
        let exit = ended.wait_for(Option::is_some).await.map(|exit| *exit);
        exit.ok().flatten().ok_or_else(|| Error::not_found("the process was deleted"))
    }

    /// All processes in the container, with the exec they belong to.
    ///
    /// # Errors
    /// Those of the OCI runtime.
    pub async fn processes(&self) -> Result<Vec<(u32, Option<Id>)>> {
        let pids = self.unless_gone(self.runtime.ps(&self.id)).await?;
        let life = self.life();
        let exec_of = |pid| life.running_execs().find(|(_, p)| *p == pid).map(|(id, _)| id.clone());
        Ok(pids.into_iter().map(|pid| (pid, exec_of(pid))).collect())
    }

    /// What the container uses now.
    ///
    /// # Errors
    /// `NotFound` when it has no cgroup (any more).
    pub async fn stats(&self) -> Result<Any> {
        let cgroup = self.cgroup.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        let cgroup = cgroup.ok_or_else(|| Error::not_found("the container has no cgroup"))?;
        // The kernel sums up over all processors, which may take a while.
        blocking(move || cgroup.stats()).await
    }

    pub(super) fn set_cgroup(&self, cgroup: Cgroup) {
        let mut slot = self.cgroup.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *slot = Some(cgroup);
    }
}
