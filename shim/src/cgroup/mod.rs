//! Control groups: what a container uses, and when it runs out of memory.
//!
//! A machine has the v2 tree, or v1 hierarchies with a controller or two
//! each, or both: then a controller lives in one of them, and the v2 tree may
//! have what the v1 hierarchies lack. The numbers go out in v1's form as soon
//! as one of the main controllers lives there.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use containerd_mounts::mountinfo::{self, Entry};
use protobuf::well_known_types::any::Any;
use shim_protocol::{Context, Error, ErrorKind, Result, any};

use crate::kernel;

pub use oom::OomWatcher;

mod files;
mod oom;
#[cfg(test)]
mod tests;
mod v1;
mod v2;

/// Controllers of which the numbers go out in v1's form if they live there.
const MAIN_CONTROLLERS: [&str; 4] = ["cpu", "cpuacct", "memory", "pids"];

/// The hierarchies, in a process that ends before there can be others.
static KEPT: OnceLock<Vec<Entry>> = OnceLock::new();

/// The control groups of one container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cgroup {
    /// Controllers of a v1 hierarchy, as the kernel lists them, and the group's
    /// folder there.
    v1: Vec<(String, PathBuf)>,
    /// Its folder in the v2 tree.
    v2: Option<PathBuf>,
}

impl Cgroup {
    /// The groups that a process is in now: ask before it ends.
    ///
    /// # Errors
    /// `NotFound` when there is no such process.
    pub fn of_pid(pid: u32) -> Result<Self> {
        let path = format!("/proc/{pid}/cgroup");
        let text = kernel::read(&path).map_err(|e| gone_or_internal(e, &path))?;
        let hierarchies = hierarchies()?;
        let groups = text.lines().filter_map(Membership::parse);
        Ok(Self::locate(groups, &hierarchies))
    }

    /// Moves a process into the existing group `path`, such as `/shims`, in
    /// every hierarchy that has it.
    ///
    /// # Errors
    /// `NotFound` when there is no such group.
    pub fn join(path: &Path, pid: u32) -> Result<()> {
        let mut joined = false;
        for hierarchy in hierarchies()? {
            let group = hierarchy.point.join(path.strip_prefix("/").unwrap_or(path));
            if group.is_dir() {
                let procs = group.join("cgroup.procs");
                fs::write(&procs, pid.to_string()).context("write", procs.display())?;
                joined = true;
            }
        }
        if joined { Ok(()) } else { Err(Error::not_found(format!("cgroup {}", path.display()))) }
    }

    /// What the container uses now, as `io.containerd.cgroups.v1.Metrics` or
    /// `io.containerd.cgroups.v2.Metrics`. What the kernel does not tell is 0.
    ///
    /// # Errors
    /// `NotFound` when the groups are gone.
    pub fn stats(&self) -> Result<Any> {
        match &self.v2 {
            Some(group) if !self.is_v1() => {
                exists(group)?;
                any::pack(&v2::metrics(group).context("read", group.display())?)
            }
            _ => {
                self.v1.iter().try_for_each(|(_, group)| exists(group))?;
                any::pack(&v1::metrics(self).context("read", "cgroup v1 statistics")?)
            }
        }
    }

    /// Starts to watch for out-of-memory kills.
    ///
    /// # Errors
    /// `NotFound` when the group is gone, `Unimplemented` when the machine has
    /// no memory controller.
    pub fn oom_watcher(&self) -> Result<OomWatcher> {
        match (self.controller("memory"), &self.v2) {
            (Some(group), _) => OomWatcher::v1(group),
            (None, Some(group)) => OomWatcher::v2(group),
            (None, None) => Err(Error::unimplemented("the machine has no memory controller")),
        }
    }

    fn locate<'a>(groups: impl Iterator<Item = Membership<'a>>, hierarchies: &[Entry]) -> Self {
        let mut found = Self::default();
        for group in groups {
            let Some(hierarchy) = hierarchies.iter().find(|entry| group.is_in(entry)) else {
                continue;
            };
            // Seen from a container, the hierarchy's mount starts below its root.
            let below = group.path.strip_prefix(&hierarchy.root).unwrap_or(group.path);
            let folder = hierarchy.point.join(below.strip_prefix("/").unwrap_or(below));
            match group.controllers {
                "" => found.v2 = Some(folder),
                controllers => found.v1.push((controllers.to_owned(), folder)),
            }
        }
        found
    }

    fn is_v1(&self) -> bool {
        MAIN_CONTROLLERS.iter().any(|name| self.controller(name).is_some())
    }

    /// The group's folder in the v1 hierarchy of a controller.
    fn controller(&self, name: &str) -> Option<&Path> {
        let has = |controllers: &str| controllers.split(',').any(|controller| controller == name);
        self.v1.iter().find(|(controllers, _)| has(controllers)).map(|(_, path)| path.as_path())
    }
}

/// A line of `/proc/<pid>/cgroup` (cgroups(7)).
pub(crate) struct Membership<'a> {
    /// Empty for the v2 tree.
    pub(crate) controllers: &'a str,
    pub(crate) path: &'a Path,
}

impl<'a> Membership<'a> {
    pub(crate) fn parse(line: &'a str) -> Option<Self> {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        Some(Self { controllers, path: Path::new(path) })
    }

    pub(crate) fn is_in(&self, hierarchy: &Entry) -> bool {
        if self.controllers.is_empty() {
            return hierarchy.kind == "cgroup2";
        }
        let mounted = |name: &str| hierarchy.options.split(',').any(|option| option == name);
        hierarchy.kind == "cgroup" && self.controllers.split(',').all(mounted)
    }
}

/// Where cgroups are mounted.
pub(crate) fn hierarchies() -> Result<Vec<Entry>> {
    match KEPT.get() {
        Some(kept) => Ok(kept.clone()),
        None => list_hierarchies(),
    }
}

/// From now on this process looks for hierarchies no more. If they cannot be
/// listed, whoever needs them will say so.
pub(crate) fn keep_hierarchies() {
    if let Ok(found) = list_hierarchies() {
        // Kept before, they are the same.
        let _ = KEPT.set(found);
    }
}

fn list_hierarchies() -> Result<Vec<Entry>> {
    mountinfo::select(|entry| matches!(entry.kind.as_str(), "cgroup" | "cgroup2"))
        .context("list", "cgroup hierarchies")
}

fn exists(group: &Path) -> Result<()> {
    fs::metadata(group).map(drop).map_err(|e| gone_or_internal(e, &group.display().to_string()))
}

fn gone_or_internal(error: io::Error, path: &str) -> Error {
    let kind = match (error.kind(), error.raw_os_error()) {
        // ESRCH: the process has ended since its folder was opened.
        (io::ErrorKind::NotFound, _) | (_, Some(nix::libc::ESRCH)) => ErrorKind::NotFound,
        _ => shim_protocol::error::io_kind(&error),
    };
    Error::caused(kind, format!("read {path}"), error)
}
