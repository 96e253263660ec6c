//! What it may cost, in memory. With release binaries only: others are not
//! what anybody runs.

use anyhow::{Context, Result, ensure};
use tests::{Bed, Process, bin_dir, proc, skip};

tests::pairing!(
    ours,
    tests::Pairing::OURS,
    a_shim_is_small,
    a_daemon_is_small,
    nothing_grows_with_the_number_of_lives,
);

/// Limits in kilobytes.
const SHIM_PROPORTIONAL: u64 = 1000;
const SHIM_PRIVATE: u64 = 800;
const DAEMON_IDLE: u64 = 12_000;
const DAEMON_WITH_100: u64 = 16_000;

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
