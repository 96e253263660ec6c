//! Takes containers away when they end, and marks those that ended unseen.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures::FutureExt;
use runtime_v2::Status as TaskStatus;
use shim_protocol::{Id, Result};
use tokio::{
    task::{JoinHandle, JoinSet},
    time::sleep,
};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::{Legacy, or_gone, record};
use crate::events::{self, Ending, Happening, Subscription};

/// Containers that are taken away at the same time.
const PARALLEL: usize = 8;

/// How long to wait before events are listened to again, if that failed.
const RETRY: Duration = Duration::from_secs(1);

/// Name of our subscription: what was published since boot comes first.
const KEY: &str = "keeper of the legacy containers";

/// The running keeper.
#[derive(Debug)]
pub struct Keeper {
    closing: CancellationToken,
    worker: JoinHandle<()>,
}

impl Keeper {
    /// Looks through what an earlier daemon has left, then goes on by itself.
    /// To be called when its tasks are known again, and before clients are
    /// served: what has ended by now has ended unseen.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn start(legacy: Arc<Legacy>) -> Result<Self> {
        // A second keeper of the same containers knows no better.
        let _ = legacy.served.set(SystemTime::now());
        let mut events = legacy.listen(Some(KEY.to_owned()))?;
        let ended = published(&mut events).await?;
        legacy.look_through(&ended).await?;
        let closing = CancellationToken::new();
        let worker = Worker { legacy, closing: closing.clone(), jobs: JoinSet::new() };
        Ok(Self { closing, worker: tokio::spawn(worker.run(Some(events))) })
    }

    /// Ends it, when what it is at is done.
    pub async fn shutdown(self) {
        self.closing.cancel();
        if let Err(panic) = self.worker.await {
            error!(error = %panic, "the keeper of legacy containers ended in a panic");
        }
    }
}

/// How tasks have ended, by the events that are there already.
async fn published(events: &mut Subscription) -> Result<HashMap<Id, Ending>> {
    let mut ended = HashMap::new();
    while let Some(next) = events.next().now_or_never() {
        let Some(envelope) = next? else { break };
        if let Some((id, Happening::Ended(ending))) = events::happening(&envelope) {
            ended.insert(id, ending);
        }
    }
    Ok(ended)
}

impl Legacy {
    /// Puts all our containers in order: those that run stay as they are,
    /// those that ended unseen are marked, the others are taken away.
    async fn look_through(self: &Arc<Self>, ended: &HashMap<Id, Ending>) -> Result<()> {
        let mut looks = JoinSet::new();
        for container in self.containers.list::<&str>(&self.config.namespace, &[]).await? {
            let record = match record::Record::read(&container) {
                Ok(record) if record.is_ours() => record,
                Ok(_) => continue,
                Err(error) => {
                    warn!(id = %container.id, error = %error.report(), "record makes no sense");
                    continue;
                }
            };
            let (this, published) = (self.clone(), ended.get(&record.id).copied());
            looks.spawn(async move {
                if let Err(error) = this.look(&record, published).await {
                    warn!(id = %record.id, error = %error.report(), "container is left as it is");
                }
            });
        }
        looks.join_all().await;
        Ok(())
    }

    async fn look(&self, record: &record::Record, published: Option<Ending>) -> Result<()> {
        let id = &record.id;
        let _held = self.locks.hold(id).await;
        let ending = match self.tasks.get(&self.target(id, None)).await {
            Ok(process) => match (process.status, process.exit) {
                (TaskStatus::Stopped, Some(exit)) => {
                    Ending { pid: process.pid, status: exit.status, at: exit.at }
                }
                // The daemon before was about to start it.
                (TaskStatus::Created, _) => return self.undo_start(id).await,
                _ => return self.look_at_processes(record).await,
            },
            Err(e) if e.is_not_found() => match record.exit.or(published) {
                Some(ending) => ending,
                // It never ran, or the machine was started anew meanwhile.
                None => return self.remove(id).await,
            },
            Err(e) => return Err(e),
        };
        if record.exit == Some(ending) {
            return Ok(());
        }
        if self.is_unseen(ending) {
            return or_gone(self.extend(id, record::exit(ending)?).await);
        }
        self.remove(id).await
    }

