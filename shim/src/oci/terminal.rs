//! The terminal of a container's process: made inside, and its controlling side
//! sent to whoever holds the container's streams.

use std::{
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
};

use containerd_mounts::tree::{self, Depth};
use oci_spec::runtime::Box as Size;
use rustix::{
    fs::{FileType, Mode, OFlags, fstat, fstatfs, major, minor, open, openat},
    pty::unlockpt,
    stdio::{dup2_stderr, dup2_stdin, dup2_stdout},
};
use shim_protocol::{Context, Result};

use crate::sys::{fd, tty};

/// Where a new terminal comes from.
const SOURCE: &str = "/dev/ptmx";
/// Its device (`include/uapi/linux/major.h`, TTYAUX_MAJOR; `fs/devpts/inode.c`).
const SOURCE_NUMBERS: (u32, u32) = (5, 2);
/// `include/uapi/linux/magic.h`, DEVPTS_SUPER_MAGIC.
const DEVPTS: i64 = 0x1cd1;

/// Makes a terminal in the calling process's root, whose session it becomes the
/// terminal of, and whose standard streams. With `console` it is also what
/// `/dev/console` is.
///
/// # Errors
/// When the root has no devpts.
pub(super) fn make(socket: &UnixStream, size: Option<&Size>, console: bool) -> Result<()> {
    let master = open_master().context("open", SOURCE)?;
    let slave = tty::open_peer(master.as_fd()).context("open", "the terminal")?;
    if let Some(size) = size {
        let limited = |length: u64| u16::try_from(length).unwrap_or(u16::MAX);
        tty::resize(master.as_fd(), limited(size.width()), limited(size.height()))
            .context("set", "process.consoleSize")?;
    }
    if console {
        cover_console(slave.as_fd()).context("mount", "/dev/console")?;
    }
    // With the terminal's name, as runc has it.
    fd::send(socket.as_fd(), SOURCE.as_bytes(), &[master.as_fd()])
        .context("send", "the terminal")?;
    let connect = || -> io::Result<()> {
        rustix::process::ioctl_tiocsctty(&slave)?;
        dup2_stdin(&slave)?;
        dup2_stdout(&slave)?;
        Ok(dup2_stderr(&slave)?)
    };
    connect().context("take", "the terminal")
}

/// A container may have put anything at that name (CVE-2025-52565).
fn open_master() -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let master = open(SOURCE, flags, Mode::empty())?;
    let found = fstat(&master)?;
    let numbers = (major(found.st_rdev), minor(found.st_rdev));
    let is_device = FileType::from_raw_mode(found.st_mode) == FileType::CharacterDevice;
    if !is_device || numbers != SOURCE_NUMBERS || fstatfs(&master)?.f_type != DEVPTS {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is no source of terminals"));
    }
    unlockpt(&master)?;
    // Whoever gets it waits as it likes.
    rustix::io::ioctl_fionbio(&master, false)?;
    Ok(master)
}

fn cover_console(slave: BorrowedFd<'_>) -> io::Result<()> {
    let dev = open("/dev", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let file = OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    // Whatever is there already will do; a link is covered itself.
    match openat(&dev, "console", file | OFlags::EXCL, Mode::from_raw_mode(0o600)) {
        Err(rustix::io::Errno::EXIST) => {}
        made => drop(made?),
    }
    let target =
        openat(&dev, "console", OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    tree::attach(tree::clone_open(slave, Depth::One)?.as_fd(), target.as_fd())
}
