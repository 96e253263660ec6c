//! Looking at a container: one that has ended is taken away, or marked if its
//! end was unseen, and what is half made is removed.

use runtime_v2::Status as TaskStatus;
use shim_protocol::{Id, Result};
use tokio::time::timeout;
use tracing::warn;

use super::{JOB, Legacy, late, lock, or_gone, record::Record};
use crate::events::Ending;

impl Legacy {
    /// Has the keeper look at a container in a while.
    pub(super) fn look_again(&self, id: &Id) {
        lock(&self.again).insert(id.clone());
    }

    /// What is to be looked at again.
    pub(super) fn take_again(&self) -> impl Iterator<Item = Id> + use<> {
        std::mem::take(&mut *lock(&self.again)).into_iter()
    }

    /// The names of our containers.
    pub(super) async fn ours(&self) -> Result<Vec<Id>> {
        let all = self.containers.list::<&str>(&self.config.namespace, &[]).await?;
        let records = all.iter().filter_map(Record::read_or_warn);
        Ok(records.filter(Record::is_ours).map(|record| record.id).collect())
    }

    /// Puts a container in order: one that runs stays as it is, unless its start
    /// has failed; one that ended unseen is marked, any other is taken away.
    pub(super) async fn look(&self, id: &Id) -> Result<()> {
        timeout(JOB, self.look_inside(id)).await.unwrap_or_else(|_| Err(late(id, JOB)))
    }

    async fn look_inside(&self, id: &Id) -> Result<()> {
        let _held = self.locks.hold(id).await;
        let record = match self.record(id).await {
            Ok(record) if record.is_ours() => record,
            Ok(_) => return Ok(()),
            Err(e) if e.is_not_found() => return Ok(()),
            Err(e) => return Err(e),
        };
        if record.is_unwanted(None) {
            return self.end(id).await;
        }
        let (task, process) = self.task(id).await;
        let ending = match process {
            Ok(process) => match (process.status, process.exit) {
                (TaskStatus::Stopped, Some(exit)) => {
                    let ending = Ending { pid: process.pid, status: exit.status, at: exit.at };
                    if !record.has_ended_unseen(ending) && !self.unseen.found(id, None, ending) {
                        return self.remove(id, task).await;
                    }
                    ending
                }
                // It was about to be started.
                (TaskStatus::Created, _) => return self.end(id).await,
                _ => {
                    if self.unseen.of(id, None).is_some_and(|of| of.pid != process.pid) {
                        self.unseen.forget_process(id, None);
                    }
                    return self.look_at_processes(&record).await;
                }
            },
            Err(e) if e.is_not_found() => match record.exit.or(self.unseen.of(id, None)) {
                Some(ending) => ending,
                // It never ran, or the machine was started anew meanwhile.
                None => return self.remove(id, task).await,
            },
            Err(e) => return Err(e),
        };
        self.look_at_processes(&record).await?;
        self.mark(&record, ending).await
    }

    /// Writes down an end that was unseen.
    async fn mark(&self, record: &Record, ending: Ending) -> Result<()> {
        if record.has_ended_unseen(ending) {
            return Ok(());
        }
        or_gone(self.extend(&record.id, super::record::exit(ending)?).await)
    }

    /// Forgets processes that were recorded and never made, or have ended; but not
    /// those that ended unseen: subscribers will hear of them.
    async fn look_at_processes(&self, record: &Record) -> Result<()> {
        for exec in record.processes.keys() {
            let target = self.target(&record.id, Some(exec.clone()));
            if record.is_unwanted(Some(exec)) {
                self.kill_and_delete(&target).await?;
                self.forget_process(&target).await?;
                continue;
            }
            let is_over = match self.tasks.get(&target).await {
                Ok(process) => match (process.status, process.exit) {
                    (TaskStatus::Created, _) => true,
                    (TaskStatus::Stopped, Some(exit)) => {
                        let ending = Ending { pid: process.pid, status: exit.status, at: exit.at };
                        !self.unseen.found(&record.id, Some(exec), ending)
                    }
                    (TaskStatus::Stopped, None) => !self.is_unseen(&record.id, exec),
                    _ => false,
                },
                // With a shim that died, what it knew has gone.
                Err(e) if e.is_not_found() => !self.is_unseen(&record.id, exec),
                Err(e) => return Err(e),
            };
            if is_over {
                or_gone(self.tasks.delete_process(&target).await)?;
                self.forget_process(&target).await?;
            }
        }
        Ok(())
    }

    /// Init has ended, while clients could listen.
    pub(super) async fn ended(&self, id: &Id, ending: Ending) -> Result<()> {
        let ended = timeout(JOB, self.ended_inside(id, ending)).await;
        ended.unwrap_or_else(|_| Err(late(id, JOB)))
    }

    async fn ended_inside(&self, id: &Id, ending: Ending) -> Result<()> {
        let _held = self.locks.hold(id).await;
        let record = match self.record(id).await {
            Err(e) if e.is_not_found() => return Ok(()),
            record => record?,
        };
        // A shim may tell late of what was found at boot.
        if !record.is_ours() || record.has_ended_unseen(ending) {
            return Ok(());
        }
        if self.unseen.of(id, None).is_some_and(|unseen| unseen.pid == ending.pid) {
            return Ok(());
        }
        let (task, process) = self.task(id).await;
        match process {
            // One of the same name was started meanwhile.
            Ok(process) if process.pid != ending.pid || process.status != TaskStatus::Stopped => {
                Ok(())
            }
            Err(e) if !e.is_not_found() => Err(e),
            // One whose shim died has no task any more.
            _ => self.remove(id, task).await,
        }
    }

    /// An added process has ended, while clients could listen.
    pub(super) async fn exec_ended(&self, id: &Id, exec: &Id) -> Result<()> {
        let ended = timeout(JOB, self.exec_ended_inside(id, exec)).await;
        ended.unwrap_or_else(|_| Err(late(id, JOB)))
    }

    async fn exec_ended_inside(&self, id: &Id, exec: &Id) -> Result<()> {
        let record = match self.record(id).await {
            Err(e) if e.is_not_found() => return Ok(()),
            record => record?,
        };
        if !record.processes.contains_key(exec) || self.is_unseen(id, exec) {
            return Ok(());
        }
        let target = self.target(id, Some(exec.clone()));
        or_gone(self.tasks.delete_process(&target).await)?;
        self.forget_process(&target).await
    }

    fn is_unseen(&self, id: &Id, exec: &Id) -> bool {
        self.unseen.of(id, Some(exec)).is_some()
    }
}

impl Record {
    /// Reads a record; one that makes no sense is passed over.
    pub(super) fn read_or_warn(container: &crate::containers::Container) -> Option<Self> {
        Self::read(container)
            .inspect_err(|error| {
                warn!(id = %container.id, error = %error.report(), "record makes no sense");
            })
            .ok()
    }

    /// It is marked with that end. A shim and an event may differ in the time.
    fn has_ended_unseen(&self, ending: Ending) -> bool {
        self.exit.is_some_and(|exit| exit.pid == ending.pid)
    }
}
