//! Control groups: what a container uses, and when it runs out of memory.

use std::path::Path;

use protobuf::well_known_types::any::Any;
use shim_protocol::{Error, Result};

/// The control groups of one container.
#[derive(Clone, Debug)]
pub struct Cgroup {}

/// Tells when the kernel kills a process of the container for want of memory.
pub struct OomWatcher {}

impl Cgroup {
    /// The groups that a process is in now: ask before it ends.
    ///
    /// # Errors
    /// `NotFound` when there is no such process.
    pub fn of_pid(pid: u32) -> Result<Self> {
        Err(Error::unimplemented(format!("cgroup of {pid}")))
    }

    /// Moves a process into the existing group `path`, such as `/shims`.
    ///
    /// # Errors
    /// `NotFound` when there is no such group.
    pub fn join(path: &Path, pid: u32) -> Result<()> {
        Err(Error::unimplemented(format!("move {pid} to cgroup {}", path.display())))
    }

    /// What the container uses now, as `io.containerd.cgroups.v1.Metrics` or
    /// `io.containerd.cgroups.v2.Metrics`.
    ///
    /// # Errors
    /// `NotFound` when the groups are gone.
    pub fn stats(&self) -> Result<Any> {
        Err(Error::unimplemented("stats"))
    }

    /// Starts to watch for out-of-memory kills.
    ///
    /// # Errors
    /// `NotFound` when the group is gone, `Unimplemented` when the machine has
    /// no memory controller.
    pub fn oom_watcher(&self) -> Result<OomWatcher> {
        Err(Error::unimplemented("oom watcher"))
    }
}

impl OomWatcher {
    /// Waits for the next kill. False when the group is gone.
    pub async fn next(&mut self) -> bool {
        false
    }
}
