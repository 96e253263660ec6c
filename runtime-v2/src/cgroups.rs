//! The cgroups that a bundle names, for when its OCI runtime is of no help.
//!
//! A runtime makes cgroups first and writes its state later. If it is killed
//! in between, its own `delete` finds no container, and the cgroups stay.

use std::{
    fs, io,
    path::{Component, Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use nix::errno::Errno;
use serde::Deserialize;
use shim_protocol::{Context, Result};

/// How long the last processes of a runtime that was killed may take to end.
/// No event tells of it on cgroup v1.
const LAST_PROCESSES: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(10);

/// The part of a bundle's `config.json` that matters here.
#[derive(Deserialize)]
struct Config {
    linux: Option<Linux>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Linux {
    cgroups_path: Option<PathBuf>,
}

/// Removes the cgroup that the bundle at `bundle` names, in each hierarchy
/// where it is and nothing lives in it. Blocks.
///
/// # Errors
/// When the bundle's configuration or the list of hierarchies cannot be read,
/// or a cgroup is still in use in the end.
pub(crate) fn remove(bundle: &Path) -> Result<()> {
    let Some(path) = named_by(bundle)? else { return Ok(()) };
    let deadline = Instant::now() + LAST_PROCESSES;
    let mut outcome = Ok(());
    for hierarchy in hierarchies()? {
        // One that is in use keeps nobody from removing the others.
        outcome = outcome.and(remove_tree(&hierarchy.join(&path), deadline));
    }
    outcome
}

/// Is a process in the cgroup that the bundle at `bundle` names, or in one
/// below it, in any hierarchy? Blocks.
///
/// # Errors
/// When the bundle's configuration cannot be read, or there is no such process.
pub(crate) fn contains(bundle: &Path, pid: u32) -> Result<bool> {
    let path = cgroups_path(bundle)?.unwrap_or_default();
    let file = format!("/proc/{pid}/cgroup");
    // hierarchy:controllers:path, one line each (cgroups(7)).
    let lines = fs::read_to_string(&file).context("read", file)?;
    let mut paths = lines.lines().filter_map(|line| line.splitn(3, ':').nth(2)).map(Path::new);
    if let Some(path) = below_root(&path) {
        let is_below = |found: &Path| found.strip_prefix("/").is_ok_and(|f| f.starts_with(path));
        return Ok(paths.any(is_below));
    }
    let id = bundle.file_name().unwrap_or_default().to_string_lossy();
    let scopes = scopes(&path, &id);
    let is_one =
        |part: Component<'_>| scopes.iter().any(|scope| part.as_os_str() == scope.as_str());
    Ok(paths.any(|found| found.components().any(is_one)))
}

/// Names that systemd's scope may have for a path of the form
/// `slice:prefix:name`, or for none: runc and our shim always put a dash between
/// prefix and name, crun does not if there is no prefix.
fn scopes(path: &Path, id: &str) -> Vec<String> {
    let path = path.to_string_lossy();
    if path.is_empty() {
        return vec![format!("runc-{id}.scope"), format!("crun-{id}.scope")];
    }
    let mut parts = path.splitn(3, ':').skip(1);
    match (parts.next(), parts.next()) {
        (_, None | Some("")) | (None, _) => Vec::new(),
        (Some(""), Some(name)) => vec![format!("-{name}.scope"), format!("{name}.scope")],
        (Some(prefix), Some(name)) => vec![format!("{prefix}-{name}.scope")],
    }
}

/// The cgroup of the bundle's configuration, relative to a hierarchy's root.
/// None when it names none that is meant to be a plain path.
fn named_by(bundle: &Path) -> Result<Option<PathBuf>> {
    Ok(cgroups_path(bundle)?.as_deref().and_then(below_root).map(Path::to_owned))
}

/// What the bundle's configuration says of cgroups.
fn cgroups_path(bundle: &Path) -> Result<Option<PathBuf>> {
    let file = bundle.join("config.json");
    let config = fs::read(&file).context("read", file.display())?;
    // The client's, and perhaps never good enough for a runtime.
    let config = serde_json::from_slice::<Config>(&config).ok();
    Ok(config.and_then(|config| config.linux?.cgroups_path))
}

/// The path relative to a hierarchy's root. None for systemd's form
/// (`slice:prefix:name`), for the root itself, and for paths with `..`.
fn below_root(path: &Path) -> Option<&Path> {
    let relative = path.strip_prefix("/").ok()?;
    let plain = relative.components().all(|part| matches!(part, Component::Normal(_)));
    (plain && relative != Path::new("")).then_some(relative)
}

/// Where cgroup hierarchies of either version are mounted: fields five and,
/// after the dash, one of proc_pid_mountinfo(5).
fn hierarchies() -> Result<Vec<PathBuf>> {
    const MOUNTS: &str = "/proc/self/mountinfo";
    let mounts = fs::read_to_string(MOUNTS).context("read", MOUNTS)?;
    Ok(mounts
        .lines()
        .filter_map(|line| {
            let (mount, filesystem) = line.split_once(" - ")?;
            let kind = filesystem.split(' ').next()?;
            matches!(kind, "cgroup" | "cgroup2").then(|| mount.split(' ').nth(4))?
        })
        .map(PathBuf::from)
        .collect())
}

/// Removes a cgroup after those below it, which the container made.
fn remove_tree(cgroup: &Path, deadline: Instant) -> Result<()> {
    let entries = match fs::read_dir(cgroup) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.context("list cgroup", cgroup.display())?,
    };
    for entry in entries {
        let entry = entry.context("list cgroup", cgroup.display())?;
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path(), deadline)?;
        }
    }
    remove_one(cgroup, deadline)
}

