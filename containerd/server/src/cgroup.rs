//! Moves the daemon into a cgroup of its own, on cgroup v1, v2 or both.

use std::{
    fs, io,
    path::{Component, Path, PathBuf},
};

use shim_protocol::{Context, Error, Result};

/// Moves this process into the cgroup `path` of every mounted hierarchy, and
/// makes it where it does not exist.
///
/// # Errors
/// `InvalidArgument` when the path leads upwards; those of the system.
pub(crate) fn join(path: &str) -> Result<()> {
    let path = Path::new(path.trim_start_matches('/'));
    if !path.components().all(|part| matches!(part, Component::Normal(_))) {
        return Err(Error::invalid("the path must not lead upwards"));
    }
    let file = "/proc/self/mountinfo";
    let mounts = fs::read_to_string(file).context("read", file)?;
    for mount in hierarchies(&mounts) {
        let folder = mount.join(path);
        fs::create_dir_all(&folder).context("make", folder.display())?;
        inherit_cpuset(&mount, path).context("prepare", folder.display())?;
        fs::write(folder.join("cgroup.procs"), std::process::id().to_string())
            .context("enter", folder.display())?;
    }
    Ok(())
}

/// Where cgroup hierarchies are mounted as a whole (proc(5), mountinfo).
fn hierarchies(mounts: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for line in mounts.lines() {
        let Some((before, after)) = line.split_once(" - ") else { continue };
        let is_cgroup = matches!(after.split(' ').next(), Some("cgroup" | "cgroup2"));
        let mut fields = before.split(' ').skip(3);
        if let (true, Some("/"), Some(point)) = (is_cgroup, fields.next(), fields.next()) {
            found.push(point.into());
        }
    }
    found
}

/// On cgroup v1 a new cpuset is empty, and takes no process until it has
/// processors and memory nodes: those of the folder above.
fn inherit_cpuset(mount: &Path, path: &Path) -> io::Result<()> {
    if !mount.join("cpuset.mems").exists() || mount.join("cgroup.controllers").exists() {
        return Ok(());
    }
    let mut folder = mount.to_owned();
    for part in path.components() {
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let inherited = fs::read_to_string(folder.join(file))?;
            let own = folder.join(part).join(file);
            if fs::read_to_string(&own)?.trim().is_empty() {
                fs::write(own, inherited)?;
            }
        }
        folder.push(part);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_are_found_by_type() {
        let mounts = "\
            22 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw\n\
            30 22 0:26 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
            31 22 0:27 /inner /sys/fs/cgroup/bound rw - cgroup cgroup rw,cpu\n\
            32 22 0:28 / /sys/fs/cgroup/unified rw shared:2 master:3 - cgroup2 cgroup2 rw\n";
        let expected: [PathBuf; 2] =
            ["/sys/fs/cgroup/memory".into(), "/sys/fs/cgroup/unified".into()];
        assert_eq!(hierarchies(mounts), expected);
    }

    #[test]
    fn a_path_that_leads_upwards_is_refused() {
        join("a/../../b").unwrap_err();
    }
}
