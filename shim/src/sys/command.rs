//! What a child does between fork and exec.

use std::{
    io,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
        unix::process::CommandExt,
    },
    process::Command,
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, fcntl},
    sys::{prctl, signal::Signal},
    unistd::Pid,
};

/// The first descriptor after the standard streams.
const FIRST: RawFd = 3;

/// The child is killed when the thread that started it ends.
pub(crate) fn die_with_parent(command: &mut Command) {
    let parent = Pid::this();
    // SAFETY: the hook is two system calls; it neither allocates nor takes a lock.
    unsafe {
        command.pre_exec(move || {
            prctl::set_pdeathsig(Signal::SIGKILL)?;
            // The parent may have ended before it was asked for.
            if Pid::parent() == parent { Ok(()) } else { Err(Errno::ESRCH.into()) }
        });
    }
}

/// The child gets `fds` as descriptors 3, 4, and so on. Ours live as long as
/// `command`.
///
/// # Errors
/// When descriptors run out.
pub(crate) fn pass_fds(command: &mut Command, fds: Vec<OwnedFd>) -> io::Result<()> {
    let end = FIRST + fds.len() as RawFd;
    // Everything below `end` is occupied until the command is gone. So no source
    // is overwritten before its turn, nor the pipe by which std's child reports
    // a failed exec.
    let mut occupied = Vec::new();
    let mut sources = Vec::with_capacity(fds.len());
    for fd in fds {
        sources.push(loop {
            let copy = duplicate(&fd)?;
            if copy.as_raw_fd() >= end {
                break copy;
            }
            occupied.push(copy);
        });
    }
    // SAFETY: the hook calls dup2 only and allocates nothing; all it needs was made
    // above. The numbers it overwrites belong to no owner in the child that still runs
    // code: the child ends or executes another program.
    unsafe {
        command.pre_exec(move || {
            let _held = &occupied;
            for (target, source) in (FIRST..).zip(&sources) {
                Errno::result(libc::dup2(source.as_raw_fd(), target))?;
            }
            Ok(())
        });
    }
    Ok(())
}

fn duplicate(fd: &OwnedFd) -> io::Result<OwnedFd> {
    let copy = fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(FIRST))?;
    // SAFETY: the call has made the descriptor for us, nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}
