//! The mounts that a configuration lists, one after the other.

use std::{
    ffi::CString,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::{Component, Path, PathBuf},
};

use containerd_mounts::{
    attributes,
    tree::{self, Depth},
};
use nix::libc;
use oci_spec::runtime::Mount;
use rustix::{
    fs::{FileType, PROC_SUPER_MAGIC, fstat, fstatfs},
    mount::{MountFlags, mount, mount_change},
};
use shim_protocol::{Context, Error, ErrorKind, Result};

use super::{copy, groups, options::Options, root::Root};
use crate::oci::cgroup::Groups;

/// Files of `/proc` that may be mounted on: none of them says anything about
/// who a process is or what it may do. The list is runc's
/// (`libcontainer/rootfs_linux.go`, `checkProcMount`).
const HARMLESS: [&str; 11] = [
    "cpuinfo",
    "diskstats",
    "meminfo",
    "stat",
    "swaps",
    "uptime",
    "loadavg",
    "slabinfo",
    "sys/kernel/ns_last_pid",
    "sys/crypto/fips_enabled",
    "net/dev",
];

const TMPFS: &str = "tmpfs";
const MODE_BITS: u32 = 0o7777;

/// What mounts are made in.
pub(super) struct Place<'a> {
    pub(super) root: &'a Root,
    /// The container's groups, and whether they are all that it sees.
    pub(super) groups: &'a Groups,
    pub(super) has_group_namespace: bool,
}

/// Is it a part of the tree that is there already?
pub(super) fn is_bind(mount: &Mount) -> bool {
    let words = mount.options().iter().flatten();
    mount.typ().as_deref() == Some("bind") || Options::parse(words).bind.is_some()
}

/// The source of a bind mount, as a mount that is attached nowhere. Relative
/// paths start at the bundle.
///
/// # Errors
/// `InvalidArgument` when it is not there.
pub(in crate::oci) fn source(mount: &Mount, bundle: &Path) -> Result<OwnedFd> {
    let options = Options::parse(mount.options().iter().flatten());
    let path = mount.source().as_deref().unwrap_or(Path::new(""));
    if path.as_os_str().is_empty() {
        return Err(Error::invalid(format!("{}: no source", name(mount))));
    }
    let depth = if options.bind == Some(true) { Depth::All } else { Depth::One };
    tree::clone_path(&bundle.join(path), depth).context_as(
        ErrorKind::InvalidArgument,
        "mount",
        format_args!("{} from {}", name(mount), path.display()),
    )
}

/// Makes one mount. `tree` is the source of a bind mount. What is to be
/// read-only once everything is in its place is returned.
///
/// # Errors
/// `InvalidArgument` for what the kernel refuses.
pub(super) fn make(
    place: &Place<'_>,
    mount: &Mount,
    tree: Option<OwnedFd>,
) -> Result<Option<OwnedFd>> {
    make_one(place, mount, tree).context("make", name(mount))
}

/// How a mount is named in errors.
pub(super) fn name(mount: &Mount) -> String {
    format!("mounts[{}]", mount.destination().display())
}

fn make_one(place: &Place<'_>, spec: &Mount, tree: Option<OwnedFd>) -> Result<Option<OwnedFd>> {
    let mut options = Options::parse(spec.options().iter().flatten());
    let point = spec.destination();
    if let Some(tree) = tree {
        return bind(place, spec, &options, tree).map(|()| None);
    }
    let kind = spec.typ().as_deref().unwrap_or_default();
    if options.copies_up && kind != TMPFS {
        return Err(Error::invalid("tmpcopyup is for tmpfs"));
    }
    if kind == "cgroup" {
        groups::mount(place, spec, &options)?;
        return Ok(None);
    }
    if kind == TMPFS {
        keep_mode(place.root, point, &mut options)?;
    }
    let target = match kind {
        // Nothing may pretend to be them, so the way to them has no links.
        "proc" | "sysfs" => plain_folder(place.root, point, kind)?,
        _ => place.root.folder(point).context("find", "the mount point")?,
    };
    check(spec, target.as_fd(), false)?;
    // What comes later may need a place in it.
    let waits = options.own.has(libc::MOUNT_ATTR_RDONLY) && (kind == TMPFS || is_dev(point));
    if waits {
        options.own = options.own.without(libc::MOUNT_ATTR_RDONLY);
    }
    let source = spec.source().as_deref().unwrap_or(Path::new(kind));
    filesystem(source, target.as_fd(), kind, options.mount_flags(), &options.data)?;
    let is_done = !options.copies_up && options.deep == Default::default();
    if !waits && is_done && options.propagation.is_empty() {
        return Ok(None);
    }
    let made = place.root.open(point).context("open", "the mount")?;
    if options.copies_up {
        copy::copy(target.as_fd(), made.as_fd()).context("fill", "it: tmpcopyup")?;
    }
    attributes::change(made.as_fd(), options.deep, true).context("change", "all mounts in it")?;
    propagate(made.as_fd(), &options)?;
    Ok(waits.then_some(made))
}

