//! Adding a process to a running container.

use std::{
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use libcontainer::{notify_socket::NotifyListener, process::args::ContainerType};
use nix::sched::CloneFlags;
use oci_spec::runtime::{Process, Spec};
use shim_protocol::{Context, Error, ErrorKind, Id, Result, note};

use super::{
    Record, Store, Streams,
    executor::Become,
    init::{self, Birth, Line},
    listener, process,
    seccomp::Filter,
    spec, steer,
};
use crate::{
    runtime::Status,
    sys::{
        self,
        clone::{self, Cloned, How},
    },
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
    let process: Process = serde_json::from_slice(request.process)
        .map_err(|e| Error::caused(ErrorKind::InvalidArgument, "decode process", e))?;
    let confined = spec::confine(process, record.seccomp.clone())?;
    let filter = confined.seccomp.as_ref().map(Filter::compile).transpose()?;
    let streams = request.streams.open(confined.process.terminal() == Some(true))?;
    let doors = record.groups.open(Some(record.pid))?;
    let init =
        sys::process::open(record.pid).context_as(ErrorKind::FailedPrecondition, "open", "init")?;
    // Whose pid it was cannot be somebody else's if it is still alive now.
    if !record.is_alive() {
        return Err(Error::precondition(format!("container {} has ended", request.id)));
    }

    sys::process::set_dumpable(false).context("hide", "from the container")?;
    let door = Door::new(store, request.id);
    let mut line = Line::new(false, filter.as_ref().is_some_and(Filter::has_listener))?;
    let kinds = CloneFlags::from_bits_retain(record.namespaces as i32);
    let in_user_namespace = kinds.contains(CloneFlags::CLONE_NEWUSER);
    let executor = Become::new(&confined, filter, line.listener(), in_user_namespace);
    let kind = ContainerType::TenantContainer { exec_notify_fd: -1 };
    let spec = spec_of(record, confined.process.clone())?;
    let args = init::args(kind, spec, record.rootfs.clone(), &streams, door.listen()?, &executor);
    // A process that ends leaves its namespaces before it is a zombie.
    process::enter_those_of(init.as_fd(), kinds & CloneFlags::CLONE_NEWPID).context_as(
        ErrorKind::FailedPrecondition,
        "enter",
        "the container's pid namespace",
    )?;
    let birth = Birth {
        doors: &doors,
        in_user_namespace,
        time: None,
        enter: Some((init.as_fd(), kinds - CloneFlags::CLONE_NEWPID)),
        keyring: record.keyring(request.id),
        scratch: None,
        args,
        executor,
    };
    let how =
        How { namespaces: CloneFlags::empty(), sibling: request.sibling, cgroup: doors.unified() };
    let made = clone::clone(&how, || init::live(&birth, &mut line)).context("make", "a process")?;
    drop(birth);
    let mut undo = Undo { made, is_done: false };
    let pid = undo.made.pid;
    let mut maker = line.into_maker()?;
    if let (Some(from), Some(seccomp)) = (maker.listener.take(), &confined.seccomp) {
        let record = Record { pid, ..record.clone() };
        listener::pass_on(&from, seccomp, request.id, &record)?;
    }
    maker.wait_until_ready()?;
    process::limit(pid, &confined.process, in_user_namespace)?;
    door.open()?;
    maker.wait_until_executed()?;
    if let Some(path) = request.pid_file {
        note::write(path, pid.to_string().as_bytes())?;
    }
    undo.is_done = true;
    Ok(pid)
}

/// As much of a configuration as concerns a process that is added.
fn spec_of(record: &Record, process: Process) -> Result<Spec> {
    let mut linux = spec::empty_linux()?;
    linux.set_personality(record.personality.clone());
    let mut spec = Spec::default();
    spec.set_process(Some(process)).set_linux(Some(linux)).set_mounts(None).set_hostname(None);
    Ok(spec)
}

/// Where the new process waits for its limits; gone on drop.
struct Door(PathBuf);

impl Door {
    fn new(store: &Store, id: &Id) -> Self {
        Self(store.folder(id).join(format!("exec-{}.sock", std::process::id())))
    }

    fn listen(&self) -> Result<NotifyListener> {
        // One that was killed may have had our pid.
        note::remove(&self.0)?;
        NotifyListener::new(&self.0).map_err(|e| {
            Error::caused(ErrorKind::Internal, format!("bind {}", self.0.display()), e)
        })
    }

    fn open(&self) -> Result<()> {
        steer::notify(&self.0).context("start", "the process")
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        // What stays behind goes with the container.
        let _ = note::remove(&self.0);
    }
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
