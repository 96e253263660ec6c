//! The life of containers, and what daemons and shims cost.

use std::time::Instant;

use anyhow::Result;
use containerd_api::services::tasks::v1::ListTasksRequest;
use tests::{
    Bed, Process,
    figures::{megabytes, milliseconds},
    proc,
};
use tokio::task::JoinSet;

use super::figures::{Figures, ORIGINAL, OURS, Row, pid, row, table};

/// Rounds of one container at a time.
const SINGLE_ROUNDS: usize = 40;
/// Rounds of [`WIDTH`] containers at once.
const PARALLEL_ROUNDS: usize = 6;
const WIDTH: usize = 10;
/// Restarts with [`MANY`] live shims.
const RESTARTS: usize = 5;
const HALF: usize = 50;
const MANY: usize = 100;

const ROWS: [Row; 8] = [
    row(SHIM_PSS, "MB", 2),
    row(SHIM_PRIVATE, "MB", 2),
    row(DAEMON_IDLE, "MB", 1),
    row(DAEMON_MANY, "MB", 1),
    row(SINGLE, "ms", 0),
    row(PARALLEL, "per second", 0),
    row(RESTART_READY, "ms", 0),
    row(RESTART_LISTED, "ms", 0),
];
const SHIM_PSS: &str = "memory of one shim, 50 running: proportional (PSS)";
const SHIM_PRIVATE: &str = "memory of one shim, 50 running: private";
const DAEMON_IDLE: &str = "memory of the daemon (RSS): idle";
const DAEMON_MANY: &str = "memory of the daemon (RSS): with 100 containers";
const SINGLE: &str = "create + start + exit + delete, one at a time";
const PARALLEL: &str = "the same, 10 at once";
const RESTART_READY: &str = "restart with 100 live shims, until the daemon is ready";
const RESTART_LISTED: &str = "restart with 100 live shims, until all are listed";

pub(crate) async fn measure(beds: &mut [Bed; 2]) -> Result<String> {
    let mut figures: [Figures; 2] = Default::default();
    for (bed, figures) in beds.iter().zip(&mut figures) {
        figures.note(DAEMON_IDLE, megabytes(daemon_memory(bed)?));
    }
    for round in 0..SINGLE_ROUNDS {
        for (bed, figures) in beds.iter().zip(&mut figures) {
            let begin = Instant::now();
            bed.load().live(&format!("single-{round}")).await?;
            // The first one reads the programs from disk.
            if round > 0 {
                figures.note(SINGLE, milliseconds(begin.elapsed()));
            }
        }
    }
    for round in 0..PARALLEL_ROUNDS {
        for (bed, figures) in beds.iter().zip(&mut figures) {
            let begin = Instant::now();
            let mut lives = JoinSet::new();
            for number in 0..WIDTH {
                let load = bed.load();
                lives.spawn(async move { load.live(&format!("parallel-{round}-{number}")).await });
            }
            for result in lives.join_all().await {
                result?;
            }
            figures.note(PARALLEL, WIDTH as f64 / begin.elapsed().as_secs_f64());
        }
    }
    let mut all = [Vec::new(), Vec::new()];
    for ((bed, figures), tasks) in beds.iter().zip(&mut figures).zip(&mut all) {
        start_until(bed, tasks, HALF).await?;
        for pid in bed.sandbox.shims() {
            let memory = proc::memory(pid)?;
            figures.note(SHIM_PSS, megabytes(memory.proportional));
            figures.note(SHIM_PRIVATE, megabytes(memory.private));
        }
        start_until(bed, tasks, MANY).await?;
        figures.note(DAEMON_MANY, megabytes(daemon_memory(bed)?));
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
    Ok(table(&[(OURS, &figures[0]), (ORIGINAL, &figures[1])], &ROWS))
}

async fn start_until(bed: &Bed, tasks: &mut Vec<Process>, count: usize) -> Result<()> {
    while tasks.len() < count {
        tasks.push(bed.load().settle(&format!("stays-{}", tasks.len())).await?);
    }
    Ok(())
}

async fn restart(bed: &mut Bed, figures: &mut Figures) -> Result<()> {
    bed.daemon.kill().await?;
    let begin = Instant::now();
    bed.daemon.start(&bed.sandbox).await?;
    figures.note(RESTART_READY, milliseconds(begin.elapsed()));
    let answer = bed.api().tasks().list(ListTasksRequest::default()).await?.into_inner();
    anyhow::ensure!(answer.tasks.len() == MANY, "{} tasks are listed", answer.tasks.len());
    figures.note(RESTART_LISTED, milliseconds(begin.elapsed()));
    Ok(())
}

fn daemon_memory(bed: &Bed) -> Result<u64> {
    Ok(proc::memory(pid(bed)?)?.resident)
}
