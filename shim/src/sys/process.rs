//! This process itself: its fork, its descriptors, its allocator; and signals
//! by number.

use std::{io, os::fd::RawFd};

use nix::unistd::{ForkResult, Pid};

/// Splits this process in two; `None` is the child.
///
/// # Errors
/// Those of fork(2). Refused when there is more than one thread: the child
/// would find locks that nobody can release, first of all the allocator's.
pub(crate) fn fork() -> io::Result<Option<Pid>> {
    if threads()? != 1 {
        return Err(io::Error::other("a process with threads must not fork and go on"));
    }
    // SAFETY: there is no other thread (checked above), so the child's memory
    // is consistent and it may do whatever the parent may.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => Ok(Some(child)),
        ForkResult::Child => Ok(None),
    }
}

fn threads() -> io::Result<usize> {
    Ok(std::fs::read_dir("/proc/self/task")?.count())
}

/// Closes every descriptor above standard error but `kept`. What the daemon
/// leaked into this process must not live as long as the container.
///
/// To be called while nothing but `kept` is open: any other owner of a
/// descriptor would own somebody else's afterwards.
pub(crate) fn close_all_but(kept: RawFd) {
    let kept = kept.unsigned_abs();
    for (first, last) in [(3, kept.saturating_sub(1)), (kept.max(2) + 1, u32::MAX)] {
        if first <= last {
            // SAFETY: close_range touches no memory. The caller answers for
            // there being no other owner. It fails only on kernels before 5.9,
            // where the descriptors stay open, which is harmless.
            unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
        }
    }
}

/// Tells the allocator that there is one busy thread only: no arenas for the
/// others, memory given back early, and no cache of freed maps.
pub(crate) fn trim_allocator() {
    const GIVE_BACK_FROM_BYTES: i32 = 64 * 1024;
    for (parameter, value) in [
        (libc::M_ARENA_MAX, 1),
        (libc::M_TRIM_THRESHOLD, GIVE_BACK_FROM_BYTES),
        (libc::M_MMAP_THRESHOLD, GIVE_BACK_FROM_BYTES),
    ] {
        // SAFETY: mallopt only sets the allocator's own parameters, and there
        // is no other thread yet. A refused parameter changes nothing.
        unsafe { libc::mallopt(parameter, value) };
    }
}

/// Sends a signal by number: realtime signals have no name.
///
/// # Errors
/// Those of kill(2).
pub(crate) fn kill(pid: u32, signal: u32) -> io::Result<()> {
    let (pid, signal) = match (i32::try_from(pid), i32::try_from(signal)) {
        (Ok(pid), Ok(signal)) if pid > 0 => (pid, signal),
        _ => return Err(io::ErrorKind::InvalidInput.into()),
    };
    // SAFETY: kill touches no memory of this process.
    match unsafe { libc::kill(pid, signal) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
