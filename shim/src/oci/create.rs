//! Making a container, up to the point before the user's program runs.
//!
//! ```text
//!   read config.json ─▶ reserve the name ─▶ record ─▶ cgroups ─▶ init is born ─▶ ready ─▶ record
//! ```
//!
//! What was made is undone when a later step fails. The record comes before the
//! first thing that outlives us, so that whoever finds a half-made container can
//! remove all of it.

use std::{io::Write, os::fd::AsFd, path::Path, time::SystemTime};

use libcontainer::{
    container::ContainerStatus, notify_socket::NotifyListener, process::args::ContainerType,
};
use nix::sched::CloneFlags;
use shim_protocol::{Context, Error, ErrorKind, Id, Result, note};

use super::{
    Record, Store, Streams,
    cgroup::{self, Groups},
    cwd,
    executor::Become,
    hooks,
    init::{self, Birth, Line, Maker},
    listener,
    mounts::Scratch,
    process::{self, Place},
    record,
    seccomp::Filter,
    spec::{self, Config},
    streams::Open,
};
use crate::sys::{self, clone::Cloned};

const SIGKILL: u32 = nix::libc::SIGKILL as u32;

/// A container to be made.
#[derive(Debug)]
pub(crate) struct Create<'a> {
    /// Its name.
    pub(crate) id: &'a Id,
    /// Folder with `config.json`.
    pub(crate) bundle: &'a Path,
    /// Streams of its first process.
    pub(crate) streams: Streams,
    /// Where the pid of its first process is to be written.
    pub(crate) pid_file: Option<&'a Path>,
    /// Do not use pivot_root.
    pub(crate) no_pivot_root: bool,
    /// Do not give the container a session keyring of its own.
    pub(crate) no_new_keyring: bool,
    /// Have systemd make the control groups.
    pub(crate) systemd_cgroup: bool,
    /// Its first process is to be a child of our parent.
    pub(crate) sibling: bool,
}

/// Makes a container; gives the pid of its first process. The calling process
/// has one thread.
///
/// # Errors
/// `AlreadyExists` when there is one of that name, `InvalidArgument` and
/// `Unimplemented` for its configuration, `Unknown` for what goes wrong inside
/// it. After a failure nothing is left of the container.
pub(crate) fn create(store: &Store, mut request: Create<'_>) -> Result<u32> {
    let config = spec::load(request.bundle)?;
    let filter = config.process.seccomp.as_ref().map(Filter::compile).transpose()?;
    let terminal = config.process.process.terminal() == Some(true);
    let streams = std::mem::take(&mut request.streams).open(terminal)?;
    let place = Place::of(&config.linux)?;
    let mut record = plan(&request, &config)?;

    store.reserve(request.id)?;
    let mut undo = Undo { store, id: request.id, groups: None, init: None, is_done: false };
    record.groups.require_unused()?;
    store.write(request.id, &record)?;
    let limits = cgroup::Limits::of(config.linux.resources().as_ref(), request.systemd_cgroup);
    let holder = record.groups.make(limits.first())?;
    undo.groups = Some(record.groups.clone());
    record.groups.allow_devices(limits.first())?;
    if let Some(resources) = limits.first() {
        record.groups.apply(resources)?;
    }
    cwd::ensure(&config.rootfs, config.process.process.cwd());

    // Others may look at us while we are in neither world.
    sys::process::set_dumpable(false).context("hide", "from the container")?;
    let (init, maker) = bear(store, &request, &config, filter, streams, &place, &record)?;
    record.pid = init.pid;
    record.began = record::Birth::of(init.pid).map(|birth| birth.began).unwrap_or_default();
    undo.init = Some(init);
    drop(holder);
    if let Some(resources) = limits.last() {
        record.groups.update(resources)?;
    }
    raise(store, request.id, &config, &record, maker)?;
    process::limit(record.pid, &config.process.process, place.has_user())?;
    store.write(request.id, &record)?;
    if let Some(path) = request.pid_file {
        note::write(path, record.pid.to_string().as_bytes())?;
    }
    undo.is_done = true;
    Ok(record.pid)
}

