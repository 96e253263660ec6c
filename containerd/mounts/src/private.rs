//! Mounting for a while, where only one thread sees it.
//!
//! The mounts are made in a namespace of their own, which goes with its thread:
//! whatever happens, even if the process is killed, no mount stays.

use std::{
    fs::OpenOptions,
    io,
    os::{fd::OwnedFd, unix::fs::OpenOptionsExt},
    path::Path,
    thread,
};

use nix::{
    libc,
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};
use shim_protocol::{Context, Error, Result};

use crate::{Mount, mount_all};

/// A folder that is on each machine, has no snapshots in it, and is not needed
/// for mounting, as `/proc` is.
pub(crate) const PLACE: &str = "/sys";

/// Mounts all in order, and does `work` with the open folder that this makes.
/// Nobody else sees the mounts, and they are gone afterwards.
///
/// # Errors
/// As [`mount_all`]; those of the work.
pub fn with_mounted<T: Send>(
    mounts: &[Mount],
    work: impl FnOnce(OwnedFd) -> Result<T> + Send,
) -> Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("mounted".into()).spawn_scoped(scope, || {
            isolate()?;
            let place = Path::new(PLACE);
            mount_all(mounts, place)?;
            let folder = OpenOptions::new()
                .read(true)
                .custom_flags(libc::O_DIRECTORY)
                .open(place)
                .context("open", "what was mounted")?;
            work(folder.into())
        });
        let thread = thread.context("start", "a thread that mounts")?;
        thread.join().unwrap_or_else(|_| Err(Error::internal("a thread that mounts panicked")))
    })
}

/// Gives this thread mounts and a working folder of its own. What is unmounted
/// outside goes here too.
pub(crate) fn isolate() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).map_err(io::Error::from).context("unshare", "mounts")?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_SLAVE | MsFlags::MS_REC, none)
        .map_err(io::Error::from)
        .context("isolate", "mounts")
}
