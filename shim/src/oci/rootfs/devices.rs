//! `/dev`: devices, and the links that programs expect.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use containerd_mounts::tree::{self, Depth};
use oci_spec::runtime::{LinuxDevice, LinuxDeviceType};
use rustix::{
    fs::{
        AtFlags, FileType, Gid, Mode, OFlags, Uid, access, chownat, makedev, mknodat, openat,
        symlinkat, unlinkat,
    },
    io::Errno,
    process::umask,
};
use shim_protocol::{Context, Error, ErrorKind, Result};

use super::root::Root;

/// What each container has (OCI runtime specification, `config-linux.md`,
/// "Default Devices"), by major and minor number.
const DEFAULT: [(&str, u32, u32); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];
/// Who may do what with a device, if nothing is said.
const MODE: u32 = 0o666;
const LINKS: [(&str, &str); 4] = [
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
];

/// Fills `/dev`. In a user namespace no device can be made, so the host's are
/// mounted there.
///
/// # Errors
/// `InvalidArgument` for what is no device.
pub(super) fn make(root: &Root, asked: &[LinuxDevice], in_user_namespace: bool) -> Result<()> {
    // Modes are as they are asked for.
    let old = umask(Mode::empty());
    let made = make_all(root, asked, in_user_namespace);
    umask(old);
    made?;
    link(root).context("link", "what is in /dev")
}

fn make_all(root: &Root, asked: &[LinuxDevice], in_user_namespace: bool) -> Result<()> {
    for device in asked {
        let path = device.path();
        let number = |number: i64| u32::try_from(number).unwrap_or_default();
        // Each container has one of its own, see below.
        if path == Path::new("/dev/ptmx") {
            continue;
        }
        let kind = match device.typ() {
            LinuxDeviceType::C | LinuxDeviceType::U => FileType::CharacterDevice,
            LinuxDeviceType::B => FileType::BlockDevice,
            LinuxDeviceType::P => FileType::Fifo,
            LinuxDeviceType::A => {
                let what = format!("linux.devices[{}].type: \"a\"", path.display());
                return Err(Error::invalid(what));
            }
        };
        let node = Node {
            path,
            kind,
            mode: device.file_mode().unwrap_or(MODE),
            numbers: (number(device.major()), number(device.minor())),
            owner: (device.uid().unwrap_or_default(), device.gid().unwrap_or_default()),
        };
        node.make(root, in_user_namespace)?;
    }
    let others = DEFAULT
        .iter()
        .filter(|(path, ..)| !asked.iter().any(|device| device.path() == Path::new(path)));
    for (path, major, minor) in others {
        let node = Node {
            path: Path::new(path),
            kind: FileType::CharacterDevice,
            mode: MODE,
            numbers: (*major, *minor),
            owner: (0, 0),
        };
        node.make(root, in_user_namespace)?;
    }
    Ok(())
}

struct Node<'a> {
    path: &'a Path,
    kind: FileType,
    mode: u32,
    numbers: (u32, u32),
    owner: (u32, u32),
}

impl Node<'_> {
    fn make(&self, root: &Root, in_user_namespace: bool) -> Result<()> {
        let what = || format!("linux.devices[{}]", self.path.display());
        let made = match in_user_namespace {
            true => Err(Errno::PERM.into()),
            false => self.make_node(root),
        };
        match made {
            // One that is there is taken for the one, as by runc.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                self.bind(root).context("mount", what())
            }
            made => made.context_as(ErrorKind::InvalidArgument, "make", what()),
        }
    }

    fn make_node(&self, root: &Root) -> io::Result<()> {
        let (folder, name) = root.above(self.path)?;
        let (major, minor) = self.numbers;
        let mode = Mode::from_raw_mode(self.mode & 0o7777);
        mknodat(&folder, name, self.kind, mode, makedev(major, minor))?;
        if self.owner != (0, 0) {
            let (user, group) = (Uid::from_raw(self.owner.0), Gid::from_raw(self.owner.1));
            chownat(&folder, name, Some(user), Some(group), AtFlags::SYMLINK_NOFOLLOW)?;
        }
        Ok(())
    }

    fn bind(&self, root: &Root) -> io::Result<()> {
        let device = tree::clone_path(self.path, Depth::One)?;
        tree::attach(device.as_fd(), root.file(self.path)?.as_fd())
    }
}

fn link(root: &Root) -> io::Result<()> {
    let dev = root.folder(Path::new("/dev"))?;
    let make = |target: &str, name: &str| match symlinkat(target, &dev, name) {
        Err(Errno::EXIST) => Ok(()),
        made => made,
    };
    for (target, name) in LINKS {
        make(target, name)?;
    }
    if access("/proc/kcore", rustix::fs::Access::EXISTS).is_ok() {
        make("/proc/kcore", "core")?;
    }
    match unlinkat(&dev, "ptmx", AtFlags::empty()) {
        Err(Errno::NOENT) => {}
        removed => removed?,
    }
    make("pts/ptmx", "ptmx")?;
    Ok(())
}

/// The container's `/dev/null`, opened by its name.
///
/// # Errors
/// `InvalidData` when something else is there.
pub(in crate::oci) fn null() -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
    let file = openat(rustix::fs::CWD, "/dev/null", flags, Mode::empty())?;
    match is_null(file.as_fd())? {
        true => Ok(file),
        // An image may have it (CVE-2025-31133).
        false => Err(io::Error::new(io::ErrorKind::InvalidData, "/dev/null is something else")),
    }
}

/// Is it the device that swallows everything?
pub(in crate::oci) fn is_null(file: std::os::fd::BorrowedFd<'_>) -> io::Result<bool> {
    let found = rustix::fs::fstat(file)?;
    let kind = FileType::from_raw_mode(found.st_mode);
    Ok(kind == FileType::CharacterDevice && found.st_rdev == makedev(1, 3))
}
