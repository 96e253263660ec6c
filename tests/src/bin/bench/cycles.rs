//! Whole lives of containers, and the machinery to do things side by side.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use ::tests::figures::milliseconds;
use anyhow::{Result, ensure};
use tokio::task::JoinSet;

use crate::{
    Bench, Section, contenders,
    report::{Figure, PER_SECOND},
    targets::{Stop, Target},
};

/// Cycles at each concurrency, in all rounds together.
const CYCLES: usize = 500;

/// What one contender did in one turn.
pub(crate) struct Turn<T> {
    /// What came of each piece of work.
    pub(crate) results: Vec<T>,
    /// How long each took.
    pub(crate) times: Vec<f64>,
    /// How long all of them took.
    pub(crate) took: Duration,
}

impl<T> Turn<T> {
    /// How many were done in a second.
    pub(crate) fn rate(&self) -> f64 {
        self.times.len() as f64 / self.took.as_secs_f64()
    }
}

/// Does `work` for each number from `first` on, at most `concurrency` at a time:
/// whoever is done with one takes the next. When one fails, or when `stop` says
/// so, no more are begun; those under way are ended in good order, because not
/// every daemon cleans up after a client that hangs up.
///
/// # Errors
/// The first one of `work`; it was stopped.
pub(crate) async fn side_by_side<T, W, F>(
    stop: &Stop,
    concurrency: usize,
    first: usize,
    count: usize,
    work: W,
) -> Result<Turn<T>>
where
    T: Send + 'static,
    W: Fn(usize) -> F + Clone + Send + 'static,
    F: Future<Output = Result<T>> + Send,
{
    let (stop, failed) = (stop.clone(), Stop::default());
    let next = Arc::new(AtomicUsize::new(0));
    let begin = Instant::now();
    let mut workers = JoinSet::new();
    for _ in 0..concurrency.min(count) {
        let (next, work) = (next.clone(), work.clone());
        let (stop, failed) = (stop.clone(), failed.clone());
        workers.spawn(async move {
            let mut done = Vec::new();
            while !stop.is_set() && !failed.is_set() {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    break;
                }
                let begin = Instant::now();
                let result = work(first + number).await;
                let time = milliseconds(begin.elapsed());
                done.push((result.inspect_err(|_| failed.set())?, time));
            }
            anyhow::Ok(done)
        });
    }
    let mut all = Vec::with_capacity(count);
    let mut error = None;
    while let Some(done) = workers.join_next().await {
        match done? {
            Ok(done) => all.extend(done),
            Err(first) => error = error.or(Some(first)),
        }
    }
    let took = begin.elapsed();
    if let Some(error) = error {
        return Err(error);
    }
    ensure!(all.len() == count, "stopped after {} of {count}", all.len());
    let (results, times) = all.into_iter().unzip();
    Ok(Turn { results, times, took })
}

/// The lifecycle at each of `concurrencies`.
///
/// # Errors
/// A daemon refuses, or leaves something behind.
pub(crate) async fn measure(
    bench: &mut Bench,
    section: Section,
    concurrencies: &[usize],
) -> Result<()> {
    let contenders = contenders(bench, section);
    let rounds = bench.rounds(bench.count(CYCLES));
    for concurrency in concurrencies {
        let turn = rounds.iter().max().copied().unwrap_or(0);
        if turn < *concurrency {
            let note = format!("no more than {turn} of {concurrency} at once: a turn has no more");
            bench.report.note(note);
        }
    }
    let Bench { report, field, .. } = bench;
    field
        .with(&contenders, async |targets| {
            for target in &*targets {
                report.met(target).await?;
                // The first one reads the programs from disk.
                target.load().live("warm-up").await?;
            }
            for concurrency in concurrencies {
                let mut first = 0;
                for count in &rounds {
                    for target in &*targets {
                        let turn = lives(target, *concurrency, first, *count).await?;
                        let figure = Figure::of(section, target.contender.name, "cycle")
                            .concurrency(*concurrency);
                        report.add(figure.clone(), turn.times.clone());
                        report.add(figure.unit(PER_SECOND), [turn.rate()]);
                    }
                    first += count;
                }
            }
            Ok(())
        })
        .await
}

async fn lives(
    target: &Target,
    concurrency: usize,
    first: usize,
    count: usize,
) -> Result<Turn<()>> {
    target
        .side_by_side(concurrency, first, count, move |load, number| async move {
            load.live(&format!("cycle-{concurrency}-{number}")).await
        })
        .await
}

#[cfg(test)]
mod tests {
    use anyhow::bail;
    use tokio::sync::Barrier;

    use super::*;

    #[tokio::test]
    async fn each_number_is_done_once() {
        let never = Stop::default();
        let mut turn = side_by_side(&never, 3, 10, 7, async |n| Ok(n)).await.unwrap();
        turn.results.sort_unstable();
        assert_eq!(turn.results, (10..17).collect::<Vec<_>>());
        assert_eq!(turn.times.len(), 7);
    }

    #[tokio::test]
    async fn as_many_at_a_time_as_wanted() {
        let (never, barrier) = (Stop::default(), Arc::new(Barrier::new(4)));
        // Nobody gets past the barrier before four are there.
        let done = side_by_side(&never, 4, 0, 8, move |_| {
            let barrier = barrier.clone();
            async move { Ok(barrier.wait().await.is_leader()) }
        });
        let leaders = done.await.unwrap().results;
        assert_eq!(leaders.into_iter().filter(|leader| *leader).count(), 2);
    }

    #[tokio::test]
    async fn after_a_failure_only_what_is_under_way_is_ended() {
        let (ended, barrier) = (Arc::new(AtomicUsize::new(0)), Arc::new(Barrier::new(2)));
        let never = Stop::default();
        let counted = ended.clone();
        let done = side_by_side(&never, 2, 0, 100, move |number| {
            let (ended, barrier) = (counted.clone(), barrier.clone());
            async move {
                barrier.wait().await;
                if number == 0 {
                    bail!("the first one");
                }
                // The other one has failed when this goes on.
                tokio::task::yield_now().await;
                ended.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
        });
        assert_eq!(done.await.err().unwrap().to_string(), "the first one");
        assert_eq!(ended.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn nothing_is_begun_after_a_stop() {
        let stop = Stop::default();
        let told = stop.clone();
        let done = side_by_side(&stop, 1, 0, 10, move |number| {
            if number == 2 {
                told.set();
            }
            async { Ok(()) }
        });
        assert_eq!(done.await.err().unwrap().to_string(), "stopped after 3 of 10");
    }
}
