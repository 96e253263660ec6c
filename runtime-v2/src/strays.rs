//! Shims that were started for a bundle, and that nobody can reach: the daemon
//! died, or gave up, before it heard where they listen.
//!
//! A start works on without the daemon that asked for it. If it is not ended,
//! it leaves a shim that no bundle tells of.

use std::{
    fs,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    time::Duration,
};

use shim_protocol::{Context, Result};
use tokio::time::timeout;
use tracing::warn;

use crate::{bundle::Bundle, manager::blocking, sys::ProcessHandle};

/// Kills every process of `binary` that works in the bundle's folder, which is
/// where shims are started, and waits for their ends.
pub(crate) async fn end_all(bundle: &Bundle, binary: &Path, limit: Duration) {
    match timeout(limit, kill_until_none(bundle.path(), binary)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            warn!(id = %bundle.id(), error = %error.report(), "start of shim goes on");
        }
        Err(_) => warn!(id = %bundle.id(), ?limit, "start of shim does not end"),
    }
}

async fn kill_until_none(folder: &Path, binary: &Path) -> Result<()> {
    // The kernel tells real paths.
    let folder = &tokio::fs::canonicalize(folder).await.context("find", folder.display())?;
    loop {
        let (here, program) = (folder.clone(), binary.to_owned());
        let found = blocking(move || find(&here, &program)).await?;
        if found.is_empty() {
            return Ok(());
        }
        // One that is killed while it forks may have left another.
        for pid in found {
            end(pid, folder, binary).await.context("kill start of shim", pid)?;
        }
    }
}

async fn end(pid: u32, folder: &Path, binary: &Path) -> std::io::Result<()> {
    let Ok(process) = ProcessHandle::open(pid) else { return Ok(()) };
    // With the handle open, the pid cannot become another's.
    if is_start(&proc_of(pid), folder, binary) {
        process.kill()?;
        process.ended().await?;
    }
    Ok(())
}

/// Pids of the starts in `folder`. Blocks.
fn find(folder: &Path, binary: &Path) -> Result<Vec<u32>> {
    let entries = fs::read_dir("/proc").context("list", "/proc")?;
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    Ok(pids.filter(|pid| is_start(&proc_of(*pid), folder, binary)).collect())
}

fn proc_of(pid: u32) -> PathBuf {
    Path::new("/proc").join(pid.to_string())
}

/// Is the process that of `binary`, by itself or as a script, and in `folder`?
/// One that has ended, reaped or not, is nowhere.
fn is_start(process: &Path, folder: &Path, binary: &Path) -> bool {
    fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd == folder)
        && fs::read(process.join("cmdline")).is_ok_and(|line| {
            line.split(|byte| *byte == 0).take(2).any(|word| word == binary.as_os_str().as_bytes())
        })
}
