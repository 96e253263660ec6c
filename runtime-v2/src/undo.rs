//! What has to be undone when a sequence of steps fails in the middle.

use std::{future::Future, pin::Pin, time::Duration};

use shim_protocol::{Error, Result};
use tokio_util::task::TaskTracker;
use tracing::warn;

type Step = Pin<Box<dyn Future<Output = Result<()>> + Send>>;

/// The undo steps of what was done so far. They run backwards, each with a
/// deadline of its own, and one that fails does not keep the others from
/// running. A step must treat "already gone" as success.
///
/// The normal ways out are [`Undo::settle`] by the outcome, or [`Undo::commit`]
/// and [`Undo::roll_back`]. If it is dropped instead, the steps run on the tracker it was made with.
pub struct Undo {
    steps: Vec<(&'static str, Step)>,
    tasks: TaskTracker,
    limit: Duration,
}

impl Undo {
    /// Nothing to undo yet; `limit` is the deadline of each step.
    pub fn new(tasks: &TaskTracker, limit: Duration) -> Self {
        Self { steps: Vec::new(), tasks: tasks.clone(), limit }
    }

    /// Remembers how to undo the step called `name`.
    pub fn push(
        &mut self,
        name: &'static str,
        step: impl Future<Output = Result<()>> + Send + 'static,
    ) {
        self.steps.push((name, Box::pin(step)));
    }

    /// All went well: nothing is undone.
    pub fn commit(mut self) {
        self.steps.clear();
    }

    /// Undoes everything, and hands back what made it necessary. What goes
    /// wrong on the way is logged: it must not hide the cause.
    pub async fn roll_back(mut self, cause: Error) -> Error {
        run(std::mem::take(&mut self.steps), self.limit).await;
        cause
    }

    /// Commits or rolls back, as the sequence came out.
    ///
    /// # Errors
    /// What made it necessary to undo everything.
    pub async fn settle<T>(self, outcome: Result<T>) -> Result<T> {
        match outcome {
            Ok(made) => {
                self.commit();
                Ok(made)
            }
            Err(cause) => Err(self.roll_back(cause).await),
        }
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        if !self.steps.is_empty() {
            self.tasks.spawn(run(std::mem::take(&mut self.steps), self.limit));
        }
    }
}

async fn run(steps: Vec<(&'static str, Step)>, limit: Duration) {
    for (name, step) in steps.into_iter().rev() {
        match tokio::time::timeout(limit, step).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(step = name, error = %error.report(), "undo failed"),
            Err(_) => warn!(step = name, ?limit, "undo took too long"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// Which steps ran, in order.
    #[derive(Clone, Default)]
    struct Record(Arc<Mutex<Vec<u32>>>);

    impl Record {
        fn step(&self, number: u32, result: Result<()>) -> Step {
            let record = self.clone();
            Box::pin(async move {
                record.0.lock().unwrap().push(number);
                result
            })
        }

        fn is(&self, expected: &[u32]) -> bool {
            *self.0.lock().unwrap() == expected
        }
    }

    fn undo(tasks: &TaskTracker) -> Undo {
        Undo::new(tasks, Duration::from_millis(20))
    }

    #[tokio::test]
    async fn runs_backwards_past_failing_and_hanging_steps() {
        let record = Record::default();
        let mut undo = undo(&TaskTracker::new());
        undo.push("one", record.step(1, Ok(())));
        undo.push("hangs", std::future::pending());
        undo.push("two", record.step(2, Err(Error::internal("no"))));
        undo.push("three", record.step(3, Ok(())));
        let cause = undo.roll_back(Error::not_found("cause")).await;
        assert!(cause.is_not_found());
        assert!(record.is(&[3, 2, 1]));
    }

    #[tokio::test]
    async fn commit_undoes_nothing() {
        let record = Record::default();
        let tasks = TaskTracker::new();
        let mut undo = undo(&tasks);
        undo.push("one", record.step(1, Ok(())));
        undo.commit();
        tasks.close();
        tasks.wait().await;
        assert!(record.is(&[]));
    }

    #[tokio::test]
    async fn a_dropped_one_runs_on_its_tracker() {
        let record = Record::default();
        let tasks = TaskTracker::new();
        let mut undo = undo(&tasks);
        undo.push("one", record.step(1, Ok(())));
        drop(undo);
        tasks.close();
        tasks.wait().await;
        assert!(record.is(&[1]));
    }
}
