//! What it may cost, in memory and in system calls. With release binaries only:
//! others are not what anybody runs.

use anyhow::{Context, Result, ensure};
use tests::{
    Bed, Process, Stdio, bin_dir, proc, skip,
    syscalls::{self, Calls},
};

tests::pairing!(
    ours,
    tests::Pairing::OURS,
    a_shim_is_small,
    a_daemon_is_small,
    nothing_grows_with_the_number_of_lives,
    a_life_takes_few_system_calls,
    an_exec_takes_few_system_calls,
);

/// Limits in kilobytes.
const SHIM_PROPORTIONAL: u64 = 500;
const SHIM_PRIVATE: u64 = 500;
const DAEMON_IDLE: u64 = 12_000;
const DAEMON_WITH_100: u64 = 16_000;

/// Limits in system calls of daemon, shim, helper and the container's program,
/// `true` of busybox: a tenth above what they were when they were set, on a
/// machine with nine v1 hierarchies and the v2 tree. Which threads wake each
/// other, and how often, is chance.
const CALLS_OF_LIFE: u64 = 1_480;
const CALLS_OF_EXEC: u64 = 625;
/// How often that is counted, for a median.
const COUNTS: usize = 5;

/// With fifty running.
async fn a_shim_is_small(bed: &mut Bed) -> Result<()> {
    if is_debug_build("a_shim_is_small") {
        return Ok(());
    }
    let tasks = start(bed, 50).await?;
    let shims = bed.sandbox.shims();
    assert_eq!(shims.len(), 50);
    let mut all = Vec::new();
    for pid in shims {
        all.push(proc::memory(pid)?);
        let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"))?;
        ensure!(!maps.contains(".so"), "shared libraries cost time at each start:\n{maps}");
    }
    let count = all.len() as u64;
    let proportional = all.iter().map(|memory| memory.proportional).sum::<u64>() / count;
    let private = all.iter().map(|memory| memory.private).sum::<u64>() / count;
    println!("a shim: {proportional} kB proportional, {private} kB private");
    ensure!(proportional <= SHIM_PROPORTIONAL, "{proportional} kB proportional for each shim");
    ensure!(private <= SHIM_PRIVATE, "{private} kB private for each shim");
    destroy(bed, &tasks).await
}

/// Idle, and with a hundred containers.
async fn a_daemon_is_small(bed: &mut Bed) -> Result<()> {
    if is_debug_build("a_daemon_is_small") {
        return Ok(());
    }
    let idle = daemon_memory(bed)?;
    let tasks = start(bed, 100).await?;
    let busy = daemon_memory(bed)?;
    println!("the daemon: {idle} kB idle, {busy} kB with 100 containers");
    ensure!(idle <= DAEMON_IDLE, "{idle} kB idle");
    ensure!(busy <= DAEMON_WITH_100, "{busy} kB with 100 containers");
    destroy(bed, &tasks).await
}

/// Descriptors and threads of the daemon, and of a shim with many execs, are
/// what they were before.
async fn nothing_grows_with_the_number_of_lives(bed: &mut Bed) -> Result<()> {
    let host = bed.start_container("host", "sleep 1000").await?;
    let daemon = bed.daemon.pid().context("daemon")?;
    let shim = bed.sandbox.shim_of("host").context("shim")?;
    // The first of each kind may bring something along that stays.
    live(bed, &host, 0).await?;
    let before = (proc::descriptors(daemon)?, proc::descriptors(shim)?);
    for number in 1..30 {
        live(bed, &host, number).await?;
    }
    tests::eventually(async || {
        let after = (proc::descriptors(daemon)?, proc::descriptors(shim)?);
        ensure!(after.0 <= before.0, "the daemon had {before:?} descriptors, now {after:?}");
        ensure!(after.1 <= before.1, "the shim had {before:?} descriptors, now {after:?}");
        Ok(())
    })
    .await?;
    bed.destroy(&host).await
}

/// Record, task, start, exit, and both deleted.
async fn a_life_takes_few_system_calls(bed: &mut Bed) -> Result<()> {
    if cannot_count("a_life_takes_few_system_calls") {
        return Ok(());
    }
    let load = bed.load();
    let daemon = bed.daemon.pid().context("daemon")?;
    // The first brings along what stays.
    load.live("first").await?;
    load.live("second").await?;
    let mut counts = Vec::new();
    for number in 0..COUNTS {
        let id = format!("counted-{number}");
        counts.push(syscalls::count(&[daemon], load.live(&id)).await?);
    }
    within_budget("a life", counts, CALLS_OF_LIFE)
}

/// Described, started, exit, and deleted.
async fn an_exec_takes_few_system_calls(bed: &mut Bed) -> Result<()> {
    if cannot_count("an_exec_takes_few_system_calls") {
        return Ok(());
    }
    // Of shims that are new to it the daemon knows little.
    bed.load().live("first").await?;
    let host = bed.start_container("host", "sleep 1000").await?;
    let daemon = bed.daemon.pid().context("daemon")?;
    let shim = bed.sandbox.shim_of("host").context("shim")?;
    let exec = async |name: &str| {
        let mut exec = host.exec_args(name, &["/bin/true"], Stdio::null()).await?;
        exec.start().await?;
        exec.wait().await?;
        exec.delete().await?;
        anyhow::Ok(())
    };
    exec("first").await?;
    let mut counts = Vec::new();
    for number in 0..COUNTS {
        let name = format!("counted-{number}");
        counts.push(syscalls::count(&[daemon, shim], exec(&name)).await?);
    }
    within_budget("an exec", counts, CALLS_OF_EXEC)?;
    bed.destroy(&host).await
}

/// The smallest counts: whatever else happens only adds to it.
fn within_budget(what: &str, counts: Vec<Calls>, limit: u64) -> Result<()> {
    let smallest = counts.iter().min_by_key(|calls| calls.total());
    let smallest = smallest.context("nothing was counted")?;
    let (total, top) = (smallest.total(), smallest.top(15));
    println!("{what}: {total} system calls: {top}");
    ensure!(total <= limit, "{what} takes {total} system calls, not {limit}: {top}");
    Ok(())
}

fn cannot_count(test: &str) -> bool {
    if !Calls::can_be_counted() {
        skip(test, "strace is not installed");
        return true;
    }
    is_debug_build(test)
}

/// A container and an exec that come and go.
async fn live(bed: &Bed, host: &Process, number: usize) -> Result<()> {
    let task = bed.start_container(&format!("short-{number}"), "echo out").await?;
    task.wait().await?;
    bed.remove(&task).await?;
    let name = format!("exec-{number}");
    let mut exec = host.exec(&name, "echo out", false, bed.fifos(&name, true, true)?).await?;
    exec.start().await?;
    exec.wait().await?;
    exec.delete().await?;
    Ok(())
}

fn is_debug_build(test: &str) -> bool {
    let debug = bin_dir().ends_with("debug");
    if debug {
        skip(test, "the binaries are a debug build");
    }
    debug
}

fn daemon_memory(bed: &Bed) -> Result<u64> {
    Ok(proc::memory(bed.daemon.pid().context("daemon")?)?.resident)
}

async fn start(bed: &Bed, count: usize) -> Result<Vec<Process>> {
    let mut tasks = Vec::new();
    for number in 0..count {
        tasks.push(bed.start_container(&format!("many-{number}"), "sleep 1000").await?);
    }
    Ok(tasks)
}

async fn destroy(bed: &Bed, tasks: &[Process]) -> Result<()> {
    for task in tasks {
        bed.destroy(task).await?;
    }
    Ok(())
}
