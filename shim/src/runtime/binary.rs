//! A runtime that is a command line: runc, crun, youki and what looks like
//! them.

use std::{path::PathBuf, sync::Arc};

use crate::reaper::Reaper;

/// The command and what is the same in all its calls for one container.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name or path of the program.
    pub binary: PathBuf,
    /// Its state folder (`--root`).
    pub root: PathBuf,
    /// Folder for logs, pid files and process files: the bundle.
    pub work: PathBuf,
    /// Let systemd make the cgroups.
    pub systemd_cgroup: bool,
}

/// Drives a command line.
pub struct BinaryRuntime {
    /// What is the same in all calls.
    pub config: Config,
    /// Who waits for the commands.
    pub reaper: Arc<Reaper>,
}

impl BinaryRuntime {
    /// Does not look whether the program is there.
    pub fn new(config: Config, reaper: Arc<Reaper>) -> Self {
        Self { config, reaper }
    }
}
