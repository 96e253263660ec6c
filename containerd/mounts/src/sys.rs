//! The only unsafe code: system calls that neither std nor nix nor rustix
//! offers.
#![allow(unsafe_code)]

use std::{
    fs::{self, File},
    io,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
};

use nix::{libc, unistd::pipe2};

/// A user namespace with these maps, in the format of the kernel's files
/// (user_namespaces(7)).
///
/// # Errors
/// When the kernel refuses maps or namespace.
pub fn user_namespace(uid_map: &str, gid_map: &str) -> io::Result<OwnedFd> {
    let (ours, theirs) = pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    // A process lives in a new one for as long as it takes to write the maps. No
    // signal tells of its end, and only who asks for such children (__WCLONE)
    // collects it: whoever collects all other children is not disturbed.
    // SAFETY: without a stack and without CLONE_VM this is fork(2). The child
    // has a copy of one thread only, so it may do nothing but system calls, and
    // does nothing else.
    let pid = unsafe { libc::syscall(libc::SYS_clone, libc::CLONE_NEWUSER, 0, 0, 0, 0) };
    match pid {
        -1 => return Err(io::Error::last_os_error()),
        0 => wait_and_exit(ours.as_raw_fd(), theirs.as_raw_fd()),
        _ => {}
    }
    drop(ours);
    let made = take(pid, uid_map, gid_map);
    drop(theirs);
    let pid = libc::pid_t::try_from(pid).map_err(io::Error::other)?;
    // SAFETY: the status is not asked for, and the child is ours alone to
    // collect. That there is none is nothing to act upon.
    unsafe { libc::waitpid(pid, std::ptr::null_mut(), libc::__WCLONE) };
    made
}

fn take(pid: libc::c_long, uid_map: &str, gid_map: &str) -> io::Result<OwnedFd> {
    fs::write(format!("/proc/{pid}/uid_map"), uid_map)?;
    fs::write(format!("/proc/{pid}/gid_map"), gid_map)?;
    File::open(format!("/proc/{pid}/ns/user")).map(OwnedFd::from)
}

/// What the child does: it waits until its parent has closed the other end.
fn wait_and_exit(ours: libc::c_int, theirs: libc::c_int) -> ! {
    let mut byte = 0_u8;
    // SAFETY: system calls only, on descriptors of this process and one byte of
    // its stack; _exit runs nothing of the parent's.
    unsafe {
        libc::close(theirs);
        libc::read(ours, std::ptr::from_mut(&mut byte).cast(), 1);
        libc::_exit(0)
    }
}

/// Sets and clears attributes of a mount, and of those below it if it is
/// `recursive` (mount_setattr(2)).
///
/// # Errors
/// ENOSYS before Linux 5.12.
pub(crate) fn set_attributes(
    mount: BorrowedFd<'_>,
    attributes: libc::mount_attr,
    recursive: bool,
) -> io::Result<()> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is empty and ends in a zero; the kernel reads the
    // attributes only, and as many bytes of them as is said.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attributes,
            size_of_val(&attributes),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
