//! A terminal that the client has made for a process with one: its path stands
//! where else FIFOs are named, as containerd had it in 2015.
//!
//! ```text
//!  process ◀─tty─▶ shim ◀─tty─▶ client
//! ```
//!
//! The process has a terminal of its own, made by the runtime, so bytes pass
//! the client's unchanged.

use std::{
    fs::{self, OpenOptions},
    io,
    os::{
        fd::OwnedFd,
        unix::fs::{FileTypeExt, OpenOptionsExt},
    },
    path::Path,
};

use nix::{
    errno::Errno,
    libc::{O_NOCTTY, O_NONBLOCK},
    sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr},
};

/// Opens the terminal at `path`; none if there is something else.
pub(super) fn open(path: &Path) -> io::Result<Option<OwnedFd>> {
    // Opening may do something to a device that is no terminal.
    if !fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_char_device()) {
        return Ok(None);
    }
    // It must not become ours: the client's end would hang us up.
    let flags = O_NOCTTY | O_NONBLOCK;
    let terminal = OpenOptions::new().read(true).write(true).custom_flags(flags).open(path)?;
    let mut modes = match tcgetattr(&terminal) {
        Err(Errno::ENOTTY) => return Ok(None),
        modes => modes?,
    };
    // Echo, line editing and signals are the other terminal's matter.
    cfmakeraw(&mut modes);
    tcsetattr(&terminal, SetArg::TCSANOW, &modes)?;
    Ok(Some(terminal.into()))
}
