//! This process itself: its fork, its descriptors, its allocator; and signals
//! by number.

use std::{
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::fs::MetadataExt,
    },
    ptr,
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    unistd::{ForkResult, Pid},
};

use crate::kernel;

/// Splits this process in two; `None` is the child.
///
/// # Errors
/// Those of fork(2). Refused when there is more than one thread: the child
/// would find locks that nobody can release, first of all the allocator's.
pub(crate) fn fork() -> io::Result<Option<Pid>> {
    require_single_thread()?;
    // SAFETY: there is no other thread (checked above), so the child's memory
    // is consistent and it may do whatever the parent may.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => Ok(Some(child)),
        ForkResult::Child => Ok(None),
    }
}

/// Has this process no thread but the calling one, as far as can be told?
pub(crate) fn is_single_threaded() -> bool {
    // The kernel counts a link for each thread, and two of the folder's own.
    std::fs::metadata("/proc/self/task").is_ok_and(|tasks| tasks.nlink() == 3)
}

/// # Errors
/// When this process has more than one thread.
pub(super) fn require_single_thread() -> io::Result<()> {
    match is_single_threaded() {
        true => Ok(()),
        false => Err(io::Error::other("a process with threads must not fork and go on")),
    }
}

/// Puts a name in the place of this process's arguments, which are not its own
/// but those of one that it is a copy of: by them others know the shim of a
/// container. To be called in a process with a single thread.
///
/// # Errors
/// Those of reading `/proc`; that they are too short.
pub(crate) fn rename_arguments(name: &[u8]) -> io::Result<()> {
    /// `arg_start` in `/proc/<pid>/stat` (proc(5)), counted from behind the name;
    /// `arg_end` is next.
    const ARG_START: usize = 45;
    let stat = kernel::read("/proc/self/stat")?;
    let fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields);
    let mut edges = fields.split(' ').skip(ARG_START).map(str::parse::<usize>);
    let (Some(Ok(start)), Some(Ok(end))) = (edges.next(), edges.next()) else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    if start == 0 || end.saturating_sub(start) <= name.len() {
        return Err(io::ErrorKind::StorageFull.into());
    }
    let place = ptr::with_exposed_provenance_mut::<u8>(start);
    // SAFETY: the kernel has put the arguments there, on the stack, where they stay
    // for as long as the process lives, and may be written to (proc(5), cmdline).
    // Nobody reads them now, and who does later finds strings that end in a zero.
    unsafe {
        ptr::write_bytes(place, 0, end - start);
        ptr::copy_nonoverlapping(name.as_ptr(), place, name.len());
    }
    Ok(())
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

