//! Asking tasks what they are up to, all of a namespace at once.
//!
//! Every shim is asked at the same time and each has its own deadline, so one
//! that hangs costs its own answer and delays nobody.

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, SystemTime},
};

use runtime_v2::{Process, Status, Stdio, Task};
use shim_protocol::{Context, Error, ErrorKind, Id, Result};
use tokio::{task::JoinSet, time::timeout};
use tracing::warn;

use super::{Metric, Target, Tasks, request::TaskFields};
use crate::filter::Filter;

impl Tasks {
    /// The init processes of all tasks of a namespace, by id. One whose shim
    /// does not answer is listed with [`Status::Unknown`].
    pub async fn list(&self, namespace: &Id) -> Vec<Process> {
        let tasks = self.manager.list(namespace);
        let states = self.ask_all(tasks, |task| async move { task.state(None).await }).await;
        let mut processes = Vec::with_capacity(states.len());
        for (task, state) in states {
            match state {
                Ok(process) => processes.push(process),
                // It was deleted after the list was made.
                Err(e) if e.is_not_found() => {}
                Err(e) => {
                    warn!(namespace = %namespace, id = %task.id(), error = %e.report(), "state unknown");
                    processes.push(unknown(&task));
                }
            }
        }
        processes.sort_by(|a, b| a.container_id.cmp(&b.container_id));
        processes
    }

    /// What the tasks of a namespace use, for those that any of `filters`
    /// matches; fields are `id` and `namespace`. One whose shim does not
    /// answer is left out.
    ///
    /// # Errors
    /// `InvalidArgument` for a malformed filter.
    pub async fn metrics(&self, namespace: &Id, filters: &[String]) -> Result<Vec<Metric>> {
        let filter = Filter::parse(filters)?;
        let mut tasks = self.manager.list(namespace);
        tasks.retain(|task| filter.matches(&TaskFields(task)));
        let ask = |task: Arc<Task>| async move { Ok((SystemTime::now(), task.stats().await?)) };
        let mut metrics = Vec::with_capacity(tasks.len());
        for (task, stats) in self.ask_all(tasks, ask).await {
            match stats {
                Ok((at, data)) => metrics.push(Metric { container: task.id().clone(), at, data }),
                Err(e) if e.is_not_found() => {}
                Err(e) => {
                    warn!(namespace = %namespace, id = %task.id(), error = %e.report(), "no metrics");
                }
            }
        }
        metrics.sort_by(|a, b| a.container.cmp(&b.container));
        Ok(metrics)
    }

    /// What one task uses.
    ///
    /// # Errors
    /// `NotFound`; `DeadlineExceeded` when its shim does not answer; what it says.
    pub async fn stats(&self, target: &Target) -> Result<Metric> {
        let task = self.of(target)?;
        let at = SystemTime::now();
        let data = by_deadline(self.config.state_timeout, task.stats()).await;
        let data = data.context("ask for figures of", target)?;
        Ok(Metric { container: task.id().clone(), at, data })
    }

    async fn ask_all<T, F>(
        &self,
        tasks: Vec<Arc<Task>>,
        ask: impl Fn(Arc<Task>) -> F,
    ) -> Vec<(Arc<Task>, Result<T>)>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let limit = self.config.state_timeout;
        let mut asked = JoinSet::new();
        for task in tasks {
            let answer = ask(task.clone());
            asked.spawn(async move { (task, by_deadline(limit, answer).await) });
        }
        asked.join_all().await
    }
}

async fn by_deadline<T>(limit: Duration, answer: impl Future<Output = Result<T>>) -> Result<T> {
    timeout(limit, answer).await.unwrap_or_else(|_| {
        let text = format!("no answer from the shim in {limit:?}");
        Err(Error::new(ErrorKind::DeadlineExceeded, text))
    })
}

/// What is known of a task without its shim.
fn unknown(task: &Task) -> Process {
    Process {
        container_id: task.id().clone(),
        exec_id: None,
        pid: task.pid(),
        status: Status::Unknown,
        stdio: Stdio::default(),
        exit: None,
        bundle: task.bundle().to_owned(),
    }
}
