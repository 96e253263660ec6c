//! Making and undoing mounts.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::fs::{DirBuilderExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    thread,
};

use caps::{CapSet, Capability};
use nix::{
    errno::Errno,
    fcntl::{OFlag, OpenHow, ResolveFlag, openat2},
    libc,
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
};
use shim_protocol::{Context, Error, ErrorKind, Result};

use crate::{idmap, mountinfo, options::Options, overlay, tree};

/// What mount(2) copies of its data: a page, with the final zero.
pub(crate) const MAX_DATA_BYTES: usize = 4095;

/// One mount(2) call, as the snapshotter describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mount {
    /// Filesystem type, such as "overlay" or "bind".
    pub kind: String,
    /// Device, folder or name; its meaning depends on the type.
    pub source: String,
    /// Where below the rootfs it goes; empty is the rootfs itself.
    pub target: String,
    /// Options in fstab's manner: flags and data mixed.
    pub options: Vec<String>,
}

/// Mounts all in order on `rootfs`, which is made if it is not there.
///
/// # Errors
/// When one fails, those before it are undone. `PermissionDenied` for a thread
/// without the capability to mount, `Unimplemented` for options that ask for
/// more than mount(2) does, `InvalidArgument` for too long ones.
pub fn mount_all(mounts: &[Mount], rootfs: &Path) -> Result<()> {
    if !mounts.is_empty() {
        expect_capability(Capability::CAP_SYS_ADMIN)?;
    }
    make_rootfs(rootfs)?;
    for mount in mounts {
        if let Err(error) = mount_one(mount, rootfs) {
            if let Err(undo) = unmount_all(rootfs) {
                tracing::error!(error = %undo.report(), "undo mounts");
            }
            return Err(error);
        }
    }
    Ok(())
}

/// Unmounts everything on and below `rootfs`; nothing there is fine.
///
/// # Errors
/// When something stays mounted: nothing below `rootfs` may be removed then.
pub fn unmount_all(rootfs: &Path) -> Result<()> {
    // Mounts are listed by their real path.
    let Some(rootfs) = real_path(rootfs)? else { return Ok(()) };
    let mounted = mountinfo::select(|entry| entry.point.starts_with(&rootfs))
        .context("list mounts below", rootfs.display())?;
    for entry in &mounted {
        isolate(&entry.point)?;
    }
    // What was mounted later may lie on what was mounted before.
    for entry in mounted.iter().rev() {
        unmount(&entry.point)?;
    }
    Ok(())
}

/// EPERM has other reasons too, so this one is told before anything is done.
fn expect_capability(capability: Capability) -> Result<()> {
    let has = caps::has_cap(None, CapSet::Effective, capability)
        .map_err(|e| Error::caused(ErrorKind::Internal, "read capabilities", e))?;
    match has {
        true => Ok(()),
        false => Err(Error::new(
            ErrorKind::PermissionDenied,
            format!("mounting needs {capability}, which this process does not have"),
        )),
    }
}

fn make_rootfs(rootfs: &Path) -> Result<()> {
    // Users in the container pass through it, but need not list it.
    match DirBuilder::new().mode(0o711).create(rootfs) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(error).context("create", rootfs.display())
        }
        _ => Ok(()),
    }
}

/// The path without symbolic links in the folders that lead to it; a link in
/// its place is refused. `None` when nothing is there.
fn real_path(path: &Path) -> Result<Option<PathBuf>> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_symlink() => {
            Err(Error::precondition(format!("{} is a symbolic link", path.display())))
        }
        Ok(_) => path.canonicalize().map(Some).context("resolve", path.display()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).context("examine", path.display()),
    }
}

/// A recursive bind mount of a shared folder is its twin: unmounting something
/// inside would unmount the original as well (mount_namespaces(7)).
fn isolate(target: &Path) -> Result<()> {
    let none = None::<&str>;
    match mount(none, target, none, MsFlags::MS_SLAVE, none) {
        // Not a mount any more, or not there: somebody was faster.
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => Ok(()),
        Err(errno) => Err(io::Error::from(errno)).context("isolate", target.display()),
    }
}

fn unmount(target: &Path) -> Result<()> {
    let result = umount2(target, MntFlags::UMOUNT_NOFOLLOW).or_else(|errno| match errno {
        // Somebody looks into it. Detached, it goes when they leave.
        Errno::EBUSY => umount2(target, MntFlags::UMOUNT_NOFOLLOW | MntFlags::MNT_DETACH),
        errno => Err(errno),
    });
    match result {
        // Not a mount any more, or not there: somebody was faster.
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => Ok(()),
        Err(errno) => Err(io::Error::from(errno)).context("unmount", target.display()),
    }
}

