//! The working directory of a container's process.

use std::{io, path::Path};

use shim_protocol::{Context, Error, ErrorKind, Result};

use super::rootfs::Root;

/// Makes it in the calling process's root if it is not there, as runc does.
///
/// # Errors
/// Those of the file system.
pub(super) fn make(cwd: &Path) -> Result<()> {
    let made = Root::at(Path::new("/")).and_then(|root| root.folder(cwd));
    made.context("make", format_args!("process.cwd {}", cwd.display())).map(drop)
}

/// Goes there. No link of the kernel is followed: one may lead to a folder of
/// the host that this process still has open (CVE-2024-21626).
///
/// # Errors
/// `PermissionDenied` when another user could do better; in any case with
/// runc's words.
pub(super) fn enter(cwd: &Path) -> Result<Entered> {
    let go = || -> io::Result<()> {
        let folder = Root::at(Path::new("/"))?.open(cwd)?;
        Ok(rustix::process::fchdir(folder)?)
    };
    match go() {
        Ok(()) => Ok(Entered::Yes),
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Ok(Entered::Denied),
        Err(e) => Err(failed(cwd, e)),
    }
}

/// Whether a process is where it wants to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entered {
    Yes,
    /// Another user may get there.
    Denied,
}

/// The error of the last one who may try.
pub(super) fn denied(cwd: &Path) -> Error {
    failed(cwd, io::Error::from_raw_os_error(nix::libc::EACCES))
}

fn failed(cwd: &Path, error: io::Error) -> Error {
    let words = super::words(&error);
    Error::new(
        ErrorKind::Unknown,
        format!(
            "chdir to cwd ({:?}) set in config.json failed: {words}",
            cwd.display().to_string()
        ),
    )
}
