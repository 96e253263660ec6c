//! Makes a process inside of a container that runs.

use std::{
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
        unix::net::UnixStream,
    },
};

use nix::{
    libc::ENOMEM,
    sched::{CloneFlags, setns},
};
use shim_protocol::{Context, Error, ErrorKind, Result};

use super::cgroup::Doors;
use crate::sys::{
    clone::{self, Alone, Cloned, How},
    fd, wait,
};

/// Where a process that is added belongs.
#[derive(Debug)]
pub(super) struct Inside<'a> {
    /// The container, by its init, and which of that one's namespaces.
    pub(super) init: BorrowedFd<'a>,
    pub(super) kinds: CloneFlags,
    pub(super) doors: &'a Doors,
    /// Its parent is to be ours.
    pub(super) sibling: bool,
    /// What we have open for us alone.
    pub(super) own: Option<RawFd>,
}

/// What came of the process between us and the one that is added.
const MADE: u32 = 0;
const NOT_IN_GROUPS: u32 = 1;
const NOT_IN_NAMESPACES: u32 = 2;
const NOT_MADE: u32 = 3;

impl Inside<'_> {
    /// Makes a process that runs `child`. Whoever is inside sees it from its first
    /// moment, and who has CAP_SYS_PTRACE there gets through its links in `/proc` to
    /// its root and to the folders that it has open. So it is born where it belongs:
    /// of another process, which the container does not see, and which has entered
    /// all the rest before.
    ///
    /// # Errors
    /// `FailedPrecondition` when the container is about to end, else what the
    /// kernel refuses.
    pub(super) fn spawn(&self, child: impl FnOnce() -> u8) -> Result<Cloned> {
        let alone = Alone::check().context("make", "a process")?;
        let (ours, theirs) = UnixStream::pair().context("make", "a socket")?;
        let mut ours = Some(ours);
        let how = How {
            namespaces: CloneFlags::empty(),
            sibling: self.sibling,
            cgroup: self.doors.unified(),
        };
        let between = clone::clone_alone(&alone, &how, || {
            drop(ours.take());
            self.pass(&alone, &theirs, child)
        });
        let between = between.context("make", "a process")?;
        drop(theirs);
        let made = match ours {
            Some(ours) => self.take(&ours),
            None => Err(Error::internal("a socket is gone")),
        };
        if !self.sibling {
            // Ours to collect; its parent collects it otherwise.
            wait::wait(between.pid).context("collect", "a process")?;
        }
        made
    }

    /// Runs in the process between: enters, and makes the other one.
    fn pass(&self, alone: &Alone, to: &UnixStream, child: impl FnOnce() -> u8) -> u8 {
        let enter = || -> std::result::Result<(), (u32, io::Error)> {
            if let Some(own) = self.own {
                nix::unistd::close(own).map_err(|e| (NOT_IN_GROUPS, e.into()))?;
            }
            self.doors.enter().map_err(|e| (NOT_IN_GROUPS, e))?;
            setns(self.init, self.kinds).map_err(|e| (NOT_IN_NAMESPACES, e.into()))
        };
        let how = How { namespaces: CloneFlags::empty(), sibling: true, cgroup: None };
        let child = || {
            // Its end tells that this process has.
            let _ = nix::unistd::close(to.as_raw_fd());
            child()
        };
        let make = || clone::clone_alone(alone, &how, child).map_err(|e| (NOT_MADE, e));
        let (word, number, fd) = match enter().and_then(|()| make()) {
            Ok(made) => (MADE, made.pid, Some(made.fd)),
            Err((step, error)) => (step, error.raw_os_error().unwrap_or_default() as u32, None),
        };
        let text = [word.to_ne_bytes(), number.to_ne_bytes()].concat();
        let fds: Vec<_> = fd.iter().map(AsFd::as_fd).collect();
        // Whoever does not hear it is gone, and the other one ends for want of a word.
        fd::send(to.as_fd(), &text, &fds).is_err().into()
    }

    /// What the process between has made.
    fn take(&self, from: &UnixStream) -> Result<Cloned> {
        let mut text = [0; 2 * size_of::<u32>()];
        let (count, fds) = fd::receive_all(from.as_fd(), &mut text).context("hear of", "it")?;
        let [a, b, c, d, e, f, g, h] = text;
        let (word, number) = (u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h]));
        let error = || io::Error::from_raw_os_error(number as i32);
        match (word, fds.into_iter().next()) {
            _ if count < text.len() => {
                Err(Error::new(ErrorKind::Unknown, "a process was killed on its way inside"))
            }
            (MADE, Some(fd)) => Ok(Cloned { pid: number, fd }),
            (NOT_IN_GROUPS, _) => Err(error()).context("enter", "the container's cgroups"),
            // A process that ends leaves its namespaces before it is a zombie.
            (NOT_IN_NAMESPACES, _) => Err(error()).context_as(
                ErrorKind::FailedPrecondition,
                "enter",
                "the container's namespaces",
            ),
            // So the kernel has it where init is about to end (pid_namespaces(7)).
            (NOT_MADE, _)
                if number == ENOMEM as u32 && self.kinds.contains(CloneFlags::CLONE_NEWPID) =>
            {
                Err(error()).context_as(ErrorKind::FailedPrecondition, "make", "a process")
            }
            _ => Err(error()).context("make", "a process"),
        }
    }
}
