//! The controlling side of a terminal.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

nix::ioctl_write_ptr_bad!(tiocswinsz, libc::TIOCSWINSZ, libc::winsize);
nix::ioctl_write_int_bad!(tiocgptpeer, libc::TIOCGPTPEER);

/// Sets the size, in characters; the foreground processes get SIGWINCH.
pub(crate) fn resize(master: BorrowedFd<'_>, columns: u16, rows: u16) -> io::Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCSWINSZ reads one winsize, which `size` is.
    unsafe { tiocswinsz(master.as_raw_fd(), &raw const size)? };
    Ok(())
}

/// Opens the other side, without a path and without it becoming our
/// controlling terminal (ioctl_tty(2), since Linux 4.13).
pub(crate) fn open_peer(master: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: TIOCGPTPEER takes open flags by value and touches no memory.
    let fd = unsafe { tiocgptpeer(master.as_raw_fd(), flags)? };
    // SAFETY: the call has made the descriptor for us, nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
