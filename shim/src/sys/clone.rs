//! Processes that go on in this program: the way into a container.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    ptr,
};

use nix::{sched::CloneFlags, sys::wait, unistd::Pid};

use super::process;

/// Stack of what runs aside, in bytes. A child made there goes on with a copy;
/// only pages that are used take memory.
const STACK_BYTES: usize = 4 << 20;
/// One page, on whatever machine.
const GUARD_BYTES: usize = 64 << 10;

/// `include/uapi/linux/sched.h`; the constant of libc is too narrow for it.
const INTO_CGROUP: u64 = 0x2_0000_0000;

/// A process that was made.
#[derive(Debug)]
pub(crate) struct Cloned {
    /// As this process sees it.
    pub(crate) pid: u32,
    /// Names it beyond its end.
    pub(crate) fd: OwnedFd,
}

/// How to make a process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct How<'a> {
    /// New namespaces that it is in from the start.
    pub(crate) namespaces: CloneFlags,
    /// Its parent is ours.
    pub(crate) sibling: bool,
    /// The folder of the cgroup in the v2 tree that it is born into.
    pub(crate) cgroup: Option<BorrowedFd<'a>>,
}

/// Makes a process that runs `child` and ends with the status that it gives
/// (clone3(2), since Linux 5.3; into a cgroup since 5.7).
///
/// # Errors
/// Those of clone3. Refused when there is more than one thread, as with fork.
pub(crate) fn clone(how: &How<'_>, child: impl FnOnce() -> u8) -> io::Result<Cloned> {
    clone_alone(&Alone::check()?, how, child)
}

/// That this process has one thread. A copy of it has one, too.
#[derive(Debug)]
pub(crate) struct Alone(());

impl Alone {
    /// # Errors
    /// When it has more than one.
    pub(crate) fn check() -> io::Result<Self> {
        process::require_single_thread().map(Self)
    }
}

/// As [`clone`], for a process that has no `/proc` of its own any more.
///
/// # Errors
/// Those of clone3.
pub(crate) fn clone_alone(
    _: &Alone,
    how: &How<'_>,
    child: impl FnOnce() -> u8,
) -> io::Result<Cloned> {
    let mut pidfd: RawFd = -1;
    let mut flags = how.namespaces.bits() as u64 | libc::CLONE_PIDFD as u64;
    // SAFETY: all of it are integers, for which zero is a value.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    if how.sibling {
        // The kernel wants no signal here, and takes ours.
        flags |= libc::CLONE_PARENT as u64;
    } else {
        args.exit_signal = libc::SIGCHLD as u64;
    }
    if let Some(cgroup) = how.cgroup {
        flags |= INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    args.flags = flags;
    args.pidfd = &raw mut pidfd as u64;
    // SAFETY: without CLONE_VM the child has its own copy of all memory, and without
    // a stack it goes on where it is, as after fork. There is no other thread (`Alone`
    // says so, and only its check makes one), so that copy is consistent. The kernel writes to `pidfd` only.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of_val(&args)) };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => exit(child()),
        // SAFETY: the call has made the descriptor for us, nobody else owns it.
        pid => Ok(Cloned { pid: pid as u32, fd: unsafe { OwnedFd::from_raw_fd(pidfd) } }),
    }
}

/// Ends this process without the handlers of the one it is a copy of.
fn exit(status: u8) -> ! {
    // SAFETY: _exit touches no memory.
    unsafe { libc::_exit(i32::from(status)) }
}

/// Runs `work` in a process beside this one that shares its memory and
/// descriptors and is gone afterwards. What `work` does to its own namespaces
/// stays with it and with the children it makes. As a sibling it is a child of
/// our parent, who has to reap it.
///
/// # Errors
/// Those of clone(2), or when it was killed. Refused when there is more than
/// one thread.
pub(crate) fn aside(sibling: bool, mut work: impl FnMut()) -> io::Result<()> {
    extern "C" fn run(work: *mut libc::c_void) -> libc::c_int {
        // SAFETY: `aside` passes a pointer to a reference that outlives this
        // process, as it waits for its end.
        let work = unsafe { &mut *work.cast::<&mut dyn FnMut()>() };
        work();
        0
    }
    process::require_single_thread()?;
    let mut work: &mut dyn FnMut() = &mut work;
    let stack = Stack::new()?;
    let mut flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_FILES | libc::SIGCHLD;
    if sibling {
        flags |= libc::CLONE_PARENT;
    }
    // SAFETY: CLONE_VFORK keeps this process from running until the other has
    // ended, so they never use the shared memory at once; the other has a stack of
    // its own that is freed only afterwards.
    let pid = unsafe { libc::clone(run, stack.top(), flags, (&raw mut work).cast()) };
    if pid == -1 {
        return Err(io::Error::last_os_error());
    }
    if sibling {
        return Ok(());
    }
    match wait::waitpid(Pid::from_raw(pid), None)? {
        wait::WaitStatus::Exited(_, 0) => Ok(()),
        other => Err(io::Error::other(format!("ended early: {other:?}"))),
    }
}

/// Memory for a stack.
struct Stack(*mut libc::c_void);

impl Stack {
    fn new() -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK;
        // SAFETY: a new mapping, at an address of the kernel's choice.
        let memory = unsafe { libc::mmap(ptr::null_mut(), STACK_BYTES, protection, flags, -1, 0) };
        if memory == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let stack = Self(memory);
        // Who needs more ends there, and does not write to what lies below.
        // SAFETY: the page is the lowest of the new mapping, and nobody uses it yet.
        match unsafe { libc::mprotect(stack.0, GUARD_BYTES, libc::PROT_NONE) } {
            0 => Ok(stack),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Stacks grow downwards.
    fn top(&self) -> *mut libc::c_void {
        self.0.wrapping_byte_add(STACK_BYTES)
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and nothing runs on it any more.
        unsafe { libc::munmap(self.0, STACK_BYTES) };
    }
}
