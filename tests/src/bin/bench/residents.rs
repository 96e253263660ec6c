//! Many containers that stay: their start, what they cost, how a daemon finds
//! them again, and their end. The sections share the same containers.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use containerd_api::services::tasks::v1::ListTasksRequest;
use nix::sys::signal::Signal;
use tests::{
    DEADLINE, Load, Process, Status, Topic,
    figures::{megabytes, milliseconds},
    proc,
};

use crate::{
    Bench, Section, contenders,
    cycles::Turn,
    report::{Figure, MEGABYTES, PER_SECOND, Report},
    targets::Target,
};

/// How many containers stay.
const RESIDENTS: usize = 1000;
/// How many are started or removed at once.
const CONCURRENCY: usize = 10;
/// How long all exit events together may take.
const EXITS_DEADLINE: Duration = Duration::from_secs(300);
/// How often a list of tasks is asked for that was not complete.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// All sections that are about containers which stay.
///
/// # Errors
/// A daemon refuses, or leaves something behind.
pub(crate) async fn measure(bench: &mut Bench) -> Result<()> {
    let all = [Section::Start, Section::Memory, Section::Restart, Section::Exits];
    let wanted: Vec<_> = all.into_iter().filter(|section| bench.wants(*section)).collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let contenders = contenders(bench, Section::Start);
    let total = bench.count(RESIDENTS);
    let rounds = bench.rounds(total);
    let restarts = bench.options.rounds;
    let Bench { report, field, .. } = bench;
    field
        .with(&contenders, async |targets| {
            for target in &*targets {
                report.met(target).await?;
            }
            if wanted.contains(&Section::Memory) {
                for target in &*targets {
                    let figure = daemon_memory(target).await?;
                    report.add(figure.0.named("RSS of the daemon, idle"), [figure.1]);
                }
            }
            for target in &*targets {
                // The first one reads the programs from disk.
                target.load().live("warm-up").await?;
            }
            let mut all: Vec<_> = targets.iter().map(|_| Vec::new()).collect();
            for count in &rounds {
                for (target, tasks) in targets.iter().zip(&mut all) {
                    let turn = settle(target, tasks.len(), *count).await?;
                    if wanted.contains(&Section::Start) {
                        note_starts(report, target, &turn);
                    }
                    tasks.extend(turn.results);
                }
            }
            if wanted.contains(&Section::Memory) {
                for target in &*targets {
                    note_memory(report, target, total).await?;
                }
            }
            if wanted.contains(&Section::Restart) {
                for round in 0..restarts {
                    for (target, tasks) in targets.iter_mut().zip(&mut all) {
                        restart(report, target, tasks, round).await?;
                    }
                }
            }
            for (target, tasks) in targets.iter().zip(all) {
                if wanted.contains(&Section::Exits) {
                    end_all(report, target, &tasks).await?;
                } else {
                    kill_all(&tasks);
                }
                bury(target, tasks).await?;
            }
            Ok(())
        })
        .await
}

async fn settle(target: &Target, first: usize, count: usize) -> Result<Turn<Process>> {
    target
        .side_by_side(CONCURRENCY, first, count, move |load, number| async move {
            load.settle(&format!("stays-{number}")).await
        })
        .await
}

fn note_starts(report: &mut Report, target: &Target, turn: &Turn<Process>) {
    let figure = Figure::of(Section::Start, target.contender.name, "start");
    let figure = figure.concurrency(CONCURRENCY);
    report.add(figure.clone(), turn.times.iter().copied());
    report.add(figure.unit(PER_SECOND), [turn.rate()]);
}

async fn daemon_memory(target: &Target) -> Result<(Figure, f64)> {
    let resident = proc::memory(target.daemon().await?)?.resident;
    let figure = Figure::of(Section::Memory, target.contender.name, "").unit(MEGABYTES);
    Ok((figure, megabytes(resident)))
}

async fn note_memory(report: &mut Report, target: &Target, containers: usize) -> Result<()> {
    let (figure, resident) = daemon_memory(target).await?;
    let figure = figure.containers(containers);
    report.add(figure.clone().named("RSS of the daemon, with all containers"), [resident]);
    for pid in target.shims() {
        let memory = proc::memory(pid)?;
        let shim = |name| figure.clone().named(name);
        report.add(shim("a shim, proportional (PSS)"), [megabytes(memory.proportional)]);
        report.add(shim("a shim, private"), [megabytes(memory.private)]);
    }
    Ok(())
}

/// Kills and starts the daemon. One container ends in the course of it, and a new
/// one takes its place.
async fn restart(
    report: &mut Report,
    target: &mut Target,
    tasks: &mut [Process],
    round: usize,
) -> Result<()> {
    let name = target.contender.name;
    let Some(bed) = target.own() else {
        report.skip(Section::Restart, "a daemon that runs already is not killed");
        return Ok(());
    };
    bed.daemon.kill().await?;
    let begin = Instant::now();
    bed.daemon.start(&bed.sandbox).await?;
    let ready = begin.elapsed();
    let load = target.load();
    wait_until_listed(&load, tasks.len()).await?;
    let listed = begin.elapsed();
    let place = round % tasks.len();
    proc::signal(tasks[place].pid, Signal::SIGKILL);
    tasks[place].wait().await.context("wait after the restart")?;
    let waited = begin.elapsed();

    let figure = Figure::of(Section::Restart, name, "").containers(tasks.len());
    for (name, time) in [
        ("until the daemon is ready", ready),
        ("until all tasks are listed as running", listed),
        ("until Wait has told of an exit", waited),
    ] {
        report.add(figure.clone().named(name), [milliseconds(time)]);
    }
    load.bury(&tasks[place]).await?;
    tasks[place] = load.settle(&format!("stays-after-{round}")).await?;
    Ok(())
}

async fn wait_until_listed(load: &Load, count: usize) -> Result<()> {
    let complete = async {
        loop {
            let answer = load.api().tasks().list(ListTasksRequest::default()).await?.into_inner();
            let running = answer.tasks.iter().filter(|task| task.status() == Status::Running);
            if running.count() == count {
                return Ok(());
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    tokio::time::timeout(DEADLINE, complete).await.context("not all tasks are listed")?
}

/// Kills all at once, behind the daemon's back.
async fn end_all(report: &mut Report, target: &Target, tasks: &[Process]) -> Result<()> {
    // After a restart a subscriber may be told of what was before, too.
    let ids: HashSet<_> = tasks.iter().map(|task| task.container.as_str()).collect();
    let namespace = target.namespace();
    let events = target.events().await?;
    let begin = Instant::now();
    kill_all(tasks);
    let what = format!("exits of {}", target.contender.name);
    events
        .wait_for_many(&what, tasks.len(), EXITS_DEADLINE, |event| {
            event.topic == Topic::Exit
                && event.namespace == namespace
                && ids.contains(event.container.as_str())
        })
        .await?;
    let figure = Figure::of(Section::Exits, target.contender.name, "until the last exit is heard");
    report.add(figure.containers(tasks.len()), [milliseconds(begin.elapsed())]);
    Ok(())
}

fn kill_all(tasks: &[Process]) {
    for task in tasks {
        proc::signal(task.pid, Signal::SIGKILL);
    }
}

async fn bury(target: &Target, tasks: Vec<Process>) -> Result<()> {
    let (count, tasks) = (tasks.len(), Arc::new(tasks));
    let done = target.side_by_side(CONCURRENCY, 0, count, move |load, number| {
        let tasks = tasks.clone();
        async move { load.bury(&tasks[number]).await }
    });
    done.await.map(drop)
}
