//! The only unsafe code: system calls that neither std nor nix offers.
#![allow(unsafe_code)]

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
};

use tokio::io::{Interest, unix::AsyncFd};

/// A handle of a process. Unlike a pid it never means another process.
#[derive(Debug)]
pub(crate) struct ProcessHandle(AsyncFd<OwnedFd>);

impl ProcessHandle {
    /// Opens a handle of the process that has `pid` now.
    ///
    /// # Errors
    /// ESRCH when there is none, EMFILE and ENFILE when descriptors are used up.
    pub(crate) fn open(pid: u32) -> io::Result<Self> {
        let no_process = |_| io::Error::from_raw_os_error(libc::ESRCH);
        let pid = libc::pid_t::try_from(pid).map_err(no_process)?;
        // SAFETY: pidfd_open(2) takes two integers and touches no memory of ours.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        let fd = RawFd::try_from(fd).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?;
        // SAFETY: the kernel has just made this descriptor for us, so nobody else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: an `OwnedFd` is the same open descriptor for as long as it lives, and
        // it lives as long as the `AsyncFd` that takes it.
        let registered = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
        Ok(Self(registered.map_err(io::Error::from)?))
    }

    /// The same; none when there is no such process.
    ///
    /// # Errors
    /// EMFILE and ENFILE when descriptors are used up.
    pub(crate) fn find(pid: u32) -> io::Result<Option<Self>> {
        match Self::open(pid) {
            Err(e) if e.raw_os_error() == Some(libc::ESRCH) => Ok(None),
            opened => opened.map(Some),
        }
    }

    /// Waits until the process has ended, reaped or not: its handle is
    /// readable then (pidfd_open(2)).
    ///
    /// # Errors
    /// When the async runtime is being torn down.
    pub(crate) async fn ended(&self) -> io::Result<()> {
        self.0.readable().await.map(drop)
    }

    /// Sends SIGKILL. A process that has ended is success.
    ///
    /// # Errors
    /// EPERM when we may not.
    pub(crate) fn kill(&self) -> io::Result<()> {
        let fd = self.0.get_ref().as_raw_fd();
        let no_info = std::ptr::null::<libc::siginfo_t>();
        // SAFETY: `fd` is open while `self` lives, and pidfd_send_signal(2) accepts a
        // null siginfo and then fills in its own.
        let sent =
            unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, libc::SIGKILL, no_info, 0) };
        match sent {
            0 => Ok(()),
            _ => match io::Error::last_os_error() {
                e if e.raw_os_error() == Some(libc::ESRCH) => Ok(()),
                e => Err(e),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_end_of_a_process_is_noticed_before_it_is_reaped() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let handle = ProcessHandle::open(child.id()).unwrap();
        handle.kill().unwrap();
        handle.ended().await.unwrap();
        assert!(!child.wait().unwrap().success());
        handle.kill().unwrap();
    }

    #[tokio::test]
    async fn no_process_is_an_error() {
        let error = ProcessHandle::open(u32::MAX).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ESRCH));
        assert!(ProcessHandle::find(u32::MAX).unwrap().is_none());
    }
}
