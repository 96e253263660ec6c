//! Looking at a container: one that has ended is taken away, or marked if its
//! end was unseen, and what is half made is removed.

use std::collections::HashMap;

use runtime_v2::Status as TaskStatus;
use shim_protocol::{Id, Result};
use tokio::time::timeout;
use tracing::warn;

use super::{JOB, Legacy, late, lock, or_gone, record::Record};
use crate::events::Ending;

/// Where an end is known from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// The daemon before had it, or it came before clients were served. So
    /// none has heard of it.
    Boot,
    /// It happened while clients could listen.
    Live,
}

/// A container to be looked at.
#[derive(Clone, Debug)]
pub(super) struct Look {
    pub(super) id: Id,
    pub(super) source: Source,
    /// How init ended, if that was published: its shim may be gone.
    pub(super) ending: Option<Ending>,
}

/// Containers that could not be put in order yet.
pub(super) type Again = HashMap<Id, Look>;

impl Legacy {
    /// Has the keeper look at a container in a while.
    pub(super) fn look_again(&self, look: Look) {
        let mut again = lock(&self.again);
        let known = again.remove(&look.id);
        let boot = known.as_ref().is_some_and(|known| known.source == Source::Boot);
        let source = if boot { Source::Boot } else { look.source };
        let ending = look.ending.or(known.and_then(|known| known.ending));
        again.insert(look.id.clone(), Look { source, ending, ..look });
    }

    /// What is to be looked at again.
    pub(super) fn take_again(&self) -> Vec<Look> {
        lock(&self.again).drain().map(|(_, look)| look).collect()
    }

    /// The names of our containers.
    pub(super) async fn ours(&self) -> Result<Vec<Id>> {
        let all = self.containers.list::<&str>(&self.config.namespace, &[]).await?;
        let records = all.iter().filter_map(Record::read_or_warn);
        Ok(records.filter(Record::is_ours).map(|record| record.id).collect())
    }

    /// Puts a container in order: one that runs stays as it is, one that ended
    /// unseen is marked, any other is taken away.
    pub(super) async fn look(&self, look: &Look) -> Result<()> {
        timeout(JOB, self.look_inside(look)).await.unwrap_or_else(|_| Err(late(&look.id, JOB)))
    }

    async fn look_inside(&self, look: &Look) -> Result<()> {
        let id = &look.id;
        let _held = self.locks.hold(id).await;
        let record = match self.record(id).await {
            Ok(record) if record.is_ours() => record,
            Ok(_) => return Ok(()),
            Err(e) if e.is_not_found() => return Ok(()),
            Err(e) => return Err(e),
        };
        let ending = match self.tasks.get(&self.target(id, None)).await {
            Ok(process) => match (process.status, process.exit) {
                (TaskStatus::Stopped, Some(exit)) => {
                    Ending { pid: process.pid, status: exit.status, at: exit.at }
                }
                // It was about to be started.
                (TaskStatus::Created, _) => return self.end(id).await,
                _ => return self.look_at_processes(&record, look.source).await,
            },
            Err(e) if e.is_not_found() => match record.exit.or(look.ending) {
                Some(ending) => ending,
                // It never ran, or the machine was started anew meanwhile.
                None => return self.remove(id).await,
            },
            Err(e) => return Err(e),
        };
        if record.has_ended_unseen(ending) || look.source == Source::Boot {
            self.look_at_processes(&record, Source::Boot).await?;
            return self.mark(&record, ending).await;
        }
        self.remove(id).await
    }

    /// Writes down an end that was unseen.
    async fn mark(&self, record: &Record, ending: Ending) -> Result<()> {
        if record.has_ended_unseen(ending) {
            return Ok(());
        }
        or_gone(self.extend(&record.id, super::record::exit(ending)?).await)
    }

    /// Forgets processes that were recorded and never made, or have ended; of
    /// those that ended unseen subscribers will hear.
    async fn look_at_processes(&self, record: &Record, source: Source) -> Result<()> {
        for exec in record.processes.keys() {
            let target = self.target(&record.id, Some(exec.clone()));
            let ended = match self.tasks.get(&target).await {
                Ok(process) => match (process.status, process.exit) {
                    (TaskStatus::Created, _) => true,
                    (TaskStatus::Stopped, Some(exit)) if source == Source::Boot => {
                        let ending = Ending { pid: process.pid, status: exit.status, at: exit.at };
                        lock(&self.unseen).insert((record.id.clone(), exec.clone()), ending);
                        false
                    }
                    (TaskStatus::Stopped, _) => !self.is_unseen(&record.id, exec),
                    _ => false,
                },
                Err(e) if e.is_not_found() => {
                    self.forget_process(&target).await?;
                    false
                }
                Err(e) => return Err(e),
            };
            if ended {
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
        match self.tasks.get(&self.target(id, None)).await {
            // One of the same name was started meanwhile.
            Ok(process) if process.pid != ending.pid || process.status != TaskStatus::Stopped => {
                Ok(())
            }
            Err(e) if !e.is_not_found() => Err(e),
            // One whose shim died has no task any more.
            _ => self.remove(id).await,
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
        lock(&self.unseen).contains_key(&(id.clone(), exec.clone()))
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
