//! Mounts that are attached nowhere (open_tree(2), move_mount(2), since Linux
//! 5.2).

use std::{
    io,
    os::fd::{BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::CWD,
    mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree},
};

const CLONE: OpenTreeFlags = OpenTreeFlags::OPEN_TREE_CLONE.union(OpenTreeFlags::OPEN_TREE_CLOEXEC);

/// How much of a tree is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// One mount.
    One,
    /// It and all that are mounted in it.
    All,
}

impl Depth {
    fn flags(self) -> OpenTreeFlags {
        match self {
            Self::One => CLONE,
            Self::All => CLONE | OpenTreeFlags::AT_RECURSIVE,
        }
    }
}

/// What is at a path, once more.
///
/// # Errors
/// Those of open_tree.
pub fn clone_path(path: &Path, depth: Depth) -> io::Result<OwnedFd> {
    Ok(open_tree(CWD, path, depth.flags())?)
}

/// An open file or folder, once more.
///
/// # Errors
/// Those of open_tree.
pub fn clone_open(file: BorrowedFd<'_>, depth: Depth) -> io::Result<OwnedFd> {
    Ok(open_tree(file, "", depth.flags() | OpenTreeFlags::AT_EMPTY_PATH)?)
}

/// Attaches one on top of what is open as `target`.
///
/// # Errors
/// Those of move_mount.
pub fn attach(tree: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(tree, "", target, "", flags)?)
}
