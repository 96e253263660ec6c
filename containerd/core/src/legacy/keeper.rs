//! Looks after containers: at boot, at each end, and again where that failed.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use futures::FutureExt;
use shim_protocol::{Error, Id, Result};
use tokio::{
    task::{JoinHandle, JoinSet},
    time::{Instant, MissedTickBehavior, interval, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::{
    Legacy,
    look::{Look, Source},
};
use crate::events::{self, Ending, Happening, Subscription};

/// Containers that are looked at at the same time.
const PARALLEL: usize = 8;

/// How long to wait before events are listened to again, if that failed.
const RETRY: Duration = Duration::from_secs(1);

/// How often containers are looked at again that could not be put in order.
const AGAIN: Duration = Duration::from_secs(10);

/// How long clients wait for the first look. Shims that hang are waited for
/// while they are served.
const FIRST_LOOK: Duration = Duration::from_secs(10);

/// How long jobs may go on when the keeper shuts down.
const LAST_JOBS: Duration = Duration::from_secs(5);

/// Name of our subscription: what was published since boot comes first.
const KEY: &str = "keeper of the legacy containers";

/// The running keeper.
#[derive(Debug)]
pub struct Keeper {
    closing: CancellationToken,
    worker: JoinHandle<()>,
}

/// A keeper before clients are served.
pub struct Prepared(Worker);

impl Keeper {
    /// Looks through what an earlier daemon has left. To be called when its
    /// tasks are known again. What cannot be done by a deadline, or fails, is
    /// done later.
    pub async fn prepare(legacy: Arc<Legacy>) -> Prepared {
        let mut worker = Worker {
            legacy,
            closing: CancellationToken::new(),
            jobs: JoinSet::new(),
            queue: VecDeque::new(),
            events: None,
            ended: HashMap::new(),
            all: Some((Source::Boot, Instant::now())),
        };
        if timeout(FIRST_LOOK, worker.first_look()).await.is_err() {
            let left = worker.queue.len() + worker.jobs.len();
            warn!(left, "legacy containers are looked at while clients are served");
        }
        Prepared(worker)
    }

    /// Ends it. What it is at is waited for, but not longer than a deadline:
    /// the next daemon looks again.
    pub async fn shutdown(self) {
        self.closing.cancel();
        if let Err(panic) = self.worker.await {
            error!(error = %panic, "the keeper of legacy containers ended in a panic");
        }
    }
}

impl Prepared {
    /// Goes on by itself. To be called when clients begin to be served: what
    /// was published before has happened unseen.
    pub fn serve(mut self) -> Keeper {
        self.0.look_at_published();
        let closing = self.0.closing.clone();
        Keeper { closing, worker: tokio::spawn(self.0.run()) }
    }
}

struct Worker {
    legacy: Arc<Legacy>,
    closing: CancellationToken,
    jobs: JoinSet<()>,
    /// To be looked at as soon as there is room.
    queue: VecDeque<Look>,
    events: Option<Subscription>,
    /// How containers ended by what was published since boot.
    ended: HashMap<Id, Ending>,
    /// All containers are to be looked at, from then on.
    all: Option<(Source, Instant)>,
}

impl Worker {
    async fn first_look(&mut self) {
        self.look_at_all().await;
        loop {
            self.fill();
            let Some(done) = self.jobs.join_next().await else { break };
            check(done);
        }
    }

    async fn run(mut self) {
        let mut ticks = interval(AGAIN);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let closing = self.closing.clone();
        loop {
            self.fill();
            let has_room = self.jobs.len() < PARALLEL;
            let due = self.all.map(|(_, due)| due);
            tokio::select! {
                () = closing.cancelled() => break,
                Some(done) = self.jobs.join_next() => check(done),
                _ = ticks.tick() => self.queue.extend(self.legacy.take_again()),
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    if closing.run_until_cancelled(self.look_at_all()).await.is_none() {
                        break;
                    }
                }
                next = next(&mut self.events), if has_room => match next {
                    Ok(Some(envelope)) => {
                        if let Some((id, happening)) = events::happening(&envelope) {
                            self.react(id, happening);
                        }
                    }
                    // The daemon stops.
                    Ok(None) => break,
                    Err(error) => self.missed(&error),
                },
            }
        }
        let ended = async {
            while let Some(done) = self.jobs.join_next().await {
                check(done);
            }
        };
        if timeout(LAST_JOBS, ended).await.is_err() {
            warn!(left = self.jobs.len(), "legacy containers are left to the next daemon");
            self.jobs.shutdown().await;
        }
    }

    /// What was missed is seen by looking.
    fn missed(&mut self, error: &Error) {
        warn!(error = %error.report(), "events of legacy containers were missed");
        self.events = None;
        let source = self.all.map_or(Source::Live, |(source, _)| source);
        self.all = Some((source, Instant::now()));
    }

    /// Puts all containers into the queue, or says when to try again.
    async fn look_at_all(&mut self) {
        let Some((source, _)) = self.all else { return };
        match self.list(source).await {
            Ok(ids) => {
                for id in ids {
                    let ending = self.ended.remove(&id);
                    self.queue.push_back(Look { id, source, ending });
                }
                self.ended.clear();
                self.all = None;
            }
            Err(error) => {
                error!(error = %error.report(), "legacy containers cannot be looked after");
                self.all = Some((source, Instant::now() + RETRY));
            }
        }
    }

    /// All our containers. What happens to them after that is heard.
    async fn list(&mut self, source: Source) -> Result<Vec<Id>> {
        if self.events.is_none() {
            let key = (source == Source::Boot).then(|| KEY.to_owned());
            let mut events = self.legacy.listen(key)?;
            if source == Source::Boot {
                for (id, happening) in published(&mut events)? {
                    if let Happening::Ended(ending) = happening {
                        self.ended.insert(id, ending);
                    }
                }
            }
            self.events = Some(events);
        }
        self.legacy.ours().await
    }

    /// What was published before clients could hear it.
    fn look_at_published(&mut self) {
        let Some(events) = &mut self.events else { return };
        match published(events) {
            Ok(published) => {
                for (id, happening) in published {
                    let ending = match happening {
                        Happening::Ended(ending) => Some(ending),
                        Happening::ExecEnded { .. } => None,
                        _ => continue,
                    };
                    self.queue.push_back(Look { id, source: Source::Boot, ending });
                }
            }
            Err(error) => self.missed(&error),
        }
    }

    /// As many jobs as may be.
    fn fill(&mut self) {
        while self.jobs.len() < PARALLEL
            && let Some(look) = self.queue.pop_front()
        {
            let legacy = self.legacy.clone();
            self.jobs.spawn(async move {
                let done = legacy.look(&look).await;
                settle(&legacy, look, done);
            });
        }
    }

    fn react(&mut self, id: Id, happening: Happening) {
        let legacy = self.legacy.clone();
        let (exec, ending) = match happening {
            Happening::Ended(ending) => (None, ending),
            Happening::ExecEnded { exec, ending } => (Some(exec), ending),
            _ => return,
        };
        self.jobs.spawn(async move {
            let (done, ending) = match exec {
                None => (legacy.ended(&id, ending).await, Some(ending)),
                Some(exec) => (legacy.exec_ended(&id, &exec).await, None),
            };
            settle(&legacy, Look { id, source: Source::Live, ending }, done);
        });
    }
}

/// What failed is tried again.
fn settle(legacy: &Legacy, look: Look, done: Result<()>) {
    if let Err(error) = done {
        warn!(id = %look.id, error = %error.report(), "container is looked at again later");
        legacy.look_again(look);
    }
}

fn check(done: Result<(), tokio::task::JoinError>) {
    if let Err(panic) = done {
        error!(error = %panic, "looking after a legacy container ended in a panic");
    }
}

/// Events that are there already.
fn published(events: &mut Subscription) -> Result<Vec<(Id, Happening)>> {
    let mut published = Vec::new();
    while let Some(next) = events.next().now_or_never() {
        let Some(envelope) = next? else { break };
        published.extend(events::happening(&envelope));
    }
    Ok(published)
}

async fn next(events: &mut Option<Subscription>) -> Result<Option<Arc<events::Envelope>>> {
    match events {
        Some(events) => events.next().await,
        None => std::future::pending().await,
    }
}