fn mount_one(request: &Mount, rootfs: &Path) -> Result<()> {
    let options = Options::parse(&request.options)?;
    let describe = || format!("{} {:?} on {}", request.kind, request.source, rootfs.display());
    let open = || open_target(rootfs, &request.target).context("open target of", describe());
    match &options.mapping {
        Some(mapping) if request.kind == "overlay" => {
            let tree = idmap::overlay(options.flags, &options.data, mapping);
            attach(&tree.context("mount", describe())?, &open()?)?;
        }
        mapping => {
            call(request, options.mount_flags(), &options.data, open()?)
                .context("mount", describe())?;
            if let Some(mapping) = mapping {
                let mounted = open()?;
                let tree = idmap::remap(&mounted, mapping).context("mount", describe())?;
                let point = fs::read_link(by_descriptor(&mounted));
                drop(mounted);
                unmount(&point.context("find", describe())?)?;
                attach(&tree, &open()?)?;
            }
        }
    }
    // The target is opened anew: the descriptor above is of the folder below.
    if let Some(flags) = options.bind_remount() {
        change(&open()?, flags).context("remount", describe())?;
    }
    if !options.propagation.is_empty() {
        change(&open()?, options.propagation).context("set propagation of", describe())?;
    }
    Ok(())
}

/// The mount call itself, from a short-lived thread in another folder when
/// the data is too long for one page.
fn call(request: &Mount, flags: MsFlags, data: &[String], target: OwnedFd) -> Result<()> {
    let joined = data.join(",");
    if joined.len() <= MAX_DATA_BYTES {
        return raw(request, flags, &joined, &target);
    }
    let shortened = if request.kind == "overlay" { overlay::shorten(data) } else { None };
    let Some((base, data)) = shortened else { return Err(too_long(joined.len())) };
    let joined = data.join(",");
    if joined.len() > MAX_DATA_BYTES {
        return Err(too_long(joined.len()));
    }
    thread::scope(|scope| {
        let mount = scope.spawn(|| {
            // The working folder of this thread only, not of the process.
            unshare(CloneFlags::CLONE_FS).map_err(io::Error::from).context("unshare", "folder")?;
            nix::unistd::chdir(&base).map_err(io::Error::from).context("enter", base.display())?;
            raw(request, flags, &joined, &target)
        });
        mount.join().unwrap_or_else(|_| Err(Error::internal("mount thread panicked")))
    })
}

fn too_long(length: usize) -> Error {
    Error::invalid(format!("mount data has {length} bytes, {MAX_DATA_BYTES} are possible"))
}

fn raw(request: &Mount, flags: MsFlags, data: &str, target: &OwnedFd) -> Result<()> {
    let none_if_empty = |text| Some(text).filter(|text: &&str| !text.is_empty());
    let source = none_if_empty(request.source.as_str());
    let kind = none_if_empty(request.kind.as_str());
    mount(source, by_descriptor(target).as_path(), kind, flags, none_if_empty(data)).map_err(
        |errno| {
            let kind = match errno {
                Errno::EINVAL | Errno::ENODEV => ErrorKind::InvalidArgument,
                Errno::ENOENT | Errno::ENOTDIR => ErrorKind::FailedPrecondition,
                errno => shim_protocol::error::io_kind(&errno.into()),
            };
            Error::caused(kind, "mount(2)", errno)
        },
    )
}

fn change(target: &OwnedFd, flags: MsFlags) -> io::Result<()> {
    let none = None::<&str>;
    Ok(mount(none, by_descriptor(target).as_path(), none, flags, none)?)
}

/// A path that leads to what is open, however the names change meanwhile.
fn by_descriptor(fd: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

/// Opens `target` below `rootfs` as if that were the root: symbolic links in
/// the image cannot lead out of it. The top one, where mounts are stacked.
fn open_target(rootfs: &Path, target: &str) -> io::Result<OwnedFd> {
    let rootfs: File = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_NOFOLLOW | libc::O_DIRECTORY)
        .open(rootfs)?;
    if target.is_empty() || target == "/" {
        return Ok(rootfs.into());
    }
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    Ok(openat2(&rootfs, target, how)?)
}

fn attach(tree: &OwnedFd, target: &OwnedFd) -> Result<()> {
    tree::attach(tree.as_fd(), target.as_fd()).context("attach", "a mount")
}
