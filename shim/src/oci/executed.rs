//! When init has become the user's program: hooks at that point must not come
//! before it (OCI runtime specification, `config.md`, "Poststart").
//!
//! Init has one end of a FIFO open, which its execution closes, and so does its
//! death. Who starts a container may be another process than its maker.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    sys::stat::Mode,
    unistd::mkfifo,
};
use shim_protocol::{Context, Result};

/// Makes the FIFO; to be open in init when it is born.
///
/// # Errors
/// Those of the file system.
pub(super) fn promise(path: &Path) -> Result<File> {
    let make = || {
        mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR)?;
        // Opened for one direction alone it would wait for the other.
        OpenOptions::new().read(true).write(true).open(path)
    };
    make().context("make", path.display())
}

/// Waits until whoever is promised has executed a program, or is dead.
///
/// # Errors
/// Those of the file system.
pub(super) fn wait(path: &Path) -> Result<()> {
    let wait = || {
        // Not waited for here: there may be nobody any more who has it open.
        let nonblocking = OFlag::O_NONBLOCK.bits();
        let mut fifo = OpenOptions::new().read(true).custom_flags(nonblocking).open(path)?;
        fcntl(&fifo, FcntlArg::F_SETFL(OFlag::empty()))?;
        // Nobody writes: this is its end.
        fifo.read(&mut [0]).map(drop)
    };
    wait().or_else(|e: io::Error| match e.kind() {
        // Made before there was such a thing.
        io::ErrorKind::NotFound => Ok(()),
        _ => Err(e).context("wait for the program at", path.display()),
    })
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn an_execution_ends_the_wait_and_so_does_death() {
        let _turn = crate::testing::turn();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("executed");
        wait(&path).unwrap();

        let promise = promise(&path).unwrap();
        let waits = std::thread::spawn({
            let path = path.clone();
            move || wait(&path)
        });
        // It does not inherit what is closed by execution.
        let mut cat = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        assert!(!waits.is_finished());
        drop(promise);
        waits.join().unwrap().unwrap();
        drop(cat.stdin.take());
        cat.wait().unwrap();
        // Too late is no reason to wait either.
        wait(&path).unwrap();
    }
}