/// Names a process beyond its end (pidfd_open(2), since Linux 5.3).
///
/// # Errors
/// `ESRCH` when there is no such process.
pub(crate) fn open(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open takes its arguments by value.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if fd == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has made the descriptor for us, nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Sends a signal to exactly the process that was opened.
///
/// # Errors
/// `ESRCH` when it has ended.
pub(crate) fn signal(process: BorrowedFd<'_>, signal: u32) -> io::Result<()> {
    let none = ptr::null::<libc::siginfo_t>();
    let fd = process.as_raw_fd();
    // SAFETY: without a siginfo the call reads no memory of this process.
    match unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, none, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Waits until a process has ended; it need not be a child of ours.
///
/// # Errors
/// Those of poll(2).
pub(crate) fn wait(process: BorrowedFd<'_>) -> io::Result<()> {
    let mut fds = [PollFd::new(process, PollFlags::POLLIN)];
    loop {
        match poll(&mut fds, PollTimeout::NONE) {
            Err(nix::errno::Errno::EINTR) => {}
            result => return Ok(result.map(drop)?),
        }
    }
}

/// Sets a limit of another process (prlimit(2)).
///
/// # Errors
/// Those of prlimit.
pub(crate) fn limit(pid: u32, resource: u32, soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit64 { rlim_cur: soft, rlim_max: hard };
    // SAFETY: prlimit64 reads one rlimit64, which `limit` is, and writes nothing.
    match unsafe { libc::syscall(libc::SYS_prlimit64, pid, resource, &raw const limit, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// When a process runs (sched(7)).
#[derive(Debug)]
pub(crate) struct Schedule {
    pub(crate) policy: u32,
    pub(crate) flags: u64,
    pub(crate) nice: i32,
    pub(crate) priority: u32,
    pub(crate) runtime_ns: u64,
    pub(crate) deadline_ns: u64,
    pub(crate) period_ns: u64,
}

/// Sets when this process runs (sched_setattr(2)).
///
/// # Errors
/// Those of sched_setattr.
pub(crate) fn schedule(schedule: &Schedule) -> io::Result<()> {
    /// `include/uapi/linux/sched/types.h`, its second version.
    #[repr(C)]
    struct Attributes {
        base: libc::sched_attr,
        util_min: u32,
        util_max: u32,
    }
    let attributes = Attributes {
        base: libc::sched_attr {
            size: size_of::<Attributes>() as u32,
            sched_policy: schedule.policy,
            sched_flags: schedule.flags,
            sched_nice: schedule.nice,
            sched_priority: schedule.priority,
            sched_runtime: schedule.runtime_ns,
            sched_deadline: schedule.deadline_ns,
            sched_period: schedule.period_ns,
        },
        util_min: 0,
        util_max: 0,
    };
    // SAFETY: the kernel reads one structure of the size that it says.
    match unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Gives this process a new session keyring that its user may search
/// (keyctl(2), KEYCTL_JOIN_SESSION_KEYRING and KEYCTL_SETPERM).
///
/// # Errors
/// Those of keyctl; `ENOSYS` where the kernel has no keys.
pub(crate) fn new_session_keyring(name: &std::ffi::CStr) -> io::Result<()> {
    /// `include/uapi/linux/keyctl.h`: all for who has it; view, read, search and
    /// link for its user.
    const PERMISSIONS: u32 = 0x3f1b_0000;
    // SAFETY: the kernel reads the name, which ends with a zero.
    let key = unsafe {
        libc::syscall(libc::SYS_keyctl, libc::KEYCTL_JOIN_SESSION_KEYRING, name.as_ptr())
    };
    if key == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: KEYCTL_SETPERM takes its arguments by value.
    match unsafe { libc::syscall(libc::SYS_keyctl, libc::KEYCTL_SETPERM, key, PERMISSIONS) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Gives every signal its default action, and blocks none.
pub(crate) fn reset_signals() {
    // SAFETY: default actions refer to no code. Signals that have no action are
    // refused, which changes nothing.
    unsafe {
        for signal in 1..=libc::SIGRTMAX() {
            libc::signal(signal, libc::SIG_DFL);
        }
    }
    // Cannot fail: it is given a valid set.
    let _ = nix::sys::signal::SigSet::empty().thread_set_mask();
}

/// Has writing to a pipe without a reader fail, instead of ending this process.
pub(crate) fn ignore_broken_pipes() {
    // SAFETY: an ignored signal refers to no code.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}

/// Keeps others from looking into this process, and from following its links in
/// `/proc` (PR_SET_DUMPABLE).
///
/// # Errors
/// Those of prctl(2).
pub(crate) fn forbid_looking_in() -> io::Result<()> {
    Ok(nix::sys::prctl::set_dumpable(false)?)
}

/// The standard input as a descriptor that is closed on exec and on drop.
/// `/dev/null` takes its place.
///
/// # Errors
/// When descriptors run out.
pub(crate) fn take_stdin() -> io::Result<OwnedFd> {
    let taken = io::stdin().as_fd().try_clone_to_owned()?;
    nix::unistd::dup2_stdin(&std::fs::File::open("/dev/null")?)?;
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_noticed() {
        let (end, ends) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || ends.recv());
        assert!(!is_single_threaded());
        assert!(fork().is_err());
        drop(end);
        assert!(thread.join().unwrap().is_err());
    }
}
