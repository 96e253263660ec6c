//! The control groups of a container: made, limited, frozen, emptied, removed.
//!
//! A controller lives in a v1 hierarchy or in the v2 tree, and a machine may
//! have both. Then the container has a group in either, or it would stay in the
//! daemon's in one of them.
//!
//! Moving a process costs a grace period of RCU where the kernel has to keep
//! its other threads still. So no process is moved: in v1 a child moves itself,
//! as a single thread, which needs no such care (`tasks`, cgroup-v1/cgroups.rst);
//! in v2 it is born in its group.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::{Component, Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use oci_spec::runtime::LinuxResources;
use serde::{Deserialize, Serialize};
use shim_protocol::{Context, Error, ErrorKind, Result};

use super::idle::Idle;
use crate::{
    cgroup::{Membership, hierarchies},
    kernel,
    sys::process,
};

mod devices;
mod freeze;
mod resources;
mod systemd;
#[cfg(test)]
mod tests;
mod tree;
mod unit;

pub(crate) use systemd::Limits;
use systemd::Scope;

const SIGKILL: u32 = nix::libc::SIGKILL as u32;
/// How long processes that were killed may take to leave.
const EMPTY_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two looks where the kernel gives no notice.
const PAUSE: Duration = Duration::from_millis(1);
/// What `mount` options of a v1 hierarchy are no controllers.
const FLAGS: [&str; 8] = [
    "rw",
    "ro",
    "xattr",
    "noprefix",
    "clone_children",
    "cpuset_v2_mode",
    "favordynmods",
    "nofavordynmods",
];

/// The groups of one container. Which they are is kept with the container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Groups {
    /// Controllers of a v1 hierarchy, with "," between them, or "name=", and
    /// the group's folder.
    v1: Vec<(String, PathBuf)>,
    /// Folder in the v2 tree.
    v2: Option<Unified>,
    /// systemd's unit, where it makes the groups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    unit: Option<Scope>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Unified {
    /// Where the tree is mounted.
    root: PathBuf,
    group: PathBuf,
}

/// Where a controller lives.
enum Place<'a> {
    V1(&'a Path),
    V2(&'a Path),
}

/// The doors to a container's groups: opened by one who may, used by a child
/// that may be nobody by then.
#[derive(Debug)]
pub(crate) struct Doors {
    tasks: Vec<File>,
    unified: Option<OwnedFd>,
}

impl Doors {
    /// The group of the v2 tree, to be born into.
    pub(crate) fn unified(&self) -> Option<BorrowedFd<'_>> {
        self.unified.as_ref().map(AsFd::as_fd)
    }

    /// Moves the calling process, which has one thread, into the v1 groups, and
    /// shuts all doors for it: none of them leads into the container. To be
    /// called in a process that is a copy of their owner, and that never drops
    /// them.
    pub(crate) fn enter(&self) -> io::Result<()> {
        self.tasks.iter().try_for_each(|mut tasks| tasks.write_all(b"0"))?;
        let fds = self.tasks.iter().map(AsRawFd::as_raw_fd);
        for fd in fds.chain(self.unified.as_ref().map(AsRawFd::as_raw_fd)) {
            nix::unistd::close(fd)?;
        }
        Ok(())
    }
}

impl Groups {
    /// The groups `path` of all hierarchies; a relative one starts at the group
    /// of this process.
    ///
    /// # Errors
    /// `InvalidArgument` for a path that leads out.
    pub(crate) fn plan(path: &Path) -> Result<Self> {
        if path.components().any(|part| part == Component::ParentDir) {
            return Err(Error::invalid(format!("linux.cgroupsPath: {}", path.display())));
        }
        let own = match path.is_absolute() {
            true => String::new(),
            false => kernel::read("/proc/self/cgroup").context("read", "/proc/self/cgroup")?,
        };
        Self::below(&own, path)
    }

    /// The groups `path` below those that `own` lists.
    fn below(own: &str, path: &Path) -> Result<Self> {
        let own: Vec<_> = own.lines().filter_map(Membership::parse).collect();
        let mut groups = Self::default();
        for hierarchy in hierarchies()? {
            let start = own
                .iter()
                .find(|group| group.is_in(&hierarchy))
                .map(|group| group.path.strip_prefix(&hierarchy.root).unwrap_or(group.path));
            let below = start.unwrap_or(Path::new("")).join(path);
            let folder = hierarchy.point.join(below.strip_prefix("/").unwrap_or(&below));
            if hierarchy.kind == "cgroup2" {
                groups.v2 = Some(Unified { root: hierarchy.point, group: folder });
                continue;
            }
            let names = hierarchy.options.split(',').filter(|name| !FLAGS.contains(name));
            let names: Vec<_> = names.filter(|name| !name.starts_with("release_agent=")).collect();
            // The same hierarchy may be mounted twice.
            let names = names.join(",");
            if !groups.v1.iter().any(|(known, _)| *known == names) {
                groups.v1.push((names, folder));
            }
        }
        Ok(groups)
    }