/// A tmpfs has the mode of the folder that it is mounted on, if it is to have no
/// other, as with runc.
fn keep_mode(root: &Root, point: &Path, options: &mut Options) -> Result<()> {
    if options.data.iter().any(|word| word.starts_with("mode=")) {
        return Ok(());
    }
    let found = match root.open(point) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found.context("find", "the mount point")?,
    };
    let mode = fstat(&found).map_err(io::Error::from).context("look at", "the mount point")?;
    options.data.push(format!("mode={:o}", mode.st_mode & MODE_BITS));
    Ok(())
}

/// Mounts a filesystem of its own.
pub(super) fn filesystem(
    source: &Path,
    target: BorrowedFd<'_>,
    kind: &str,
    flags: MountFlags,
    data: &[String],
) -> Result<()> {
    let words =
        CString::new(data.join(",")).map_err(|_| Error::invalid("options: one has a zero byte"))?;
    let data = (!words.is_empty()).then_some(&*words);
    mount(source, link(target), kind, flags, data).map_err(io::Error::from).context_as(
        ErrorKind::InvalidArgument,
        "mount",
        format_args!("{kind}, options {words:?}"),
    )
}

fn bind(place: &Place<'_>, spec: &Mount, options: &Options, tree: OwnedFd) -> Result<()> {
    let point = spec.destination();
    let is_folder = is_folder(tree.as_fd()).context("look at", "the source")?;
    let target = match is_folder {
        true => place.root.folder(point),
        false => place.root.file(point),
    };
    let target = target.context("find", "the mount point")?;
    let is_proc = on_proc(tree.as_fd()).context("look at", "the source")?;
    check(spec, target.as_fd(), is_proc)?;
    let change = |attributes, recursive| attributes::change(tree.as_fd(), attributes, recursive);
    change(options.own, false).context_as(ErrorKind::InvalidArgument, "set", "its options")?;
    change(options.deep, true).context_as(ErrorKind::InvalidArgument, "set", "its options")?;
    tree::attach(tree.as_fd(), target.as_fd()).context("attach", "it")?;
    propagate(tree.as_fd(), options)
}

fn propagate(made: BorrowedFd<'_>, options: &Options) -> Result<()> {
    options.propagation.iter().try_for_each(|kind| {
        mount_change(link(made), *kind).map_err(io::Error::from).context_as(
            ErrorKind::InvalidArgument,
            "set",
            "how it follows others",
        )
    })
}

fn plain_folder(root: &Root, point: &Path, kind: &str) -> Result<OwnedFd> {
    let found = match root.open_plain(point) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            root.folder(point).and_then(|_| root.open_plain(point))
        }
        found => found,
    };
    found.context_as(
        ErrorKind::InvalidArgument,
        "find",
        format_args!("the mount point: {kind} must be mounted on an ordinary folder"),
    )
}

/// A mount over a part of `/proc` could make a process there believe, and tell
/// the kernel, what is not so (CVE-2019-16884, CVE-2019-19921).
pub(super) fn check(spec: &Mount, target: BorrowedFd<'_>, is_proc: bool) -> Result<()> {
    let refuse = |why: &str| Err(Error::invalid(format!("mount over /proc: {why}")));
    if normal(spec.destination()) == Path::new("proc") {
        return match is_proc || spec.typ().as_deref() == Some("proc") {
            true => Ok(()),
            false => refuse("it is no proc filesystem"),
        };
    }
    if !on_proc(target).context("look at", "the mount point")? {
        return Ok(());
    }
    // Its name says what it is: where links lead elsewhere, it is not this one.
    let path = normal(spec.destination());
    match path
        .strip_prefix("proc")
        .is_ok_and(|file| HARMLESS.iter().any(|name| file == Path::new(name)))
    {
        true => Ok(()),
        false => refuse("it is inside of it"),
    }
}

fn on_proc(file: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(fstatfs(file)?.f_type == PROC_SUPER_MAGIC)
}

pub(super) fn is_folder(file: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(FileType::from_raw_mode(fstat(file)?.st_mode) == FileType::Directory)
}

pub(super) fn is_dev(point: &Path) -> bool {
    normal(point) == Path::new("dev")
}

/// A path by its words, without a slash before it.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => normal.push(name),
            Component::ParentDir => drop(normal.pop()),
            _ => {}
        }
    }
    normal
}

/// The path of a descriptor of this process.
pub(super) fn link(fd: BorrowedFd<'_>) -> PathBuf {
    format!("/proc/self/fd/{}", fd.as_raw_fd()).into()
}
