//! What a child does between fork and exec.

use std::{io, os::unix::process::CommandExt, process::Command};

use nix::sys::{prctl, signal::Signal};

/// The child is killed when the thread that started it ends.
pub(crate) fn die_with_parent(command: &mut Command) {
    // SAFETY: the hook is one prctl call; it neither allocates nor takes a lock.
    unsafe {
        command.pre_exec(|| prctl::set_pdeathsig(Signal::SIGKILL).map_err(io::Error::from));
    }
}