    /// Limits that no v1 hierarchy of this machine can keep.
    fn needs_unified(&self, resources: &LinuxResources) -> bool {
        let pages = resources.hugepage_limits().as_ref().is_some_and(|list| !list.is_empty());
        let rdma = resources.rdma().as_ref().is_some_and(|map| !map.is_empty());
        let unified = resources.unified().as_ref().is_some_and(|map| !map.is_empty());
        unified || (pages && self.v1("hugetlb").is_none()) || (rdma && self.v1("rdma").is_none())
    }

    /// Those hierarchies, by their controllers with "," between them or by
    /// "name=", and the group in each.
    pub(super) fn hierarchies(&self) -> impl Iterator<Item = (&str, &Path)> {
        self.v1.iter().map(|(controllers, folder)| (controllers.as_str(), folder.as_path()))
    }

    /// The group in the tree of the second version.
    pub(super) fn unified(&self) -> Option<&Path> {
        self.v2.as_ref().map(|unified| unified.group.as_path())
    }

    /// Are they nobody's? To be asked before it is noted whose they are: who
    /// finds that kills all that is in them.
    ///
    /// # Errors
    /// `FailedPrecondition` when one has processes.
    pub(crate) fn require_unused(&self) -> Result<()> {
        self.folders().try_for_each(|folder| tree::unused(folder, None))
    }

    /// Makes the groups, with the controllers that `resources` needs. Those of
    /// systemd stay as long as there is what this gives, or another process;
    /// then the calling process has one thread.
    ///
    /// # Errors
    /// `FailedPrecondition` when one is there and in use, `AlreadyExists` when
    /// the unit is. What was made until then is removed, and nothing else.
    pub(crate) fn make(&self, resources: Option<&LinuxResources>) -> Result<Option<Idle>> {
        let Some(unit) = &self.unit else {
            return self.make_folders(resources, None).map(|()| None);
        };
        self.start(unit, resources).map(Some)
    }

    fn make_folders(&self, resources: Option<&LinuxResources>, ours: Option<u32>) -> Result<()> {
        let mut made = Vec::new();
        let outcome = self.make_all(resources, ours, &mut made);
        if outcome.is_err() {
            for folder in made {
                // The first error says why.
                let _ = tree::remove(folder);
            }
        }
        outcome
    }

    /// Has the machine no v1 hierarchies?
    pub(super) fn is_unified(&self) -> bool {
        self.v1.is_empty()
    }

