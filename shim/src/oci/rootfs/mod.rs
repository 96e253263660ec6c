//! The container's own tree of files: mounted, filled, and made the root of the
//! process that is about to be the container.
//!
//! ```text
//!   follow, not lead ─▶ root, mounts, /dev ─▶ (hooks) ─▶ pivot_root ─▶ hide
//! ```
//!
//! Until pivot_root the host's files are in reach, and the image's are those of
//! whoever made it: no path of the container is walked but by [`root::Root`].
//! Afterwards there is nothing else left to reach.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use containerd_mounts::attributes::{self, Attributes};
use oci_spec::runtime::{Linux, Spec};
use rustix::{
    fs::{fstat, stat},
    io::Errno,
    mount::{
        MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, mount_move, unmount,
    },
    process::{chdir, chroot, fchdir, pivot_root},
};
use shim_protocol::{Context, Error, Result};

use super::{cgroup::Groups, process, spec::Config};

mod copy;
pub(super) mod devices;
mod groups;
mod hide;
mod idmap;
mod mounts;
mod options;
mod root;

use idmap::Namespaces;
use mounts::{Place, is_bind, source};
pub(super) use root::Root;

/// What the tree is made of.
pub(super) struct Plan<'a> {
    pub(super) spec: &'a Spec,
    pub(super) linux: &'a Linux,
    /// The folder of the image.
    pub(super) path: &'a Path,
    pub(super) bundle: &'a Path,
    pub(super) groups: &'a Groups,
    pub(super) has_group_namespace: bool,
    pub(super) in_user_namespace: bool,
    /// Sources of bind mounts that were opened before, by their mounts' numbers.
    pub(super) sources: Vec<Option<OwnedFd>>,
    pub(super) no_pivot_root: bool,
}

/// The tree, before the process is in it.
pub(super) struct Tree {
    root: Root,
    /// Mounts that are to be read-only in the end.
    read_only: Vec<OwnedFd>,
}

/// Mounts everything in a mount namespace that is the calling process's own.
///
/// # Errors
/// `InvalidArgument` for what the configuration has wrong.
pub(super) fn make(plan: &mut Plan<'_>) -> Result<Tree> {
    if follow(plan).context("set", "linux.rootfsPropagation")? == Leads::Yes {
        part(plan.path).context("separate", plan.path.display())?;
    }
    // A mount of its own, with whatever is mounted in it: only such a one can be
    // a root.
    rustix::mount::mount_bind_recursive(plan.path, plan.path)
        .map_err(io::Error::from)
        .context("mount", plan.path.display())?;
    let root = Root::at(plan.path).context("open", plan.path.display())?;
    let place =
        Place { root: &root, groups: plan.groups, has_group_namespace: plan.has_group_namespace };
    let mut sources = std::mem::take(&mut plan.sources).into_iter();
    let mut read_only = Vec::new();
    let mut brings_devices = false;
    for mount in plan.spec.mounts().iter().flatten() {
        let tree = match sources.next().flatten() {
            None if is_bind(mount) => Some(source(mount, plan.bundle)?),
            tree => tree,
        };
        brings_devices |= tree.is_some() && mounts::is_dev(mount.destination());
        read_only.extend(mounts::make(&place, mount, tree)?);
    }
    // A /dev of the host is complete, and not ours to change, by whatever way it came.
    if !brings_devices && !is_hosts_dev(&root).context("look at", "/dev")? {
        let asked = plan.linux.devices().as_deref().unwrap_or_default();
        devices::make(&root, asked, plan.in_user_namespace)?;
    }
    Ok(Tree { root, read_only })
}

fn is_hosts_dev(root: &Root) -> io::Result<bool> {
    let dev = Path::new("/dev");
    match root.open(dev) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        found => Ok(fstat(found?)?.st_dev == stat(dev)?.st_dev),
    }
}

/// The sources of bind mounts that have to be opened by whoever makes the
/// container, by the number of their mount: those with ids of their own; in a
/// user namespace all of them, as its root may not get to what we get to.
///
/// # Errors
/// `InvalidArgument` when one is not there, or for mappings that make no sense;
/// `FailedPrecondition` when its filesystem maps no ids.
pub(super) fn sources(
    config: &Config,
    bundle: &Path,
    from: &process::Place,
) -> Result<Vec<Option<OwnedFd>>> {
    let new = from.has_new_user().then_some(&config.linux);
    let mut namespaces = Namespaces::new(new, from.user_namespace());
    let mut open = |mount| -> Result<Option<OwnedFd>> {
        let is_mapped = idmap::is_asked(mount);
        if is_mapped {
            idmap::require_bind(mount)?;
        }
        let is_needed = is_mapped || from.has_user() && is_bind(mount);
        if !is_needed {
            return Ok(None);
        }
        let tree = source(mount, bundle)?;
        if is_mapped {
            idmap::map(&tree, mount, &mut namespaces)?;
        }
        // What happens to it in the container must not come back.
        attributes::follow(tree.as_fd()).context("part", mounts::name(mount))?;
        Ok(Some(tree))
    };
    config.spec.mounts().iter().flatten().map(&mut open).collect()
}

