//! Looks after containers: at boot, at each end, and again where that failed.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use futures::FutureExt;
use shim_protocol::{Error, Id, Result};
use tokio::{
    task::{JoinHandle, JoinSet},
    time::{Instant, MissedTickBehavior, interval, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::Legacy;
use crate::events::{self, By, Happening, Subscription, Timestamp};

/// Containers that are looked at at the same time.
const PARALLEL: usize = 8;

/// Ends that are dealt with at the same time. What takes time is to wait for
/// somebody who does not read.
const ENDS: usize = 256;

/// How long to wait before events are listened to again, if that failed.
const RETRY: Duration = Duration::from_secs(1);

/// How often containers are looked at again that could not be put in order.
const AGAIN: Duration = Duration::from_secs(10);

/// How long clients wait for the first look. Shims that hang are waited for
/// while they are served.
const FIRST_LOOK: Duration = Duration::from_secs(1);

/// How long jobs may go on when the keeper shuts down.
const LAST_JOBS: Duration = Duration::from_secs(5);

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
            looks: JoinSet::new(),
            ends: JoinSet::new(),
            queue: VecDeque::new(),
            events: None,
            all: Some(Instant::now()),
        };
        if timeout(FIRST_LOOK, worker.first_look()).await.is_err() {
            let left = worker.queue.len() + worker.looks.len();
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
    /// was published before has happened unseen, and is known when this returns.
    pub fn serve(mut self) -> Keeper {
        self.0.look_at_published();
        self.0.legacy.unseen.serve();
        let closing = self.0.closing.clone();
        Keeper { closing, worker: tokio::spawn(self.0.run()) }
    }
}

struct Worker {
    legacy: Arc<Legacy>,
    closing: CancellationToken,
    looks: JoinSet<()>,
    ends: JoinSet<()>,
    /// To be looked at as soon as there is room.
    queue: VecDeque<Id>,
    events: Option<Subscription>,
    /// All containers are to be looked at, from then on.
    all: Option<Instant>,
}

impl Worker {
    async fn first_look(&mut self) {
        self.look_at_all().await;
        loop {
            self.fill();
            let Some(done) = self.looks.join_next().await else { break };
            check(done);
        }
    }

    async fn run(mut self) {
        let mut ticks = interval(AGAIN);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let closing = self.closing.clone();
        loop {
            self.fill();
            let has_room = self.ends.len() < ENDS;
            let due = self.all;
            tokio::select! {
                () = closing.cancelled() => break,
                Some(done) = self.looks.join_next() => check(done),
                Some(done) = self.ends.join_next() => check(done),
                _ = ticks.tick() => self.queue.extend(self.legacy.take_again()),
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    if closing.run_until_cancelled(self.look_at_all()).await.is_none() {
                        break;
                    }
                }
                next = next(&mut self.events), if has_room => match next {
                    Ok(Some(envelope)) => {
                        if let Some((id, happening)) = events::happening(&envelope) {
                            self.react(id, envelope.timestamp, happening);
                        }
                    }
                    // The daemon stops.
                    Ok(None) => break,
                    Err(error) => self.missed(&error),
                },
            }
        }
        let ended = async {
            for jobs in [&mut self.looks, &mut self.ends] {
                while let Some(done) = jobs.join_next().await {
                    check(done);
                }
            }
        };
        if timeout(LAST_JOBS, ended).await.is_err() {
            let left = self.looks.len() + self.ends.len();
            warn!(left, "legacy containers are left to the next daemon");
            self.looks.shutdown().await;
            self.ends.shutdown().await;
        }
    }

    /// What was missed is seen by looking.
    fn missed(&mut self, error: &Error) {
        warn!(error = %error.report(), "events of legacy containers were missed");
        self.events = None;
        self.all = Some(Instant::now());
    }

    /// Puts all containers into the queue, or says when to try again.
    async fn look_at_all(&mut self) {
        match self.list().await {
            Ok(ids) => {
                self.queue.extend(ids);
                self.all = None;
            }
            Err(error) => {
                error!(error = %error.report(), "legacy containers cannot be looked after");
                self.all = Some(Instant::now() + RETRY);
            }
        }
    }

    /// All our containers. What happens to them after that is heard.
    async fn list(&mut self) -> Result<Vec<Id>> {
        if self.events.is_none() {
            let since_boot = !self.legacy.unseen.are_served();
            let events = self.legacy.listen(By::Daemon { since_boot })?;
            // What was missed before is looked for.
            self.legacy.ends.heard(events.position());
            self.events = Some(events);
            if since_boot {
                self.hear_published()?;
            }
        }
        self.legacy.ours().await
    }

    /// What was published before clients could hear it.
    fn look_at_published(&mut self) {
        match self.hear_published() {
            Ok(ids) => self.queue.extend(ids),
            Err(error) => self.missed(&error),
        }
    }

    /// Notes it; answers which containers are to be looked at.
    fn hear_published(&mut self) -> Result<Vec<Id>> {
        let mut ended = Vec::new();
        let Some(events) = &mut self.events else { return Ok(ended) };
        while let Some(next) = events.next().now_or_never() {
            let Some(envelope) = next? else { break };
            if let Some((id, happening)) = events::happening(&envelope)
                && self.legacy.unseen.hear(&id, happening)
            {
                ended.push(id);
            }
        }
        self.legacy.ends.heard(events.position());
        Ok(ended)
    }

    /// As many jobs as may be.
    fn fill(&mut self) {
        while self.looks.len() < PARALLEL
            && let Some(id) = self.queue.pop_front()
        {
            let legacy = self.legacy.clone();
            self.looks.spawn(async move {
                let done = legacy.look(&id).await;
                settle(&legacy, &id, done);
            });
        }
    }

    fn react(&mut self, id: Id, at: Timestamp, happening: Happening) {
        let (exec, ending) = match &happening {
            Happening::Ended(ending) => (None, *ending),
            Happening::ExecEnded { exec, ending } => (Some(exec.clone()), *ending),
            _ => return,
        };
        let legacy = self.legacy.clone();
        let under_way = legacy.ends.begin(&id, at, happening);
        self.ends.spawn(async move {
            let done = match &exec {
                Some(exec) => legacy.exec_ended(&id, exec).await,
                None => legacy.ended(&id, ending).await,
            };
            settle(&legacy, &id, done);
            // Its output has had its time, if not more.
            drop(under_way);
        });
    }
}

/// What failed is tried again.
fn settle(legacy: &Legacy, id: &Id, done: Result<()>) {
    if let Err(error) = done {
        warn!(%id, error = %error.report(), "container is looked at again later");
        legacy.look_again(id);
    }
}

fn check(done: Result<(), tokio::task::JoinError>) {
    if let Err(panic) = done {
        error!(error = %panic, "looking after a legacy container ended in a panic");
    }
}

async fn next(events: &mut Option<Subscription>) -> Result<Option<Arc<events::Envelope>>> {
    match events {
        Some(events) => events.next().await,
        None => std::future::pending().await,
    }
}
