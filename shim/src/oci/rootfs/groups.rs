//! What a container sees of control groups.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use containerd_mounts::{
    attributes::{self, Attributes},
    tree::{self, Depth},
};
use nix::libc;
use oci_spec::runtime::Mount;
use rustix::{io::Errno, mount::MountFlags};
use shim_protocol::{Context, Error, Result};

use super::{
    mounts::{self, Place},
    options::Options,
};

/// No program and no device belongs there.
const FLAGS: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);

/// Mounts the control groups: one tree, or a folder with one
/// hierarchy in each of its folders.
pub(super) fn mount(place: &Place<'_>, spec: &Mount, options: &Options) -> Result<()> {
    let point = spec.destination();
    let target = place.root.folder(point).context("find", "the mount point")?;
    mounts::check(spec, target.as_fd(), false)?;
    match place.groups.is_unified() {
        true => unified(place, &target, options),
        false => hierarchies(place, point, &target, options),
    }
}

fn unified(place: &Place<'_>, target: &OwnedFd, options: &Options) -> Result<()> {
    let (source, link) = (Path::new("cgroup"), mounts::link(target.as_fd()));
    let flags = options.mount_flags();
    match rustix::mount::mount(source, link, "cgroup2", flags, None) {
        // Who is root of a user namespace only may not, or not with another view.
        Err(Errno::PERM | Errno::BUSY) => {
            let own = place.groups.unified().ok_or_else(|| Error::internal("no group"))?;
            let tree = tree::clone_path(own, Depth::All).context("clone", own.display())?;
            attributes::change(tree.as_fd(), options.own, false).context("set", "its options")?;
            tree::attach(tree.as_fd(), target.as_fd()).context("attach", own.display())
        }
        mounted => mounted.map_err(io::Error::from).context("mount", "cgroup2"),
    }
}

fn hierarchies(place: &Place<'_>, point: &Path, target: &OwnedFd, options: &Options) -> Result<()> {
    let mode = ["mode=755".to_owned()];
    mounts::filesystem(Path::new("tmpfs"), target.as_fd(), "tmpfs", FLAGS, &mode)?;
    let folder = place.root.open(point).context("open", "the mount")?;
    for (controllers, group) in place.groups.hierarchies() {
        let name = controllers.strip_prefix("name=").unwrap_or(controllers);
        let target = place.root.folder(&point.join(name)).context("make", name)?;
        match place.has_group_namespace {
            true => {
                let data = [controllers.to_owned()];
                let source = Path::new("cgroup");
                mounts::filesystem(source, target.as_fd(), "cgroup", FLAGS, &data)?;
            }
            false => {
                let tree = tree::clone_path(group, Depth::All).context("clone", group.display())?;
                tree::attach(tree.as_fd(), target.as_fd()).context("attach", group.display())?;
            }
        }
        // Each controller is found by its own name, too.
        for controller in name.split(',').filter(|controller| *controller != name) {
            rustix::fs::symlinkat(name, &folder, controller)
                .map_err(io::Error::from)
                .context("link", controller)?;
        }
    }
    if options.own.has(libc::MOUNT_ATTR_RDONLY) {
        // Else a container could lift its own limits.
        let read_only = Attributes::READ_ONLY;
        attributes::change(folder.as_fd(), read_only, true).context("protect", "the groups")?;
    }
    Ok(())
}
