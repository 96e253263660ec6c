//! This program's own file, out of reach for what it becomes part of.
//!
//! A process on its way into a container still is this program, and whoever is
//! inside can open it by `/proc/<pid>/exe`, or have it executed once more as
//! `/proc/self/exe`, with libraries of its own. If it could then write to that
//! file, the next one to start it would be root on the host (CVE-2019-5736). So
//! such a process runs from a mount of the file that only allows reading and
//! that is attached nowhere: no path leads to it, and nobody can change it.

use std::{
    ffi::{CString, OsString},
    fs::File,
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::ffi::OsStringExt,
    },
    path::PathBuf,
};

use nix::{
    fcntl::{FcntlArg, SealFlag, fcntl},
    sys::{
        memfd::{MFdFlags, memfd_create},
        statvfs::{FsFlags, statvfs},
    },
};

/// This program.
const SELF: &str = "/proc/self/exe";

/// Can nobody write to the file that this process runs from?
///
/// # Errors
/// When `/proc` is not there.
pub(crate) fn is_sealed() -> io::Result<bool> {
    if statvfs(SELF)?.flags().contains(FsFlags::ST_RDONLY) {
        return Ok(true);
    }
    // Only files in memory have seals; others refuse the question.
    let seals = fcntl(File::open(SELF)?, FcntlArg::F_GET_SEALS).unwrap_or_default();
    Ok(SealFlag::from_bits_truncate(seals).contains(SealFlag::F_SEAL_WRITE))
}

/// A way to execute this program from where nobody can write to it.
#[derive(Debug)]
pub(crate) struct Sealed(Option<OwnedFd>);

impl Sealed {
    /// # Errors
    /// When the file can neither be mounted nor copied.
    pub(crate) fn new() -> io::Result<Self> {
        if is_sealed()? {
            return Ok(Self(None));
        }
        // Where mounts cannot be cloned (before Linux 5.12) it costs a copy.
        containerd_mounts::sealed(SELF.as_ref()).or_else(|_| copy()).map(|file| Self(Some(file)))
    }

    /// What to execute, as long as `self` lives.
    pub(crate) fn path(&self) -> PathBuf {
        match &self.0 {
            Some(file) => format!("/proc/self/fd/{}", file.as_raw_fd()).into(),
            None => SELF.into(),
        }
    }
}

/// Goes on from where nobody can write to this program. Returns if that is so
/// already.
///
/// # Errors
/// Those of execve(2).
pub(crate) fn seal_self() -> io::Result<()> {
    let Sealed(Some(file)) = Sealed::new()? else { return Ok(()) };
    let words = |words: &mut dyn Iterator<Item = OsString>| {
        words.map(|word| CString::new(word.into_vec())).collect::<Result<Vec<_>, _>>()
    };
    let args = words(&mut std::env::args_os())?;
    let env = words(&mut std::env::vars_os().map(|(name, value)| {
        let mut entry = name;
        entry.push("=");
        entry.push(value);
        entry
    }))?;
    let flags = nix::fcntl::AtFlags::AT_EMPTY_PATH;
    let Err(error) = nix::unistd::execveat(&file, c"", &args, &env, flags);
    Err(error.into())
}

/// A copy in memory that cannot be changed any more.
fn copy() -> io::Result<OwnedFd> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let mut copy = File::from(memfd_create(c"containerd-shim", flags)?);
    io::copy(&mut File::open(SELF)?, &mut copy)?;
    let seals = SealFlag::F_SEAL_SEAL
        | SealFlag::F_SEAL_SHRINK
        | SealFlag::F_SEAL_GROW
        | SealFlag::F_SEAL_WRITE;
    fcntl(&copy, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(copy.into())
}
