//! Measures our daemon and shim beside Debian's, in one run, and prints the
//! table of the README. `hack/measure` builds what it needs.
//!
//! The two take turns in each measurement, so that whatever else the machine
//! does meets both. Figures are medians.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use containerd_api::services::tasks::v1::ListTasksRequest;
use tests::{Bed, Container, Pairing, Process, Stdio, proc};
use tokio::task::JoinSet;

/// Rounds of one container at a time.
const SINGLE_ROUNDS: usize = 40;
/// Rounds of [`WIDTH`] containers at once.
const PARALLEL_ROUNDS: usize = 6;
const WIDTH: usize = 10;
/// Restarts with [`MANY`] live shims.
const RESTARTS: usize = 5;
const HALF: usize = 50;
const MANY: usize = 100;

const CONTENDERS: [(&str, Pairing); 2] =
    [("this", Pairing::OURS), ("Debian's containerd 1.6", Pairing::ORIGINAL)];

/// All figures of one contender, by the name of their row.
type Figures = BTreeMap<&'static str, Vec<f64>>;

/// Name, unit and number of decimals of each row.
const ROWS: [(&str, &str, usize); 8] = [
    (SHIM_PSS, "MB", 2),
    (SHIM_PRIVATE, "MB", 2),
    (DAEMON_IDLE, "MB", 1),
    (DAEMON_MANY, "MB", 1),
    (SINGLE, "ms", 0),
    (PARALLEL, "per second", 0),
    (RESTART_READY, "ms", 0),
    (RESTART_LISTED, "ms", 0),
];
const SHIM_PSS: &str = "memory of one shim, 50 running: proportional (PSS)";
const SHIM_PRIVATE: &str = "memory of one shim, 50 running: private";
const DAEMON_IDLE: &str = "memory of the daemon (RSS): idle";
const DAEMON_MANY: &str = "memory of the daemon (RSS): with 100 containers";
const SINGLE: &str = "create + start + exit + delete, one at a time";
const PARALLEL: &str = "the same, 10 at once";
const RESTART_READY: &str = "restart with 100 live shims, until the daemon is ready";
const RESTART_LISTED: &str = "restart with 100 live shims, until all are listed";

#[tokio::main]
async fn main() -> Result<()> {
    let mut beds = Vec::new();
    let mut figures = [Figures::new(), Figures::new()];
    for (name, pairing) in CONTENDERS {
        beds.push(Bed::start(pairing).await.with_context(|| format!("start {name}"))?);
    }

    for (bed, figures) in beds.iter().zip(&mut figures) {
        note(figures, DAEMON_IDLE, megabytes(daemon_memory(bed)?));
    }
    for round in 0..SINGLE_ROUNDS {
        for (bed, figures) in beds.iter().zip(&mut figures) {
            let begin = Instant::now();
            live(bed, &format!("single-{round}")).await?;
            // The first one reads the programs from disk.
            if round > 0 {
                note(figures, SINGLE, milliseconds(begin.elapsed()));
            }
        }
    }
    for round in 0..PARALLEL_ROUNDS {
        for (bed, figures) in beds.iter().zip(&mut figures) {
            let begin = Instant::now();
            let mut lives = JoinSet::new();
            for number in 0..WIDTH {
                lives.spawn(prepared(bed, &format!("parallel-{round}-{number}")).await?);
            }
            for result in lives.join_all().await {
                result?;
            }
            note(figures, PARALLEL, WIDTH as f64 / begin.elapsed().as_secs_f64());
        }
    }
    let mut all = [Vec::new(), Vec::new()];
    for ((bed, figures), tasks) in beds.iter().zip(&mut figures).zip(&mut all) {
        start_until(bed, tasks, HALF).await?;
        for pid in bed.sandbox.shims() {
            let memory = proc::memory(pid)?;
            note(figures, SHIM_PSS, megabytes(memory.proportional));
            note(figures, SHIM_PRIVATE, megabytes(memory.private));
        }
        start_until(bed, tasks, MANY).await?;
        note(figures, DAEMON_MANY, megabytes(daemon_memory(bed)?));
    }
    for _ in 0..RESTARTS {
        for (bed, figures) in beds.iter_mut().zip(&mut figures) {
            restart(bed, figures).await?;
        }
    }
    for (bed, tasks) in beds.iter().zip(&all) {
        for task in tasks {
            bed.destroy(task).await?;
        }
    }
    print_table(&figures);
    Ok(())
}

/// One whole life of a container that does nothing.
async fn live(bed: &Bed, id: &str) -> Result<()> {
    prepared(bed, id).await?.await
}

/// The same as a future that stands for itself.
async fn prepared(bed: &Bed, id: &str) -> Result<impl Future<Output = Result<()>> + Send + use<>> {
    let spec = bed.spec(id, "").args(&["/bin/true"]);
    let container = Container::create(bed.api(), id, &spec, BTreeMap::new()).await?;
    Ok(async move {
        let mut task = container.task(false, Vec::new(), Stdio::null()).await?;
        task.start().await?;
        task.wait().await?;
        task.delete().await?;
        Ok(container.delete().await?)
    })
}

async fn start_until(bed: &Bed, tasks: &mut Vec<Process>, count: usize) -> Result<()> {
    while tasks.len() < count {
        let id = format!("stays-{}", tasks.len());
        let spec = bed.spec(&id, "").args(&["/bin/sleep", "100000"]);
        let container = bed.container(&id, &spec).await?;
        let mut task = container.task(false, Vec::new(), Stdio::null()).await?;
        task.start().await?;
        tasks.push(task);
    }
    Ok(())
}

async fn restart(bed: &mut Bed, figures: &mut Figures) -> Result<()> {
    bed.daemon.kill().await?;
    let begin = Instant::now();
    bed.daemon.start(&bed.sandbox).await?;
    note(figures, RESTART_READY, milliseconds(begin.elapsed()));
    let answer = bed.api().tasks().list(ListTasksRequest::default()).await?.into_inner();
    anyhow::ensure!(answer.tasks.len() == MANY, "{} tasks are listed", answer.tasks.len());
    note(figures, RESTART_LISTED, milliseconds(begin.elapsed()));
    Ok(())
}

fn print_table(figures: &[Figures; 2]) {
    println!("| | {} | {} |", CONTENDERS[0].0, CONTENDERS[1].0);
    println!("| --- | ---: | ---: |");
    for (row, unit, decimals) in ROWS {
        let [ours, theirs] = figures.each_ref().map(|figures| {
            let value = figures.get(row).map_or(f64::NAN, |all| median(all.clone()));
            format!("{value:.decimals$} {unit}")
        });
        println!("| {row} | {ours} | {theirs} |");
    }
}

fn note(figures: &mut Figures, row: &'static str, value: f64) {
    figures.entry(row).or_default().push(value);
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn daemon_memory(bed: &Bed) -> Result<u64> {
    Ok(proc::memory(bed.daemon.pid().context("daemon")?)?.resident)
}

/// Kilobytes as the kernel counts them in the megabytes of the table.
fn megabytes(kilobytes: u64) -> f64 {
    kilobytes as f64 / 1000.0
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
