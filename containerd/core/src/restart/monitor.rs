//! Looks after all containers with restart labels: at boot, at each exit, and
//! at intervals in case something was missed.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use shim_protocol::{Id, Result};
use tokio::{
    sync::Semaphore,
    task::{JoinHandle, JoinSet},
    time::{MissedTickBehavior, interval, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{
    STATUS_LABEL,
    backoff::Backoff,
    policy::{Action, Seen, decide},
    start,
};
use crate::{
    containers::{Container, Containers},
    events::{self, By, Exchange, Subscribe, Subscription},
    namespaces::Namespaces,
    tasks::{Target, Tasks},
};

/// Starts at the same time. Each is work for a processor.
const PARALLEL: usize = 8;

/// How long jobs may go on when the monitor shuts down.
const LAST_JOBS: Duration = Duration::from_secs(5);

/// What a [`Monitor`] needs to know.
#[derive(Clone, Copy, Debug)]
pub struct MonitorConfig {
    /// How often all containers are looked at.
    pub interval: Duration,
}

/// The running monitor.
#[derive(Debug)]
pub struct Monitor {
    closing: CancellationToken,
    worker: JoinHandle<()>,
}

impl Monitor {
    /// Starts to look after the containers. To be called when the tasks of an
    /// earlier daemon are known again.
    pub fn start(
        config: MonitorConfig,
        namespaces: Namespaces,
        containers: Containers,
        tasks: Arc<Tasks>,
        events: Arc<Exchange>,
    ) -> Self {
        let closing = CancellationToken::new();
        let permits = Arc::new(Semaphore::new(PARALLEL));
        let surroundings = Surroundings {
            interval: config.interval,
            containers,
            tasks,
            permits,
            closing: closing.clone(),
        };
        let worker = Worker {
            surroundings: Arc::new(surroundings),
            namespaces,
            events,
            jobs: JoinSet::new(),
            busy: HashMap::new(),
            backoffs: HashMap::new(),
        };
        Self { closing, worker: tokio::spawn(worker.run()) }
    }

    /// Stops looking, and waits for a start or stop that is under way, unless
    /// that takes too long.
    pub async fn shutdown(self) {
        self.closing.cancel();
        if let Err(panic) = self.worker.await {
            error!(error = %panic, "the restart monitor ended in a panic");
        }
    }
}

/// What one job needs.
struct Surroundings {
    interval: Duration,
    containers: Containers,
    tasks: Arc<Tasks>,
    permits: Arc<Semaphore>,
    closing: CancellationToken,
}

/// A container: namespace and id.
type Key = (Id, Id);

/// What a job leaves.
struct Done {
    key: Key,
    /// `None`: the container is gone, or not ours.
    backoff: Option<Backoff>,
}

struct Worker {
    surroundings: Arc<Surroundings>,
    namespaces: Namespaces,
    events: Arc<Exchange>,
    jobs: JoinSet<Done>,
    /// Containers that have a job; and the exit that came meanwhile, for which
    /// they have to be looked at again.
    busy: HashMap<Key, Option<u32>>,
    backoffs: HashMap<Key, Backoff>,
}

impl Worker {
    async fn run(mut self) {
        let mut ticks = interval(self.surroundings.interval.max(Duration::from_millis(1)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut exits = self.subscribe();
        let closing = self.surroundings.closing.clone();
        loop {
            tokio::select! {
                () = closing.cancelled() => break,
                _ = ticks.tick() => self.look_at_all().await,
                Some(done) = self.jobs.join_next() => match done {
                    Ok(done) => self.finish(done),
                    Err(panic) => error!(error = %panic, "a restart ended in a panic"),
                },
                exit = next(&mut exits) => match exit {
                    Ok(Some((key, status))) => self.look(key, Some(status)),
                    Ok(None) => exits = None,
                    Err(error) => {
                        // The next tick sees what was missed.
                        warn!(error = %error.report(), "exits were missed");
                        exits = self.subscribe();
                        ticks.reset_immediately();
                    }
                },
            }
        }
        let ended = async {
            while let Some(done) = self.jobs.join_next().await {
                if let Err(panic) = done {
                    error!(error = %panic, "a restart ended in a panic");
                }
            }
        };
        // A shim that hangs must not hold up the end of the daemon. What was
        // begun is looked at again at the next boot.
        if timeout(LAST_JOBS, ended).await.is_err() {
            warn!(left = self.jobs.len(), "restarts are left unfinished");
            self.jobs.shutdown().await;
        }
    }

    fn subscribe(&self) -> Option<Subscription> {
        let filters = vec![r#"topic=="/tasks/exit""#.to_owned()];
        let subscribed = self.events.subscribe(Subscribe {
            filters,
            by: By::Daemon { since_boot: false },
            ..Default::default()
        });
        subscribed.inspect_err(|e| error!(error = %e.report(), "exits cannot be listened to")).ok()
    }

    async fn look_at_all(&mut self) {
        let found = match self.labelled().await {
            Ok(found) => found,
            Err(error) => {
                error!(error = %error.report(), "containers to restart cannot be listed");
                return;
            }
        };
        for key in found {
            if !self.busy.contains_key(&key) {
                self.look(key, None);
            }
        }
    }

    async fn labelled(&self) -> Result<Vec<Key>> {
        let filter = [format!("labels.{STATUS_LABEL:?}")];
        let mut found = Vec::new();
        for namespace in self.namespaces.list::<&str>(&[]).await? {
            let listed = self.surroundings.containers.list(&namespace.name, &filter).await?;
            found.extend(listed.into_iter().map(|c| (namespace.name.clone(), c.id)));
        }
        Ok(found)
    }

    fn look(&mut self, key: Key, exit: Option<u32>) {
        if let Some(again) = self.busy.get_mut(&key) {
            *again = exit.or(*again);
            return;
        }
        self.busy.insert(key.clone(), None);
        let backoff = self.backoffs.get(&key).copied().unwrap_or_default();
        let surroundings = self.surroundings.clone();
        self.jobs.spawn(async move { surroundings.job(key, backoff, exit).await });
    }

    fn finish(&mut self, done: Done) {
        match done.backoff {
            Some(backoff) => drop(self.backoffs.insert(done.key.clone(), backoff)),
            None => drop(self.backoffs.remove(&done.key)),
        }
        if let Some(exit @ Some(_)) = self.busy.remove(&done.key) {
            self.look(done.key, exit);
        }
    }
}

impl Surroundings {
    /// Does what the labels ask for, as often as it takes.
    async fn job(&self, key: Key, mut backoff: Backoff, exit: Option<u32>) -> Done {
        loop {
            let Some((container, action)) = self.decide(&key, exit).await else {
                return Done { key, backoff: None };
            };
            if action == Action::Nothing {
                return Done { key, backoff: Some(backoff) };
            }
            let start = matches!(action, Action::Start { .. });
            let due = if start { backoff.due(Instant::now()) } else { Instant::now() };
            if due > Instant::now() {
                tokio::select! {
                    () = self.closing.cancelled() => return Done { key, backoff: Some(backoff) },
                    // A person may have changed the labels meanwhile.
                    () = sleep_until(due.into()) => continue,
                }
            }
            let _permit = tokio::select! {
                () = self.closing.cancelled() => return Done { key, backoff: Some(backoff) },
                permit = self.permits.acquire() => permit,
            };
            if start {
                backoff.started(Instant::now());
            }
            let Err(error) = self.act(&key, container, action).await else {
                return Done { key, backoff: Some(backoff) };
            };
            error!(namespace = %key.0, id = %key.1, ?action, error = %error.report(), "failed");
            // A stop that failed is tried again at the next look.
            if !start {
                return Done { key, backoff: Some(backoff) };
            }
        }
    }

    /// `None` when there is nothing to look after.
    async fn decide(&self, key: &Key, exit: Option<u32>) -> Option<(Container, Action)> {
        let (namespace, id) = key;
        let container = match self.containers.get(namespace, id).await {
            Ok(container) => container,
            Err(e) if e.is_not_found() => return None,
            Err(error) => {
                error!(%namespace, %id, error = %error.report(), "container cannot be read");
                return None;
            }
        };
        if !container.labels.contains_key(STATUS_LABEL) {
            return None;
        }
        let target = Target { namespace: namespace.clone(), container: id.clone(), exec: None };
        let (status, ended) = match self.tasks.get(&target).await {
            Ok(process) => (Some(process.status), process.exit.map(|exit| exit.status)),
            Err(e) if e.is_not_found() => (None, None),
            Err(error) => {
                warn!(%namespace, %id, error = %error.report(), "state of task is not known");
                return Some((container, Action::Nothing));
            }
        };
        let age = SystemTime::now().duration_since(container.created_at).unwrap_or_default();
        let seen = Seen {
            status,
            exit_status: ended.or(exit).unwrap_or_default(),
            young: exit.is_none() && age < self.interval,
        };
        match decide(&container.labels, seen) {
            Ok(action) => Some((container, action)),
            Err(error) => {
                warn!(%namespace, %id, error = %error.report(), "restart labels make no sense");
                Some((container, Action::Nothing))
            }
        }
    }

    async fn act(&self, key: &Key, container: Container, action: Action) -> Result<()> {
        let (namespace, id) = key;
        match action {
            Action::Nothing => Ok(()),
            Action::Start { count } => {
                info!(%namespace, %id, count, "start again");
                start::start(&self.containers, &self.tasks, namespace, container, count).await
            }
            Action::Stop => {
                info!(%namespace, %id, "stop");
                let target =
                    Target { namespace: namespace.clone(), container: id.clone(), exec: None };
                start::end(&self.tasks, &target).await
            }
        }
    }
}

/// The next exit of an init process.
async fn next(exits: &mut Option<Subscription>) -> Result<Option<(Key, u32)>> {
    let Some(exits) = exits else { return std::future::pending().await };
    loop {
        let Some(envelope) = exits.next().await? else { return Ok(None) };
        if let Some((container, status)) = events::init_exit(&envelope) {
            return Ok(Some(((envelope.namespace.clone(), container), status)));
        }
    }
}