    /// Forgets processes that were recorded and never made.
    async fn look_at_processes(&self, record: &record::Record) -> Result<()> {
        for exec in record.processes.keys() {
            let target = self.target(&record.id, Some(exec.clone()));
            match self.tasks.get(&target).await {
                Ok(process) if process.status == TaskStatus::Created => {
                    or_gone(self.tasks.delete_process(&target).await)?;
                    self.forget_process(&target).await?;
                }
                Ok(_) => {}
                Err(e) if e.is_not_found() => self.forget_process(&target).await?,
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    async fn undo_start(&self, id: &Id) -> Result<()> {
        let target = self.target(id, None);
        or_gone(self.tasks.kill(&target, nix::libc::SIGKILL.unsigned_abs(), true).await)?;
        or_gone(self.tasks.wait(&target).await)?;
        self.remove(id).await
    }

    /// Init has ended.
    async fn ended(&self, id: &Id, ending: Ending) -> Result<()> {
        let _held = self.locks.hold(id).await;
        let record = match self.record(id).await {
            Err(e) if e.is_not_found() => return Ok(()),
            record => record?,
        };
        if !record.is_ours() {
            return Ok(());
        }
        if self.is_unseen(ending) {
            return or_gone(self.extend(id, record::exit(ending)?).await);
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

    /// An added process has ended.
    async fn exec_ended(&self, id: &Id, exec: Id, ending: Ending) -> Result<()> {
        let record = match self.record(id).await {
            Err(e) if e.is_not_found() => return Ok(()),
            record => record?,
        };
        if !record.processes.contains_key(&exec) || self.is_unseen(ending) {
            return Ok(());
        }
        let target = self.target(id, Some(exec));
        or_gone(self.tasks.delete_process(&target).await)?;
        self.forget_process(&target).await
    }
}

struct Worker {
    legacy: Arc<Legacy>,
    closing: CancellationToken,
    jobs: JoinSet<()>,
}

impl Worker {
    async fn run(mut self, mut events: Option<Subscription>) {
        loop {
            let next = async {
                match &mut events {
                    Some(events) => events.next().await.map(Some),
                    None => Ok(None),
                }
            };
            tokio::select! {
                () = self.closing.cancelled() => break,
                Some(done) = self.jobs.join_next(), if !self.jobs.is_empty() => self.check(done),
                next = next, if self.jobs.len() < PARALLEL => match next {
                    Ok(Some(Some(envelope))) => {
                        if let Some((id, happening)) = events::happening(&envelope) {
                            self.react(id, happening);
                        }
                    }
                    // The daemon stops.
                    Ok(Some(None)) => break,
                    Ok(None) => events = self.listen_again().await,
                    Err(error) => {
                        warn!(error = %error.report(), "events of legacy containers were missed");
                        events = None;
                    }
                },
            }
        }
        while let Some(done) = self.jobs.join_next().await {
            self.check(done);
        }
    }

    /// What was missed is seen by looking.
    async fn listen_again(&self) -> Option<Subscription> {
        let listened = async {
            let events = self.legacy.listen(None)?;
            self.legacy.look_through(&HashMap::new()).await?;
            Ok::<_, shim_protocol::Error>(events)
        };
        match listened.await {
            Ok(events) => Some(events),
            Err(error) => {
                error!(error = %error.report(), "legacy containers cannot be looked after");
                sleep(RETRY).await;
                None
            }
        }
    }

    fn react(&mut self, id: Id, happening: Happening) {
        let legacy = self.legacy.clone();
        let ending = match happening {
            Happening::Ended(ending) => (None, ending),
            Happening::ExecEnded { exec, ending } => (Some(exec), ending),
            _ => return,
        };
        self.jobs.spawn(async move {
            let done = match ending {
                (None, ending) => legacy.ended(&id, ending).await,
                (Some(exec), ending) => legacy.exec_ended(&id, exec, ending).await,
            };
            if let Err(error) = done {
                warn!(%id, error = %error.report(), "what has ended is left behind");
            }
        });
    }

    fn check(&self, done: Result<(), tokio::task::JoinError>) {
        if let Err(panic) = done {
            error!(error = %panic, "looking after a legacy container ended in a panic");
        }
    }
}