/// A cgroup in use is left alone by the kernel: rmdir(2) refuses.
fn remove_one(cgroup: &Path, deadline: Instant) -> Result<()> {
    loop {
        match fs::remove_dir(cgroup) {
            Ok(()) => return Ok(()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) if is_busy(&e) && Instant::now() < deadline => thread::sleep(PAUSE),
            Err(e) => return Err(e).context("remove cgroup", cgroup.display()),
        }
    }
}

fn is_busy(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::EBUSY as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_paths_below_the_root_count() {
        assert_eq!(below_root(Path::new("/a/b")), Some(Path::new("a/b")));
        for other in ["", "/", "a/b", "/a/../b", "system.slice:containerd:a"] {
            assert_eq!(below_root(Path::new(other)), None, "{other:?}");
        }
    }

    #[test]
    fn systemd_makes_a_scope_of_prefix_and_name() {
        let scopes = |path: &str| scopes(Path::new(path), "id");
        assert_eq!(scopes("system.slice:cri-containerd:a"), ["cri-containerd-a.scope"]);
        assert_eq!(scopes(":runc:a"), ["runc-a.scope"]);
        assert_eq!(scopes("user.slice::a"), ["-a.scope", "a.scope"]);
        assert_eq!(scopes(""), ["runc-id.scope", "crun-id.scope"]);
        for other in ["/a/b", "a:b", "a:b:"] {
            assert!(scopes(other).is_empty(), "{other}");
        }
    }

    #[test]
    fn a_process_is_in_its_cgroup_only() {
        let bundle = tempfile::tempdir().unwrap();
        let own = fs::read_to_string("/proc/self/cgroup").unwrap();
        let own = own.lines().filter_map(|line| line.splitn(3, ':').nth(2));
        let names: Vec<_> = own.filter(|path| *path != "/").collect();
        let pid = std::process::id();
        for (path, expected) in
            names.into_iter().map(|path| (path, true)).chain([("/", false), ("/elsewhere", false)])
        {
            let config = format!("{{\"linux\":{{\"cgroupsPath\":\"{path}\"}}}}");
            fs::write(bundle.path().join("config.json"), config).unwrap();
            assert_eq!(contains(bundle.path(), pid).unwrap(), expected, "{path}");
        }
        assert!(contains(bundle.path(), u32::MAX).is_err());
    }

    #[test]
    fn what_is_empty_is_removed_from_each_hierarchy() {
        let name = format!("runtime-v2-left-{}", std::process::id());
        let made: Vec<_> = hierarchies()
            .unwrap()
            .into_iter()
            .map(|hierarchy| hierarchy.join(&name))
            .filter(|cgroup| fs::create_dir_all(cgroup.join("below/it")).is_ok())
            .collect();
        if made.is_empty() {
            eprintln!("skipped: no cgroup can be made here");
            return;
        }
        let bundle = tempfile::tempdir().unwrap();
        let config = format!("{{\"linux\":{{\"cgroupsPath\":\"/{name}\"}}}}");
        fs::write(bundle.path().join("config.json"), config).unwrap();
        remove(bundle.path()).unwrap();
        assert!(made.iter().all(|cgroup| !cgroup.exists()));
        // Nothing is left to do.
        remove(bundle.path()).unwrap();
    }
}