    fn make_all<'a>(
        &'a self,
        resources: Option<&LinuxResources>,
        ours: Option<u32>,
        made: &mut Vec<&'a Path>,
    ) -> Result<()> {
        let mut make = |folder: &'a Path| -> Result<()> {
            if tree::make(folder, ours)? {
                made.push(folder);
            }
            Ok(())
        };
        for (controllers, folder) in &self.v1 {
            make(folder)?;
            if has(controllers, "cpuset") {
                tree::inherit_cpuset(folder)?;
            }
        }
        if let Some(Unified { root, group }) = &self.v2 {
            if self.is_unified() || resources.is_some_and(|asked| self.needs_unified(asked)) {
                tree::enable_controllers(root, group)?;
            }
            make(group)?;
        }
        Ok(())
    }

    /// Sets limits; what `resources` does not name stays. systemd, where it has
    /// made the groups, knows them already.
    ///
    /// # Errors
    /// `InvalidArgument` for a value that the kernel refuses,
    /// `FailedPrecondition` when no controller can keep a limit.
    pub(crate) fn apply(&self, resources: &LinuxResources) -> Result<()> {
        resources::apply(self, resources)
    }

    /// Allows the devices that `resources` and the specification name, and no
    /// others.
    ///
    /// # Errors
    /// `InvalidArgument` for a broken rule.
    pub(crate) fn allow_devices(&self, resources: Option<&LinuxResources>) -> Result<()> {
        let rules = devices::Rule::all(resources)?;
        match (self.v1("devices"), &self.v2) {
            (Some(folder), _) => devices::write_v1(folder, &rules),
            (None, Some(unified)) => devices::attach_v2(&unified.group, &rules),
            (None, None) => Err(missing("devices")),
        }
    }

    /// Opens the doors for a new process. `init` is the container's first one,
    /// if there is one: a container may have made groups below its own, and
    /// then its own takes no process (cgroup-v2.rst, "No Internal Process
    /// Constraint").
    ///
    /// # Errors
    /// `NotFound` when the groups are gone.
    pub(crate) fn open(&self, init: Option<u32>) -> Result<Doors> {
        let open = |folder: &Path| {
            let path = folder.join("tasks");
            let file = OpenOptions::new().write(true).open(&path);
            file.context_as(ErrorKind::NotFound, "open", path.display())
        };
        let tasks = self.v1.iter().map(|(_, folder)| open(folder)).collect::<Result<_>>()?;
        let unified = match &self.v2 {
            None => None,
            Some(unified) => {
                let folder = match init {
                    Some(init) => tree::group_for_more(unified, init)?,
                    None => unified.group.clone(),
                };
                let file = File::open(&folder);
                Some(file.context_as(ErrorKind::NotFound, "open", folder.display())?.into())
            }
        };
        Ok(Doors { tasks, unified })
    }

    /// All processes, also those in groups that the container has made.
    ///
    /// # Errors
    /// Those of the file system; a group that is gone has none.
    pub(crate) fn pids(&self) -> Result<Vec<u32>> {
        let mut pids = Vec::new();
        if let Some(folder) = self.any() {
            tree::pids(folder, &mut pids)?;
        }
        Ok(pids)
    }

    /// A group that all processes are in.
    fn any(&self) -> Option<&Path> {
        let unified = self.v2.as_ref().map(|unified| unified.group.as_path());
        // Containers seldom make groups below this one.
        let v1 = || self.v1("freezer").or_else(|| self.v1("devices"));
        unified.or_else(v1).or_else(|| self.v1.first().map(|(_, folder)| folder.as_path()))
    }

    /// Sends a signal to all processes.
    ///
    /// # Errors
    /// As [`Groups::pids`].
    pub(crate) fn signal(&self, signal: u32) -> Result<()> {
        if signal == SIGKILL
            && let Some(unified) = &self.v2
            && tree::write(&unified.group.join("cgroup.kill"), "1").is_ok()
        {
            return Ok(());
        }
        for pid in self.pids()? {
            signal_one(pid, signal).context("signal process", pid)?;
        }
        Ok(())
    }

    /// Kills all processes, and those they make meanwhile, and waits until there
    /// are none. Frozen ones are thawed first.
    ///
    /// # Errors
    /// `DeadlineExceeded` when some do not end.
    pub(crate) fn empty(&self) -> Result<()> {
        let deadline = Instant::now() + EMPTY_TIMEOUT;
        while !self.pids()?.is_empty() {
            self.signal(SIGKILL)?;
            self.thaw()?;
            if Instant::now() > deadline {
                let what = format!("processes {:?} do not end", self.pids()?);
                return Err(Error::new(ErrorKind::DeadlineExceeded, what));
            }
            thread::sleep(PAUSE);
        }
        Ok(())
    }

    /// Removes the groups, with those that the container has made in them. Gone
    /// already is fine.
    ///
    /// # Errors
    /// `DeadlineExceeded` when a process in them does not end, or systemd does not
    /// answer.
    pub(crate) fn remove(&self) -> Result<()> {
        let stopped = match &self.unit {
            // systemd would ask them to end first, and wait.
            Some(unit) => self.empty().and_then(|()| unit.stop()),
            None => Ok(()),
        };
        // Worth doing even if systemd does not answer.
        self.remove_all_folders().and(stopped)
    }

    fn remove_all_folders(&self) -> Result<()> {
        let deadline = Instant::now() + EMPTY_TIMEOUT;
        loop {
            match self.remove_folders() {
                // A process that has just ended leaves a little later.
                Err(error) if Instant::now() < deadline => {
                    tracing::debug!(error = %error.report(), "remove cgroups again");
                    self.empty()?;
                    thread::sleep(PAUSE);
                }
                removed => return removed,
            }
        }
    }

    fn remove_folders(&self) -> Result<()> {
        // Each is worth removing even if the one before was not.
        self.folders().map(tree::remove).fold(Ok(()), Result::and)
    }

    fn folders(&self) -> impl Iterator<Item = &Path> {
        let v1 = self.v1.iter().map(|(_, folder)| folder.as_path());
        v1.chain(self.v2.as_ref().map(|unified| unified.group.as_path()))
    }

    fn v1(&self, controller: &str) -> Option<&Path> {
        let group = self.v1.iter().find(|(controllers, _)| has(controllers, controller));
        group.map(|(_, folder)| folder.as_path())
    }

    /// Where a limit of `controller` is to be set.
    fn place(&self, controller: &str) -> Result<Place<'_>> {
        match (self.v1(controller), &self.v2) {
            (Some(folder), _) => Ok(Place::V1(folder)),
            (None, Some(unified)) => Ok(Place::V2(&unified.group)),
            (None, None) => Err(missing(controller)),
        }
    }
}

fn has(controllers: &str, name: &str) -> bool {
    controllers.split(',').any(|controller| controller == name)
}

fn missing(controller: &str) -> Error {
    Error::precondition(format!("linux.resources: no cgroup controller {controller} here"))
}

/// One that is gone needs no signal.
fn signal_one(pid: u32, signal: u32) -> io::Result<()> {
    let result = process::open(pid).and_then(|process| process::signal(process.as_fd(), signal));
    match result {
        Err(e) if e.raw_os_error() == Some(nix::libc::ESRCH) => Ok(()),
        result => result,
    }
}