/// What will be kept of the container.
fn plan(request: &Create<'_>, config: &Config) -> Result<Record> {
    let linux = &config.linux;
    let annotations = config.spec.annotations().clone().unwrap_or_default();
    let path = linux.cgroups_path().as_ref().filter(|path| !path.as_os_str().is_empty());
    let groups = match (path, request.systemd_cgroup) {
        (path, true) => {
            Groups::of_unit(path.map_or(Path::new(""), |path| path), request.id, &annotations)?
        }
        (Some(path), false) => Groups::plan(path)?,
        (None, false) => Groups::plan(Path::new(&**request.id))?,
    };
    let kinds = linux.namespaces().iter().flatten().map(|ns| process::flag(ns.typ()));
    Ok(Record {
        oci_version: config.spec.version().clone(),
        bundle: request.bundle.to_owned(),
        rootfs: config.rootfs.clone(),
        created: Some(SystemTime::now()),
        pid: 0,
        began: 0,
        groups,
        namespaces: kinds.fold(CloneFlags::empty(), |all, kind| all | kind).bits() as u32,
        has_keyring: !request.no_new_keyring,
        annotations,
        poststart: config.hooks.poststart().clone().unwrap_or_default(),
        poststop: config.hooks.poststop().clone().unwrap_or_default(),
        seccomp: config.process.seccomp.clone(),
        personality: linux.personality().clone(),
    })
}

/// Makes the first process.
fn bear(
    store: &Store,
    request: &Create<'_>,
    config: &Config,
    filter: Option<Filter>,
    streams: Open,
    place: &Place,
    record: &Record,
) -> Result<(Cloned, Maker)> {
    let doors = record.groups.open(None)?;
    let listens = filter.as_ref().is_some_and(Filter::has_listener);
    let mut line = Line::new(place.has_new_user(), listens)?;
    let executor = Become::new(&config.process, filter, line.listener(), place.has_user());
    let notify = store.notify(request.id);
    let notify = NotifyListener::new(&notify)
        .map_err(|e| Error::caused(ErrorKind::Internal, format!("bind {}", notify.display()), e))?;
    let kind = ContainerType::InitContainer;
    let (mut spec, rootfs) = (config.spec.clone(), config.rootfs.clone());
    let scratch = Scratch::plan(&mut spec, request.bundle, &rootfs, &config.linux, place)?;
    let mut args = init::args(kind, spec, rootfs, &streams, notify, &executor);
    args.no_pivot = request.no_pivot_root;
    let creating = ContainerStatus::Creating;
    args.container = Some(hooks::view(store, request.id, record, creating));
    let birth = Birth {
        doors: &doors,
        in_user_namespace: place.has_user(),
        time: place.time.as_ref(),
        enter: None,
        keyring: record.keyring(request.id),
        scratch: Some(&scratch),
        args,
        executor,
    };
    let init = place.spawn(&doors, request.sibling, || init::live(&birth, &mut line))?;
    Ok((init, line.into_maker()?))
}

/// Gives the first process what it waits for, until it is ready.
fn raise(store: &Store, id: &Id, config: &Config, record: &Record, mut maker: Maker) -> Result<()> {
    if let Some(mut mapping) = maker.mapping.take() {
        process::map_ids(record.pid, &config.linux)?;
        // A process that has ended says why below.
        let _ = mapping.write_all(b"m");
    }
    if config.spec.hooks().is_some() {
        maker.wait_for_hooks()?;
        let view = hooks::view(store, id, record, ContainerStatus::Creating);
        hooks::run(config.hooks.prestart().as_ref(), "prestart", &view)?;
        hooks::run(config.hooks.create_runtime().as_ref(), "createRuntime", &view)?;
        maker.hooks_done()?;
    }
    if let (Some(listener), Some(seccomp)) = (maker.listener.take(), &config.process.seccomp) {
        listener::pass_on(&listener, seccomp, id, record)?;
    }
    maker.wait_until_ready()
}

/// Removes what was made of a container, unless all of it was.
struct Undo<'a> {
    store: &'a Store,
    id: &'a Id,
    groups: Option<Groups>,
    init: Option<Cloned>,
    is_done: bool,
}

impl Undo<'_> {
    fn undo(&self) -> Result<()> {
        if let Some(init) = &self.init {
            match sys::process::signal(init.fd.as_fd(), SIGKILL) {
                // It has ended, as it should.
                Err(e) if e.raw_os_error() == Some(nix::libc::ESRCH) => {}
                killed => killed.context("kill", "the container's process")?,
            }
            sys::process::wait(init.fd.as_fd()).context("wait for", "the container's process")?;
        }
        if let Some(groups) = &self.groups {
            groups.remove()?;
        }
        self.store.remove(self.id)
    }
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        if !self.is_done
            && let Err(error) = self.undo()
        {
            tracing::error!(container = %self.id, error = %error.report(), "undo create");
        }
    }
}
