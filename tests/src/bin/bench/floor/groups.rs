//! Cgroups of a life, as a runtime makes them: one in each v1 hierarchy and one
//! in the v2 tree.

use std::{
    fs::{self, File, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
    process,
};

use ::tests::proc;
use anyhow::{Context, Result};

/// Where hierarchies are mounted.
const CGROUPS: &str = "/sys/fs/cgroup";
/// What containers may use: making of any device, and these.
const ALLOWED: [&str; 11] = [
    "c *:* m",
    "b *:* m",
    "c 1:3 rwm",
    "c 1:5 rwm",
    "c 1:7 rwm",
    "c 1:8 rwm",
    "c 1:9 rwm",
    "c 5:0 rwm",
    "c 5:1 rwm",
    "c 5:2 rwm",
    "c 136:* rwm",
];

/// The parents of all groups. They are removed on drop.
pub(super) struct Groups(Vec<PathBuf>);

/// Those of one life.
pub(super) struct Made(Vec<PathBuf>);

impl Groups {
    /// In each hierarchy, `path` from its root.
    ///
    /// # Errors
    /// There are no cgroups, or it may not make any.
    pub(super) fn new(path: &str) -> Result<Self> {
        let roots = proc::mounts_below(process::id(), Path::new(CGROUPS));
        let mut groups = Self(Vec::new());
        for root in roots.into_iter().filter(|root| root.join("cgroup.procs").exists()) {
            let parent = root.join(path.trim_start_matches('/'));
            make(&parent)?;
            groups.0.push(parent);
        }
        Ok(groups)
    }

    /// Makes those of a life.
    ///
    /// # Errors
    /// As [`Groups::new`].
    pub(super) fn make(&self, number: usize) -> Result<Made> {
        let made = Made(self.0.iter().map(|parent| parent.join(number.to_string())).collect());
        for group in &made.0 {
            make(group)?;
            if is_v1(group) && group.join("devices.deny").exists() {
                fs::write(group.join("devices.deny"), "a")?;
                let mut allow = OpenOptions::new().write(true).open(group.join("devices.allow"))?;
                ALLOWED.iter().try_for_each(|rule| allow.write_all(rule.as_bytes()))?;
            }
        }
        Ok(made)
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        for parent in &self.0 {
            if let Err(error) = fs::remove_dir(parent) {
                eprintln!("{}: {error}", parent.display());
            }
        }
    }
}

impl Made {
    /// The folder in the v2 tree, and the files by which v1 groups are joined.
    ///
    /// # Errors
    /// They are gone.
    pub(super) fn open(&self) -> Result<(Option<File>, Vec<File>)> {
        let (mut folder, mut doors) = (None, Vec::new());
        for group in &self.0 {
            if is_v1(group) {
                doors.push(OpenOptions::new().write(true).open(group.join("tasks"))?);
            } else {
                folder = Some(File::open(group)?);
            }
        }
        Ok((folder, doors))
    }

    /// Removes them.
    ///
    /// # Errors
    /// They are in use.
    pub(super) fn remove(self) -> Result<()> {
        let remove = |group| fs::remove_dir(group).with_context(|| format!("{group:?}"));
        self.0.iter().try_for_each(remove)
    }
}

fn is_v1(group: &Path) -> bool {
    group.join("tasks").exists()
}

/// A new group of cpusets is of no use until it has processors and memory.
fn make(group: &Path) -> Result<()> {
    fs::create_dir(group).with_context(|| group.display().to_string())?;
    if !group.starts_with(Path::new(CGROUPS).join("cpuset")) {
        return Ok(());
    }
    let Some(parent) = group.parent() else { return Ok(()) };
    for file in ["cpuset.cpus", "cpuset.mems"] {
        fs::write(group.join(file), fs::read(parent.join(file))?)?;
    }
    Ok(())
}
