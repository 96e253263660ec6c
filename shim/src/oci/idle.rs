//! A process that does nothing: it holds what a process has to be in.

use std::{
    io::{self, PipeWriter, Read},
    os::fd::{AsFd, AsRawFd},
};

use nix::{sched::CloneFlags, sys::wait::waitpid, unistd::Pid};
use shim_protocol::{Context, Result};

use crate::sys::{
    clone::{Cloned, How, clone},
    process,
};

/// Such a process. It ends with its maker, or when this is dropped.
#[derive(Debug)]
pub(crate) struct Idle {
    process: Cloned,
    /// Its end is that of the process.
    _word: PipeWriter,
}

impl Idle {
    /// Makes one in new namespaces of these kinds. The calling process has one
    /// thread.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub(crate) fn new(namespaces: CloneFlags) -> Result<Self> {
        let (mut end, word) = io::pipe().context("make", "a pipe")?;
        let how = How { namespaces, sibling: false, cgroup: None };
        let process = clone(&how, || {
            process::close_all_but(end.as_raw_fd());
            // Nothing is ever written.
            let _ = end.read(&mut [0]);
            0
        });
        Ok(Self { process: process.context("make", "a process")?, _word: word })
    }

    /// The process.
    pub(crate) fn pid(&self) -> u32 {
        self.process.pid
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        // It may be gone: then that is all that was wanted.
        let _ = process::signal(self.process.fd.as_fd(), nix::libc::SIGKILL as u32);
        let _ = waitpid(Pid::from_raw(self.process.pid as i32), None);
    }
}
