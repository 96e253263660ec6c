//! The only unsafe code: a process that is made without a runtime.
#![allow(unsafe_code)]

use std::{ffi::CString, fs::File, io, mem, os::fd::AsRawFd, ptr};

use nix::{
    libc::{self, c_char, c_int, c_ulong},
    unistd::Pid,
};

/// Namespaces that a container of the lifecycle has.
const NAMESPACES: c_int = libc::CLONE_NEWPID
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWNET;

/// `include/uapi/linux/sched.h`; the constant of libc is too narrow for it.
const INTO_CGROUP: u64 = 0x2_0000_0000;

/// Host name of the container.
const HOSTNAME: &[u8] = b"box";

/// Exit codes by which the child tells what failed; `true` has none of them.
const PRIVATE: c_int = 101;
const ROOTFS: c_int = 102;
const PIVOT: c_int = 103;
const HOST: c_int = 104;
const EXEC: c_int = 105;
const JOIN: c_int = 106;
/// The same for the first of the steps.
const STEPS: c_int = 110;

/// What the child does, made ready beforehand: it may not allocate.
pub(super) struct Plan {
    /// The new root.
    pub(super) rootfs: CString,
    /// What is done with it before it is that.
    pub(super) steps: Vec<Step>,
    /// What runs in it then.
    pub(super) program: CString,
    /// Folder of the cgroup in the v2 tree that it is born into.
    pub(super) group: Option<File>,
    /// Files by which it joins those of v1.
    pub(super) doors: Vec<File>,
}

/// One system call on paths of the old root.
pub(super) enum Step {
    /// mkdir(2)
    Folder(CString),
    /// mknod(2) of a character device that everybody may use
    Device { path: CString, number: libc::dev_t },
    /// symlink(2)
    Link { path: CString, target: CString },
    /// mount(2)
    Mount { target: CString, kind: CString, flags: c_ulong, data: CString },
}

impl Plan {
    /// What ended with this exit code.
    pub(super) fn name(&self, code: c_int) -> String {
        match code {
            PRIVATE => "to make mounts private".into(),
            JOIN => "to join a cgroup".into(),
            ROOTFS => format!("mount {}", self.rootfs.to_string_lossy()),
            PIVOT => "the change of the root".into(),
            HOST => "sethostname".into(),
            EXEC => format!("the start of {}", self.program.to_string_lossy()),
            _ => match usize::try_from(code - STEPS).ok().and_then(|step| self.steps.get(step)) {
                Some(Step::Folder(path)) => format!("mkdir {}", path.to_string_lossy()),
                Some(Step::Device { path, .. }) => format!("mknod {}", path.to_string_lossy()),
                Some(Step::Link { path, .. }) => format!("symlink {}", path.to_string_lossy()),
                Some(Step::Mount { target, .. }) => format!("mount {}", target.to_string_lossy()),
                None => format!("the program ({code})"),
            },
        }
    }
}

/// Starts a process in new namespaces that does what the plan says. It is a
/// child of ours, and somebody must wait for it.
///
/// # Errors
/// EPERM without root, ENOSPC and others when something is used up.
pub(super) fn start(plan: &Plan) -> io::Result<Pid> {
    let arguments = [plan.program.as_ptr(), ptr::null()];
    let environment = [c"PATH=/bin".as_ptr(), ptr::null()];
    // SAFETY: clone_args of <linux/sched.h> is made of integers, for which zero is a
    // value, and means that the field is not used.
    let mut args: libc::clone_args = unsafe { mem::zeroed() };
    args.flags = NAMESPACES as u64;
    args.exit_signal = libc::SIGCHLD as u64;
    if let Some(group) = &plan.group {
        args.flags |= INTO_CGROUP;
        args.cgroup = group.as_raw_fd() as u64;
    }
    // SAFETY: without CLONE_VM and without a stack clone3(2) is a fork: the child goes
    // on with a copy of our memory and of this stack, as its only thread. It calls
    // nothing but `child`, which does not return.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of_val(&args)) };
    match pid {
        // SAFETY: both arrays end in null, and point to strings that outlive the call.
        0 => unsafe { child(plan, arguments.as_ptr(), environment.as_ptr()) },
        1.. => Ok(Pid::from_raw(pid as libc::pid_t)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The life of the child. Threads that are not in it may hold locks of the
/// allocator for ever, so here are only system calls on what was made ready.
///
/// # Safety
/// As execve(2) has it: both are arrays of strings that end in null.
unsafe fn child(
    plan: &Plan,
    arguments: *const *const c_char,
    environment: *const *const c_char,
) -> ! {
    for door in &plan.doors {
        // SAFETY: write(2) reads one byte. "0" is who writes it.
        let written = unsafe { libc::write(door.as_raw_fd(), c"0".as_ptr().cast(), 1) };
        check(if written == 1 { 0 } else { -1 }, JOIN);
    }
    let (none, private) = (ptr::null(), libc::MS_REC | libc::MS_PRIVATE);
    let root = plan.rootfs.as_ptr();
    // SAFETY: mount(2) takes strings that end in a zero, or null for what a change of
    // propagation does not have.
    check(unsafe { libc::mount(none, c"/".as_ptr(), none, private, none.cast()) }, PRIVATE);
    // SAFETY: the same, for a bind mount.
    check(
        unsafe { libc::mount(root, root, none, libc::MS_BIND | libc::MS_REC, none.cast()) },
        ROOTFS,
    );
    for (step, code) in plan.steps.iter().zip(STEPS..) {
        let done = match step {
            // SAFETY: mkdir(2) takes a string that ends in a zero.
            Step::Folder(path) => unsafe { libc::mkdir(path.as_ptr(), 0o755) },
            // SAFETY: mknod(2) takes a string that ends in a zero.
            Step::Device { path, number } => unsafe {
                libc::mknod(path.as_ptr(), libc::S_IFCHR | 0o666, *number)
            },
            // SAFETY: symlink(2) takes strings that end in a zero.
            Step::Link { path, target } => unsafe { libc::symlink(target.as_ptr(), path.as_ptr()) },
            Step::Mount { target, kind, flags, data } => {
                let (kind, data) = (kind.as_ptr(), data.as_ptr());
                // SAFETY: mount(2) takes strings that end in a zero; these kinds of
                // filesystems take such a one as their data, too.
                unsafe { libc::mount(kind, target.as_ptr(), kind, *flags, data.cast()) }
            }
        };
        check(done, code);
    }
    let here = c".".as_ptr();
    // SAFETY: all take strings that end in a zero. With pivot_root(".", ".") the old
    // root is on top of the new one, and is what umount2(2) takes away (pivot_root(2)).
    unsafe {
        check(libc::chdir(root), PIVOT);
        check(libc::syscall(libc::SYS_pivot_root, here, here) as c_int, PIVOT);
        check(libc::umount2(here, libc::MNT_DETACH), PIVOT);
        check(libc::chdir(c"/".as_ptr()), PIVOT);
    }
    // SAFETY: sethostname(2) reads as many bytes as there are.
    check(unsafe { libc::sethostname(HOSTNAME.as_ptr().cast(), HOSTNAME.len()) }, HOST);
    // SAFETY: the caller vouches for the arrays. If it returns, it has failed, and
    // _exit(2) runs nothing of the parent's.
    unsafe {
        libc::execve(plan.program.as_ptr(), arguments, environment);
        libc::_exit(EXEC)
    }
}

fn check(result: c_int, code: c_int) {
    if result != 0 {
        // SAFETY: _exit(2) runs nothing of the parent's, and does not return.
        unsafe { libc::_exit(code) }
    }
}
