//! Folders with the sockets of shims. Whoever binds there, or removes what nobody
//! listens on, has the lock of the folder: of two who find the same stale socket,
//! the slower one must not remove what the faster one has just bound. Go's shims
//! take none.

use std::{fs::File, io, path::Path};

/// Waits for the lock of a folder, and has it until what this gives is dropped.
/// Blocks.
///
/// # Errors
/// Those of open(2) and flock(2).
pub fn lock(folder: &Path) -> io::Result<File> {
    let folder = File::open(folder)?;
    folder.lock()?;
    Ok(folder)
}