/// What the configuration wants the root mount to be, in all that is there now:
/// at least, nothing that happens here shows elsewhere unless that is wanted.
fn follow(plan: &Plan<'_>) -> Result<Leads> {
    let kind = match plan.linux.rootfs_propagation().as_deref().unwrap_or_default() {
        "" => MountPropagationFlags::DOWNSTREAM,
        // That is for the new root alone, in the end.
        "unbindable" | "runbindable" => MountPropagationFlags::DOWNSTREAM,
        word => options::propagation(word)
            .ok_or_else(|| Error::invalid(format!("{word:?} is no such thing")))?,
    };
    mount_change("/", kind | MountPropagationFlags::REC)
        .map_err(io::Error::from)
        .context("change", "all mounts")?;
    Ok(if kind.contains(MountPropagationFlags::SHARED) { Leads::Yes } else { Leads::No })
}

/// Whether mounts are such that others follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leads {
    Yes,
    No,
}

/// Has the mount that a folder is in lead nobody: pivot_root(2) wants that.
fn part(path: &Path) -> io::Result<()> {
    // Which of the folders above is one has to be tried.
    for folder in path.ancestors() {
        match mount_change(folder, MountPropagationFlags::PRIVATE) {
            Err(Errno::INVAL) => {}
            changed => return Ok(changed?),
        }
    }
    Ok(())
}

/// Makes the tree the root of this process.
///
/// # Errors
/// Those of the kernel.
pub(super) fn enter(plan: &Plan<'_>, tree: Tree) -> Result<()> {
    let Tree { root, read_only } = tree;
    match plan.no_pivot_root {
        true => move_root(plan.path, &root).context("move", "the root"),
        false => pivot(&root).context("pivot_root to", plan.path.display()),
    }?;
    let kind = plan.linux.rootfs_propagation().as_deref().and_then(options::propagation);
    // What follows or is private has been so from the start.
    let late = MountPropagationFlags::SHARED | MountPropagationFlags::UNBINDABLE;
    if let Some(kind) = kind.filter(|kind| kind.intersects(late)) {
        mount_change("/", kind - MountPropagationFlags::REC)
            .map_err(io::Error::from)
            .context("set", "linux.rootfsPropagation")?;
    }
    for mount in read_only {
        attributes::change(mount.as_fd(), Attributes::READ_ONLY, false)
            .context("set", "a mount read-only")?;
    }
    Ok(())
}

/// Protects what the container must not see or change. Only now, because what
/// comes before may need it.
///
/// # Errors
/// `InvalidArgument` for what the configuration has wrong.
pub(super) fn finish(plan: &Plan<'_>) -> Result<()> {
    for (name, value) in plan.linux.sysctl().iter().flatten() {
        hide::set_parameter(name, value)?;
    }
    if plan.spec.root().as_ref().is_some_and(|root| root.readonly() == Some(true)) {
        let root = root::here(Path::new("/")).context("open", "the root")?;
        attributes::change(root.as_fd(), Attributes::READ_ONLY, false)
            .context("set", "root.readonly")?;
    }
    let paths = plan.linux.readonly_paths().iter().flatten();
    paths.map(Path::new).try_for_each(hide::protect)?;
    hide::mask(plan.linux.masked_paths().iter().flatten())
}

fn pivot(root: &Root) -> io::Result<()> {
    let old = root::here(Path::new("/"))?;
    fchdir(root.fd())?;
    // The old root is then on top of the new one, and can be taken off.
    pivot_root(".", ".")?;
    fchdir(&old)?;
    mount_change(".", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?;
    unmount(".", UnmountFlags::DETACH)?;
    Ok(chdir("/")?)
}

/// For a root that is no mount, as that of an initramfs: what was there before
/// stays below, with the host's `/proc` and `/sys` taken away.
fn move_root(path: &Path, root: &Root) -> io::Result<()> {
    fchdir(root.fd())?;
    for name in ["/proc", "/sys"] {
        match unmount(name, UnmountFlags::DETACH) {
            // It is no mount, or one that must not be taken off.
            Err(Errno::INVAL | Errno::PERM) => {
                mount("tmpfs", name, "tmpfs", MountFlags::RDONLY, Some(c"size=0k"))?;
            }
            unmounted => unmounted?,
        }
    }
    mount_move(path, "/")?;
    chroot(".")?;
    Ok(chdir("/")?)
}
