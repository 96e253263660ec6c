//! What may not be left when all tasks have been deleted.

use std::{
    fs,
    os::unix::fs::FileTypeExt,
    path::{Path, PathBuf},
};

use anyhow::{Result, ensure};

use crate::{Daemon, Sandbox, eventually, proc};

/// Waits until nothing is left of any task: no process but the daemon, no
/// zombie of it, no mount, cgroup, socket, FIFO, bundle or runtime state.
///
/// A shim ends a moment after its last task was deleted, so this looks until
/// all is well.
///
/// # Errors
/// What was still there at the deadline.
pub async fn check(sandbox: &Sandbox, daemon: &Daemon) -> Result<()> {
    eventually(async || {
        let found = find(sandbox, daemon);
        ensure!(found.is_empty(), "left behind:\n  {}", found.join("\n  "));
        Ok(())
    })
    .await
}

/// Everything that is left, a line each.
pub fn find(sandbox: &Sandbox, daemon: &Daemon) -> Vec<String> {
    let mut found = processes(sandbox, daemon.pid());
    found.extend(named("mount", mounts(sandbox, daemon)));
    found.extend(named("cgroup", cgroups(sandbox)));
    found.extend(named("socket", entries(&sandbox.run("containerd/s"))));
    found.extend(named("FIFO", fifos(&sandbox.run("containerd/fifo"))));
    found.extend(named("FIFO", fifos(daemon.state())));
    for namespace in entries(&sandbox.run("containerd/runc")) {
        found.extend(named("runtime state", entries(&namespace)));
    }
    for root in [daemon.state(), daemon.root()] {
        for namespace in entries(&root.join("io.containerd.runtime.v2.task")) {
            found.extend(named("bundle", entries(&namespace)));
        }
    }
    found
}

fn named(kind: &str, paths: Vec<PathBuf>) -> impl Iterator<Item = String> {
    paths.into_iter().map(move |path| format!("{kind} {}", path.display()))
}

fn processes(sandbox: &Sandbox, daemon: Option<u32>) -> Vec<String> {
    let mut found: Vec<_> = sandbox
        .processes()
        .into_iter()
        .filter(|pid| Some(*pid) != daemon)
        .filter(|pid| proc::is_alive(*pid))
        .map(|pid| {
            let folder = fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default();
            format!("process {pid} {:?} in {}", proc::arguments(pid), folder.display())
        })
        .collect();
    found.extend(
        proc::pids()
            .into_iter()
            .filter(|pid| proc::state(*pid).is_some_and(|s| s.0 == 'Z' && Some(s.1) == daemon))
            .map(|pid| format!("zombie {pid} of the daemon")),
    );
    found
}

/// Mounts of tasks: those inside the daemon's folders, which may be mounts
/// themselves.
fn mounts(sandbox: &Sandbox, daemon: &Daemon) -> Vec<PathBuf> {
    let mut found = sandbox.mounts_below(daemon.state());
    found.extend(sandbox.mounts_below(daemon.root()));
    found.retain(|path| path != daemon.state() && path != daemon.root());
    found
}

/// The cgroups of containers: what is inside the test's own.
fn cgroups(sandbox: &Sandbox) -> Vec<PathBuf> {
    sandbox
        .cgroups()
        .iter()
        .flat_map(|parent| entries(parent))
        .filter(|path| path.is_dir())
        .collect()
}

fn fifos(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for path in entries(folder) {
        let Ok(kind) = fs::symlink_metadata(&path).map(|meta| meta.file_type()) else { continue };
        if kind.is_dir() {
            found.extend(fifos(&path));
        } else if kind.is_fifo() {
            found.push(path);
        }
    }
    found
}

/// What is in a folder; nothing if it is not there.
fn entries(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder)
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default()
}
