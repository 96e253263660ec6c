//! Making a container, up to the point before the user's program runs.
//!
//! ```text
//!   read config.json ─▶ reserve the name ─▶ record ─▶ cgroups ─▶ init is born ─▶ ready ─▶ record
//! ```
//!
//! What was made is undone when a later step fails. The record comes before the
//! first thing that outlives us, so that whoever finds a half-made container can
//! remove all of it.

use std::{
    fs::File,
    os::{
        fd::{AsFd, AsRawFd, RawFd},
        unix::net::UnixListener,
    },
    path::Path,
    time::SystemTime,
};

use libcontainer::container::ContainerStatus;
use nix::sched::CloneFlags;
use shim_protocol::{Context, Error, Id, Result, note};

use super::{
    Prepared, Record, Store, Streams, capabilities,
    cgroup::{self, Groups},
    executed, hooks,
    init::{self, Birth, First},
    line::{Line, Maker, Point},
    listener,
    process::{self, Place},
    record::{self, Defaults},
    rootfs::{self, Plan},
    seccomp::Filter,
    spec::Config,
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
    /// A descriptor that is ours alone.
    pub(crate) own: Option<RawFd>,
    /// What was made of its configuration before.
    pub(crate) prepared: Option<Prepared>,
}

/// Makes a container; gives the pid of its first process. The calling process
/// has one thread.
///
/// # Errors
/// `AlreadyExists` when there is one of that name, `InvalidArgument` and
/// `Unimplemented` for its configuration, `Unknown` for what goes wrong inside
/// it. After a failure nothing is left of the container.
pub(crate) fn create(store: &Store, mut request: Create<'_>) -> Result<u32> {
    let prepared = request.prepared.take().filter(|early| early.is_of(request.bundle));
    let prepared = prepared.map_or_else(|| Prepared::load(request.bundle), Ok)?;
    let Prepared { mut config, filter, .. } = prepared;
    let terminal = config.process.process.terminal() == Some(true);
    let streams = std::mem::take(&mut request.streams).open(terminal)?;
    let place = Place::of(&config.linux)?;
    // In a user namespace of its own it has all of them.
    if !place.has_user() {
        let asked = &config.process.capabilities;
        config.process.capabilities = capabilities::grantable(asked)?;
    }
    let mut record = plan(&request, &config)?;

    store.reserve(request.id)?;
    let mut undo =
        Undo { store, id: request.id, groups: None, init: None, began: None, is_done: false };
    record.groups.require_unused()?;
    store.write(request.id, &record)?;
    if let Some(seccomp) = &config.process.seccomp {
        store.write_seccomp(request.id, seccomp)?;
    }
    let limits = cgroup::Limits::of(config.linux.resources().as_ref(), request.systemd_cgroup);
    let holder = record.groups.make(limits.first())?;
    undo.groups = Some(record.groups.clone());
    record.groups.allow_devices(limits.first())?;
    if let Some(resources) = limits.first() {
        record.groups.apply(resources)?;
    }

    init::hide()?;
    let (init, maker) = bear(store, &request, &config, filter, streams, &place, &record)?;
    record.pid = init.pid;
    record.began = record::Birth::of(init.pid).map(|birth| birth.began).unwrap_or_default();
    undo.init = Some(init);
    undo.began = Some(record.clone());
    raise(store, request.id, &config, &record, place.has_new_user(), maker)?;
    drop(holder);
    // Not while init opens devices: who makes the groups may take them away and give
    // them back when it is told of other limits.
    if let Some(resources) = limits.last() {
        record.groups.update(resources)?;
    }
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
        is_filtered: config.process.seccomp.is_some(),
        personality: linux.personality().clone(),
        defaults: Defaults::of(&config.process.process),
        ..Record::default()
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
    // Ours is closed at the end of this function, and init's when it executes.
    let _executed = match record.poststart.is_empty() {
        true => None,
        false => Some(executed::promise(&store.executed(request.id))?),
    };
    let mut line = Line::new(filter.as_ref().is_some_and(Filter::has_listener))?;
    let kinds = CloneFlags::from_bits_retain(record.namespaces as i32);
    let plan = Plan {
        spec: &config.spec,
        linux: &config.linux,
        path: &config.rootfs,
        bundle: request.bundle,
        groups: &record.groups,
        has_group_namespace: kinds.contains(CloneFlags::CLONE_NEWCGROUP),
        in_user_namespace: place.has_user(),
        sources: rootfs::sources(config, request.bundle, place)?,
        no_pivot_root: request.no_pivot_root,
    };
    let mut birth = Birth {
        doors: Some(&doors),
        foreign: request.own,
        in_user_namespace: place.has_user(),
        waits_for_ids: place.has_new_user(),
        time: place.time.as_ref(),
        unshare: place.unshare,
        keyring: record.keyring(request.id),
        streams: &streams,
        confined: &config.process,
        filter: filter.as_ref(),
        personality: record.personality.as_ref().map(|personality| personality.domain()),
        first: Some(First {
            config,
            plan,
            is_named: place.is_named,
            view: hooks::view(store, request.id, record, ContainerStatus::Creating),
            door: door(&store.notify(request.id))?,
        }),
    };
    let init = place.spawn(&doors, request.sibling, || init::live(&mut birth, &mut line))?;
    Ok((init, line.maker().ok_or_else(|| Error::internal("the line is cut"))?))
}

/// Where the first process will wait to be started.
fn door(path: &Path) -> Result<UnixListener> {
    let bind = || {
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(std::io::ErrorKind::InvalidInput.into());
        };
        // A path by descriptor, because an address takes 107 bytes at most.
        let folder = File::open(folder)?;
        let address = Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name);
        UnixListener::bind(address)
    };
    bind().context("bind", path.display())
}

/// Gives the first process what it waits for, until it is ready.
fn raise(
    store: &Store,
    id: &Id,
    config: &Config,
    record: &Record,
    has_new_ids: bool,
    mut maker: Maker,
) -> Result<()> {
    if has_new_ids {
        process::map_ids(record.pid, &config.linux)?;
        maker.go();
    }
    if config.has_hooks_around_init() {
        maker.wait_for(Point::WantsHooks)?;
        let view = hooks::view(store, id, record, ContainerStatus::Creating);
        hooks::run(config.hooks.prestart().as_ref(), "prestart", &view, None)?;
        hooks::run(config.hooks.create_runtime().as_ref(), "createRuntime", &view, None)?;
        maker.go();
    }
    if let (Some(from), Some(seccomp)) = (maker.listener(), &config.process.seccomp) {
        listener::pass_on(from, seccomp, id, record)?;
    }
    maker.wait_for(Point::Ready)
}

/// Removes what was made of a container, unless all of it was.
struct Undo<'a> {
    store: &'a Store,
    id: &'a Id,
    groups: Option<Groups>,
    init: Option<Cloned>,
    /// The container that hooks may have seen.
    began: Option<Record>,
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
        // Whatever hooks have made, these are to take away.
        if let Some(record) = &self.began {
            hooks::after(self.store, self.id, record);
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
