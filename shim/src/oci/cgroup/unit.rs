//! Control groups that systemd makes, together with those that it does not.

use std::{collections::HashMap, fs, path::Path};

use oci_spec::runtime::LinuxResources;
use shim_protocol::{Context, Error, Result};

use super::{Groups, devices, missing, systemd::Scope, tree};
use crate::oci::idle::Idle;

impl Groups {
    /// The groups of a unit of systemd. `path` is `linux.cgroupsPath`.
    ///
    /// # Errors
    /// `InvalidArgument` for a path that is not of the form `slice:prefix:name`,
    /// and for a property in `annotations` that is not understood.
    pub(crate) fn of_unit(
        path: &Path,
        id: &str,
        annotations: &HashMap<String, String>,
    ) -> Result<Self> {
        let unit = Scope::parse(&path.to_string_lossy(), id, annotations)?;
        let init = fs::read_to_string("/proc/1/cgroup").context("read", "/proc/1/cgroup")?;
        // systemd is in a unit of its own, beside those it makes.
        let line = |line: &str| line.strip_suffix("init.scope").unwrap_or(line).to_owned() + "\n";
        let init: String = init.lines().map(line).collect();
        let groups = Self::below(&init, &unit.path())?;
        Ok(Self { unit: Some(unit), ..groups })
    }

    /// Starts the unit, and makes the groups that systemd leaves out.
    pub(super) fn start(&self, unit: &Scope, resources: Option<&LinuxResources>) -> Result<Idle> {
        let rules = devices::Rule::all(resources)?;
        let holder = unit.start(resources, &rules, self.is_unified())?;
        let pid = holder.pid();
        let made = self.require(pid).and_then(|()| self.make_folders(resources, Some(pid)));
        match made {
            Ok(()) => Ok(holder),
            Err(error) => {
                drop(holder);
                // The first error says why.
                let _ = unit.stop();
                Err(error)
            }
        }
    }

    /// Has systemd put a process where we look for it?
    fn require(&self, pid: u32) -> Result<()> {
        let v2 = || self.v2.as_ref().map(|unified| unified.group.as_path());
        let Some(folder) = self.v1("name=systemd").or_else(v2) else {
            return Err(missing("of systemd"));
        };
        let mut pids = Vec::new();
        tree::pids(folder, &mut pids)?;
        match pids.contains(&pid) {
            true => Ok(()),
            false => {
                let what = format!("linux.cgroupsPath: systemd makes no {}", folder.display());
                Err(Error::precondition(what))
            }
        }
    }

    /// Changes limits, as [`Groups::apply`], and tells systemd.
    ///
    /// # Errors
    /// Those of [`Groups::apply`], and what systemd refuses.
    pub(crate) fn update(&self, resources: &LinuxResources) -> Result<()> {
        if let Some(unit) = &self.unit {
            self.unseen(|| unit.update(resources, self.is_unified()))?;
        }
        self.apply(resources)
    }

    /// Has the container not see what `change` does. Whatever systemd is told of a
    /// unit, it takes all devices away in v1 and gives them back; in v2 it replaces
    /// one program with another.
    fn unseen(&self, change: impl FnOnce() -> Result<()>) -> Result<()> {
        if self.is_unified() || self.v1("freezer").is_none() || self.is_frozen()? {
            return change();
        }
        if let Err(error) = self.freeze() {
            // A limit matters more than a device that is out of reach for a moment.
            tracing::warn!(error = %error.report(), "freeze a container to change its limits");
        }
        let changed = change();
        match (changed, self.thaw()) {
            (Err(error), Err(frozen)) => {
                tracing::error!(error = %frozen.report(), "a container stays frozen");
                Err(error)
            }
            (changed, thawed) => changed.and(thawed),
        }
    }
}
