//! waitpid and waitid, without a detour through types that know no realtime
//! signals.

use std::ptr;

/// Reaps one child that has ended, if there is one: its pid, and its exit code
/// or 128 plus the signal's number.
pub(crate) fn reap_any() -> Option<(u32, u32)> {
    loop {
        let mut status = 0;
        // SAFETY: waitpid only writes to `status`, which outlives the call.
        let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
        match pid {
            0 => return None,
            // EINTR cannot happen with WNOHANG; ECHILD means there is nothing.
            ..0 => return None,
            _ if libc::WIFEXITED(status) => {
                return Some((pid as u32, libc::WEXITSTATUS(status) as u32));
            }
            _ if libc::WIFSIGNALED(status) => {
                return Some((pid as u32, 128 + libc::WTERMSIG(status) as u32));
            }
            // Without WUNTRACED and WCONTINUED only a traced child comes here.
            _ => {}
        }
    }
}

/// Is `pid` a child of this process that was not reaped yet?
pub(crate) fn is_child(pid: u32) -> bool {
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: a null siginfo pointer is allowed by Linux (wait(2), "C library/kernel
    // differences"); nothing else is written.
    unsafe { libc::waitid(libc::P_PID, pid, ptr::null_mut(), options) == 0 }
}

/// Waits for the end of a child: its exit code, or 128 plus the signal's number.
///
/// # Errors
/// `ECHILD` when it is not a child.
pub(crate) fn wait(pid: u32) -> std::io::Result<u8> {
    let mut status = 0;
    loop {
        // SAFETY: waitpid only writes to `status`, which outlives the call.
        match unsafe { libc::waitpid(pid as libc::pid_t, &raw mut status, 0) } {
            -1 => {
                let error = std::io::Error::last_os_error();
                if error.kind() != std::io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
            _ if libc::WIFSIGNALED(status) => return Ok(128 + libc::WTERMSIG(status) as u8),
            _ => return Ok(libc::WEXITSTATUS(status) as u8),
        }
    }
}
