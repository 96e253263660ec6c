//! Adding a process to a running container.

use std::{
    os::fd::{AsFd, RawFd},
    path::Path,
};

use nix::sched::CloneFlags;
use oci_spec::runtime::Process;
use shim_protocol::{Context, Error, ErrorKind, Id, Result, note};

use super::{
    Record, Store, Streams, capabilities,
    init::{self, Birth},
    inside::Inside,
    line::{Line, Point},
    listener, process,
    seccomp::Filter,
    spec,
};
use crate::{
    runtime::Status,
    sys::{self, clone::Cloned},
};

const SIGKILL: u32 = nix::libc::SIGKILL as u32;

/// A process to be added.
#[derive(Debug)]
pub(crate) struct Exec<'a> {
    /// The container.
    pub(crate) id: &'a Id,
    /// OCI `Process` as JSON.
    pub(crate) process: &'a [u8],
    /// Its streams.
    pub(crate) streams: Streams,
    /// Where its pid is to be written.
    pub(crate) pid_file: Option<&'a Path>,
    /// It is to be a child of our parent.
    pub(crate) sibling: bool,
    /// A descriptor that is ours alone.
    pub(crate) own: Option<RawFd>,
}

/// Adds a process; gives its pid once it is the user's program. The calling
/// process has one thread, and its next children will be in the container's pid
/// namespace.
///
/// # Errors
/// `NotFound` when there is no such container, `FailedPrecondition` when it
/// does not run; else as for a new container. After a failure there is no
/// process.
pub(crate) fn exec(store: &Store, request: Exec<'_>) -> Result<u32> {
    let record = store.read(request.id)?;
    add(store, request, &record).map_err(|error| match record.is_alive() {
        true => error,
        // Whatever went wrong, it came of that.
        false => error.with_kind(ErrorKind::FailedPrecondition),
    })
}

fn add(store: &Store, request: Exec<'_>, record: &Record) -> Result<u32> {
    let status = record.status(store, request.id)?;
    if !matches!(status, Status::Created | Status::Running) {
        return Err(Error::precondition(format!("container {} is {status:?}", request.id)));
    }
    let mut process: Process = capabilities::decode(request.process, "")
        .map_err(|e| Error::caused(ErrorKind::InvalidArgument, "decode process", e))?;
    record.defaults.fill(&mut process);
    let mut confined = spec::confine(process, store.seccomp(request.id, record)?)?;
    let filter = confined.seccomp.as_ref().map(Filter::compile).transpose()?;
    let streams = request.streams.open(confined.process.terminal() == Some(true))?;
    let doors = record.groups.open(Some(record.pid))?;
    let init =
        sys::process::open(record.pid).context_as(ErrorKind::FailedPrecondition, "open", "init")?;
    // Whose pid it was cannot be somebody else's if it is still alive now.
    if !record.is_alive() {
        return Err(Error::precondition(format!("container {} has ended", request.id)));
    }

    init::hide()?;
    let mut line = Line::new(filter.as_ref().is_some_and(Filter::has_listener))?;
    let kinds = CloneFlags::from_bits_retain(record.namespaces as i32);
    let in_user_namespace = kinds.contains(CloneFlags::CLONE_NEWUSER);
    if !in_user_namespace {
        confined.capabilities = capabilities::grantable(&confined.capabilities)?;
    }
    let inside = Inside {
        init: init.as_fd(),
        kinds,
        doors: &doors,
        sibling: request.sibling,
        own: request.own,
    };
    let mut birth = Birth {
        doors: None,
        foreign: None,
        in_user_namespace,
        waits_for_ids: false,
        time: None,
        unshare: CloneFlags::empty(),
        keyring: record.keyring(request.id),
        streams: &streams,
        confined: &confined,
        filter: filter.as_ref(),
        personality: record.personality.as_ref().map(|personality| personality.domain()),
        first: None,
    };
    let made = inside.spawn(|| init::live(&mut birth, &mut line))?;
    // Whoever reads the streams is to see their end when the process ends.
    drop(streams);
    let mut undo = Undo { made, is_done: false };
    let pid = undo.made.pid;
    let mut maker = line.maker().ok_or_else(|| Error::internal("the line is cut"))?;
    if let (Some(from), Some(seccomp)) = (maker.listener(), &confined.seccomp) {
        let record = Record { pid, ..record.clone() };
        listener::pass_on(from, seccomp, request.id, &record)?;
    }
    maker.wait_for(Point::Ready)?;
    process::limit(pid, &confined.process, in_user_namespace)?;
    // If we are killed from now on, it tells whom to end.
    if let Some(path) = request.pid_file {
        note::write(path, pid.to_string().as_bytes())?;
    }
    maker.go();
    maker.wait_until_executed()?;
    undo.is_done = true;
    Ok(pid)
}

/// Ends a process of which nobody will hear.
struct Undo {
    made: Cloned,
    is_done: bool,
}

impl Drop for Undo {
    fn drop(&mut self) {
        // It may have ended by itself.
        if !self.is_done
            && let Err(error) = sys::process::signal(self.made.fd.as_fd(), SIGKILL)
            && error.raw_os_error() != Some(nix::libc::ESRCH)
        {
            tracing::error!(pid = self.made.pid, %error, "undo exec");
        }
    }
}
