//! What is done with a container between its making and its removal.

use std::{
    fs::File,
    io::{self, Write},
    os::{
        fd::{AsFd, AsRawFd},
        unix::net::UnixStream,
    },
    path::Path,
};

use libcontainer::container::ContainerStatus;
use oci_spec::runtime::LinuxResources;
use shim_protocol::{Context, Error, ErrorKind, Id, Result, note};

use super::{Record, Store, executed, hooks};
use crate::{runtime::Status, sys::process};

const SIGKILL: u32 = nix::libc::SIGKILL as u32;

/// Lets the user's program run. Hooks that come after that are run by the
/// calling process.
///
/// # Errors
/// `NotFound` when there is no such container, `FailedPrecondition` when it is
/// not waiting to be started.
pub(crate) fn start(store: &Store, id: &Id) -> Result<()> {
    start_read(store, id, &store.read(id)?)
}

/// [`start`] with the container's record.
///
/// # Errors
/// As that.
pub(crate) fn start_read(store: &Store, id: &Id, record: &Record) -> Result<()> {
    require(store, id, record, "start", &[Status::Created])?;
    let door = store.notify(id);
    notify(&door).context_as(ErrorKind::FailedPrecondition, "start container", id)?;
    note::remove(&door)?;
    if record.poststart.is_empty() {
        return Ok(());
    }
    executed::wait(&store.executed(id))?;
    let view = hooks::view(store, id, record, ContainerStatus::Running);
    hooks::run_all(&record.poststart, "poststart", &view);
    Ok(())
}

/// Tells a process that waits at `path` to go on.
pub(super) fn notify(path: &Path) -> Result<()> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Error::internal(format!("{} is no socket", path.display())));
    };
    let told = || {
        // A path by descriptor, because an address takes 107 bytes at most.
        let folder = File::open(folder)?;
        let address = Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name);
        UnixStream::connect(address)?.write_all(b"start")
    };
    told().context("connect to", path.display())
}

/// Sends a signal to the first process, or to all.
///
/// # Errors
/// `NotFound` when there is no such container, or when its first process has
/// ended.
pub(crate) fn kill(store: &Store, id: &Id, signal: u32, all: bool) -> Result<()> {
    let record = store.read(id)?;
    if all {
        record.groups.signal(signal)?;
    } else {
        kill_init(&record, signal).context("kill container", id)?;
    }
    if signal == SIGKILL {
        // A process that is frozen does not even die.
        record.groups.thaw()?;
    }
    Ok(())
}

pub(super) fn kill_init(record: &Record, signal: u32) -> Result<()> {
    let gone = || Error::not_found("process has ended");
    if record.pid == 0 {
        return Err(gone());
    }
    let sent = process::open(record.pid).and_then(|init| {
        // Whose pid it was cannot be somebody else's if it is still alive now.
        if !record.is_alive() {
            return Err(io::Error::from_raw_os_error(nix::libc::ESRCH));
        }
        process::signal(init.as_fd(), signal)
    });
    match sent {
        Err(e) if e.raw_os_error() == Some(nix::libc::ESRCH) => Err(gone()),
        Err(e) if e.raw_os_error() == Some(nix::libc::EINVAL) => {
            Err(e).context_as(ErrorKind::InvalidArgument, "send signal", signal)
        }
        sent => sent.context("send signal", signal),
    }
}

/// Freezes all processes.
///
/// # Errors
/// `FailedPrecondition` when the container does not run.
pub(crate) fn pause(store: &Store, id: &Id) -> Result<()> {
    let record = store.read(id)?;
    require(store, id, &record, "pause", &[Status::Created, Status::Running])?;
    record.groups.freeze().context("pause container", id)
}

/// Thaws all processes.
///
/// # Errors
/// `FailedPrecondition` when the container is not paused. What is left of one
/// that has ended is thawed.
pub(crate) fn resume(store: &Store, id: &Id) -> Result<()> {
    let record = store.read(id)?;
    require(store, id, &record, "resume", &[Status::Paused, Status::Stopped])?;
    record.groups.thaw().context("resume container", id)
}

/// Changes limits; `resources` is an OCI `LinuxResources` as JSON. Devices
/// stay as they are, as with runc.
///
/// # Errors
/// `InvalidArgument` for what is no such thing.
pub(crate) fn update(store: &Store, id: &Id, resources: &[u8]) -> Result<()> {
    let record = store.read(id)?;
    let resources: LinuxResources = serde_json::from_slice(resources)
        .map_err(|e| Error::caused(ErrorKind::InvalidArgument, "decode resources", e))?;
    let usable = [Status::Created, Status::Running, Status::Paused];
    require(store, id, &record, "update", &usable)?;
    record.groups.update(&resources).context("update container", id)
}

/// All processes.
///
/// # Errors
/// `NotFound` when there is no such container.
pub(crate) fn ps(store: &Store, id: &Id) -> Result<Vec<u32>> {
    store.read(id)?.groups.pids()
}

/// The container's status and its record.
///
/// # Errors
/// `NotFound` when there is no such container.
pub(crate) fn state(store: &Store, id: &Id) -> Result<(Status, Record)> {
    let record = store.read(id)?;
    Ok((record.status(store, id)?, record))
}

fn require(store: &Store, id: &Id, record: &Record, verb: &str, states: &[Status]) -> Result<()> {
    let status = record.status(store, id)?;
    match states.contains(&status) {
        true => Ok(()),
        false => Err(Error::precondition(format!("{verb} container {id}: it is {status}"))),
    }
}
