//! Folders and files of the cgroup filesystems.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};

use shim_protocol::{Context, Error, ErrorKind, Result};

use super::Unified;
use crate::{cgroup::Membership, kernel};

const PROCS: &str = "cgroup.procs";

/// Makes a group, and those above it. Answers whether it was not there. Then
/// it may have the process `ours`.
pub(super) fn make(folder: &Path, ours: Option<u32>) -> Result<bool> {
    let made = match fs::create_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => fs::create_dir_all(folder),
        made => made,
    };
    match made {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => unused(folder, ours).map(|()| false),
        made => made.context("make cgroup", folder.display()).map(|()| true),
    }
}

/// A group that is there already may be taken over if it is nobody's: all that
/// is in it and below goes with the container.
///
/// # Errors
/// `FailedPrecondition` when it has processes besides `ours`.
pub(super) fn unused(folder: &Path, ours: Option<u32>) -> Result<()> {
    let mut found = Vec::new();
    pids(folder, &mut found)?;
    found.retain(|pid| Some(*pid) != ours);
    if found.is_empty() {
        return Ok(());
    }
    Err(Error::precondition(format!("linux.cgroupsPath: {} has processes", folder.display())))
}

/// A new group of the v1 controller has no processors, until it is told
/// (cgroup-v1/cpusets.rst).
pub(super) fn inherit_cpuset(folder: &Path) -> Result<()> {
    ["cpuset.cpus", "cpuset.mems"].iter().try_for_each(|name| inherit(folder, name).map(drop))
}

/// Answers the value that the group has then.
fn inherit(folder: &Path, name: &str) -> Result<String> {
    let file = folder.join(name);
    let value = kernel::read(&file).context("read", file.display())?;
    // The root of the hierarchy always has some, and ends this.
    if let (true, Some(parent)) = (value.trim().is_empty(), folder.parent()) {
        let value = inherit(parent, name)?;
        write(&file, value.trim())?;
        return Ok(value);
    }
    Ok(value)
}

/// Makes controllers available to `group` and all above it.
pub(super) fn enable_controllers(root: &Path, group: &Path) -> Result<()> {
    let path = root.join("cgroup.controllers");
    let available = kernel::read(&path).context("read", path.display())?;
    let names: Vec<_> = available.split_whitespace().collect();
    let below = group.strip_prefix(root).unwrap_or(group);
    let mut folder = root.to_owned();
    for part in below {
        match fs::create_dir(&folder) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                return Err(e).context("make cgroup", folder.display());
            }
            _ => {}
        }
        let control = folder.join("cgroup.subtree_control");
        let enabled = kernel::read(&control).context("read", control.display())?;
        let enabled: Vec<_> = enabled.split_whitespace().collect();
        for name in names.iter().filter(|name| !enabled.contains(name)) {
            // One that cannot be had is missed only if a limit needs it.
            if let Err(error) = write(&control, &format!("+{name}")) {
                tracing::debug!(error = %error.report(), "enable controller");
            }
        }
        folder.push(part);
    }
    Ok(())
}

/// The group that takes more processes of the container whose first one is
/// `init`.
pub(super) fn group_for_more(unified: &Unified, init: u32) -> Result<PathBuf> {
    let control = unified.group.join("cgroup.subtree_control");
    let enabled = kernel::read(&control);
    let enabled = enabled.context_as(ErrorKind::NotFound, "read", control.display())?;
    if enabled.trim().is_empty() {
        return Ok(unified.group.clone());
    }
    let path = format!("/proc/{init}/cgroup");
    let text = kernel::read(&path).context_as(ErrorKind::NotFound, "read", &path)?;
    let group = text.lines().filter_map(Membership::parse).find(|g| g.controllers.is_empty());
    let below = group.map_or(Path::new(""), |group| group.path);
    let folder = unified.root.join(below.strip_prefix("/").unwrap_or(below));
    // Init cannot have left the container's group, unless it was moved from outside.
    if folder.starts_with(&unified.group) { Ok(folder) } else { Ok(unified.group.clone()) }
}

/// Processes of a group and of those below it.
pub(super) fn pids(folder: &Path, found: &mut Vec<u32>) -> Result<()> {
    let path = folder.join(PROCS);
    match kernel::read(&path) {
        Ok(text) => found.extend(text.lines().filter_map(|line| line.parse::<u32>().ok())),
        Err(e) if is_gone(&e) => return Ok(()),
        // A threaded group (cgroup-v2.rst): its processes are those of the one above.
        Err(e) if e.raw_os_error() == Some(nix::libc::EOPNOTSUPP) => {}
        Err(e) => return Err(e).context("read", path.display()),
    }
    for child in children(folder)? {
        pids(&child, found)?;
    }
    Ok(())
}

/// Removes a group and those below it.
pub(super) fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir(folder) {
        Ok(()) => return Ok(()),
        Err(e) if is_gone(&e) => return Ok(()),
        Err(_) => {}
    }
    for child in children(folder)? {
        remove(&child)?;
    }
    match fs::remove_dir(folder) {
        Err(e) if !is_gone(&e) => Err(e).context("remove cgroup", folder.display()),
        _ => Ok(()),
    }
}

fn children(folder: &Path) -> Result<Vec<PathBuf>> {
    let list = || {
        let mut folders = Vec::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            }
        }
        io::Result::Ok(folders)
    };
    match list() {
        Err(e) if is_gone(&e) => Ok(Vec::new()),
        list => list.context("list", folder.display()),
    }
}

/// Writes a value. A new file would be a mistake: the kernel makes all there are.
///
/// # Errors
/// `InvalidArgument` for a value that the kernel does not take.
pub(super) fn write(path: &Path, value: &str) -> Result<()> {
    write_each(path, [value])
}

/// Writes one value after the other.
///
/// # Errors
/// As [`write`].
pub(super) fn write_each<'a>(path: &Path, values: impl IntoIterator<Item = &'a str>) -> Result<()> {
    let mut opened = None;
    for value in values {
        let written = match &mut opened {
            Some(file) => Ok(file),
            None => OpenOptions::new().write(true).open(path).map(|file| opened.insert(file)),
        };
        let written = written.and_then(|file| file.write_all(value.as_bytes()));
        written.map_err(|e| {
            let kind = match e.raw_os_error() {
                Some(nix::libc::EINVAL | nix::libc::ERANGE | nix::libc::ENODEV) => {
                    ErrorKind::InvalidArgument
                }
                _ => shim_protocol::error::io_kind(&e),
            };
            Error::caused(kind, format!("write {value:?} to {}", path.display()), e)
        })?;
    }
    Ok(())
}

/// `ENODEV`: removed since it was opened.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(nix::libc::ENODEV)
}
