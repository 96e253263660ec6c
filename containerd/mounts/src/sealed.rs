//! A file that cannot be written to by whoever gets at it.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use crate::{
    attributes::{self, Attributes},
    tree::{self, Depth},
};

/// A mount of one file that only allows reading and that is attached nowhere:
/// no path leads to it, and nobody can change it. It goes with the last process
/// that has it open, or was executed from it.
///
/// # Errors
/// EPERM without the capability to mount, ENOSYS before Linux 5.12.
pub fn sealed(file: &Path) -> io::Result<OwnedFd> {
    let tree = tree::clone_path(file, Depth::One)?;
    attributes::change(tree.as_fd(), Attributes::READ_ONLY, false)?;
    Ok(tree)
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, OpenOptions},
        os::{fd::AsRawFd, unix::fs::MetadataExt},
        process::Command,
    };

    use super::*;

    #[test]
    fn it_is_the_same_file_but_cannot_be_written_to() {
        if !nix::unistd::geteuid().is_root() {
            return println!("skipped: needs root");
        }
        let file = Path::new("/bin/true").canonicalize().unwrap();
        let sealed = sealed(&file).unwrap();
        let path = format!("/proc/self/fd/{}", sealed.as_raw_fd());
        let (one, other) = (fs::metadata(&path).unwrap(), fs::metadata(&file).unwrap());
        assert_eq!((one.dev(), one.ino()), (other.dev(), other.ino()));
        let refused = OpenOptions::new().write(true).open(&path).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ReadOnlyFilesystem);
        assert!(Command::new(&path).status().unwrap().success());
    }
}
