//! The life of a container's process before the user's program.
//!
//! ```text
//!   born ─▶ cgroups ─▶ namespaces ─▶ tree of files ─▶ terminal ─▶ user
//!        ─▶ capabilities ─▶ ready ─▶ (told to go on) ─▶ filter ─▶ program
//! ```
//!
//! A process that is added to a container goes the same way, into namespaces
//! and a tree that are there.

use std::{
    convert::Infallible,
    ffi::CString,
    fs::File,
    io::{self, Read},
    os::{
        fd::{AsFd, RawFd},
        unix::net::UnixListener,
    },
};

use libcontainer::{
    apparmor, capabilities,
    config::PersonalityDomain,
    container::{Container, ContainerStatus},
    syscall::{Syscall, linux::LinuxSyscall},
};
use nix::{
    sched::{CloneFlags, unshare},
    sys::{
        prctl,
        stat::{Mode, umask},
    },
    unistd::{Gid, Uid, setgroups, sethostname, setresgid, setresuid, setsid},
};
use oci_spec::runtime::{Capability, Hook, LinuxPersonalityDomain};
use shim_protocol::{Context, Error, ErrorKind, Result};

use super::{
    cgroup::Doors,
    cwd::{self, Entered},
    hooks,
    line::{Child, Line, Point},
    process::{self, NEWTIME},
    program::{self, Program},
    rootfs::{self, Plan},
    scheduling,
    seccomp::Filter,
    spec::{Config, Confined},
    streams::Open,
    terminal,
};
use crate::{log, sys};

/// Status of a process that did not become the user's program, as with runc.
const FAILED: u8 = 255;
/// Most that a first process is told when it may go on, in bytes.
const MAX_WORD_BYTES: usize = 64;

/// What a new process is told.
pub(super) struct Birth<'a> {
    /// Into its cgroups, if it is not there yet.
    pub(super) doors: Option<&'a Doors>,
    /// What its maker has open for itself alone.
    pub(super) foreign: Option<RawFd>,
    /// It is in a user namespace, and becomes root there.
    pub(super) in_user_namespace: bool,
    /// Its maker maps the ids of that.
    pub(super) waits_for_ids: bool,
    /// A time namespace to enter.
    pub(super) time: Option<&'a File>,
    /// Namespaces to make.
    pub(super) unshare: CloneFlags,
    /// Name of a session keyring of its own.
    pub(super) keyring: Option<CString>,
    pub(super) streams: &'a Open,
    pub(super) confined: &'a Confined,
    pub(super) filter: Option<&'a Filter>,
    pub(super) personality: Option<LinuxPersonalityDomain>,
    /// What only the first process of a container has.
    pub(super) first: Option<First<'a>>,
}

/// What only the first process of a container has.
pub(super) struct First<'a> {
    pub(super) config: &'a Config,
    pub(super) plan: Plan<'a>,
    /// The names of the machine are the container's own.
    pub(super) is_named: bool,
    /// The container as hooks get to see it.
    pub(super) view: Container,
    /// Where it waits to be started.
    pub(super) door: UnixListener,
}

/// What a maker does before it makes a process: others may look at that one
/// while it is in neither world, and what the daemon's user belongs to is nothing
/// to a container.
///
/// # Errors
/// What the kernel refuses.
pub(super) fn hide() -> Result<()> {
    sys::process::forbid_looking_in().context("hide", "from the container")?;
    nix(setgroups(&[])).context("leave", "all groups")
}

/// Runs in the new process; returns only if that did not become the user's
/// program.
pub(super) fn live(birth: &mut Birth<'_>, line: &mut Line) -> u8 {
    // Standard error becomes the container's.
    log::fall_silent();
    let Some(mut child) = line.child() else { return FAILED };
    // Whom we tell may be gone.
    sys::process::ignore_broken_pipes();
    let Err(error) = go(birth, &mut child);
    child.fail(&error);
    FAILED
}

fn go(birth: &mut Birth<'_>, child: &mut Child) -> Result<Infallible> {
    if let Some(foreign) = birth.foreign {
        nix::unistd::close(foreign).map_err(io::Error::from).context("close", "the maker's")?;
    }
    get_in(birth, child)?;
    settle(birth, child)?;
    become_user(birth, child)
}

/// Into cgroups and namespaces.
fn get_in(birth: &Birth<'_>, child: &mut Child) -> Result<()> {
    if let Some(doors) = birth.doors {
        doors.enter().context("enter", "the container's cgroups")?;
    }
    if birth.waits_for_ids {
        child.wait()?;
    }
    if let Some(time) = birth.time {
        nix(nix::sched::setns(time, NEWTIME)).context("enter", "the time namespace")?;
    }
    if let Some(name) = &birth.keyring {
        match sys::process::new_session_keyring(name) {
            // A kernel without keys has none to share either.
            Err(e) if e.raw_os_error() == Some(nix::libc::ENOSYS) => {}
            made => made.context("make", "a session keyring")?,
        }
    }
    if birth.in_user_namespace {
        let (user, group) = (Uid::from_raw(0), Gid::from_raw(0));
        nix(setresgid(group, group, group)).context("become", "root of the user namespace")?;
        nix(setresuid(user, user, user)).context("become", "root of the user namespace")?;
    }
    umask(Mode::S_IWGRP | Mode::S_IWOTH);
    nix(unshare(birth.unshare)).context("make", "namespaces")
}

/// Makes everything around the process what the container is to see.
fn settle(birth: &mut Birth<'_>, child: &mut Child) -> Result<()> {
    let process = &birth.confined.process;
    nix(setsid()).context("begin", "a session")?;
    if let Some(first) = &mut birth.first {
        first.name()?;
        let tree = rootfs::make(&mut first.plan)?;
        if first.config.has_hooks_around_init() {
            child.tell(Point::WantsHooks)?;
            child.wait()?;
            let list = first.config.hooks.create_container();
            first.run(list.as_ref(), "createContainer", ContainerStatus::Creating, None)?;
        }
        rootfs::enter(&first.plan, tree)?;
        cwd::make(process.cwd())?;
    }
    // From here on it is the container's process, and no longer one for hooks.
    scheduling::set(process, birth.first.as_ref().map(|first| &first.config.linux))?;
    match birth.streams.console() {
        Some(socket) => {
            terminal::make(socket, process.console_size().as_ref(), birth.first.is_some())?;
        }
        None => {
            birth.streams.connect().context("connect", "the streams")?;
            birth.streams.reopen_null().context("open", "/dev/null")?;
        }
    }
    if process.no_new_privileges() == Some(true) {
        nix(prctl::set_no_new_privs()).context("set", "process.noNewPrivileges")?;
    }
    if let Some(domain) = birth.personality {
        let domain = match domain {
            LinuxPersonalityDomain::PerLinux => PersonalityDomain::Linux,
            LinuxPersonalityDomain::PerLinux32 => PersonalityDomain::Linux32,
        };
        LinuxSyscall.personality(domain).map_err(|e| refused("linux.personality", e))?;
    }
    if let Some(profile) = process.apparmor_profile().as_ref().filter(|name| !name.is_empty()) {
        apparmor::apply_profile(profile).map_err(|e| refused("process.apparmorProfile", e))?;
    }
    if let Some(mask) = process.user().umask() {
        umask(Mode::from_bits_truncate(mask));
    }
    match &birth.first {
        Some(first) => rootfs::finish(&first.plan),
        None => Ok(()),
    }
}

/// From root with everything to the user's program.
fn become_user(birth: &Birth<'_>, child: &mut Child) -> Result<Infallible> {
    let process = &birth.confined.process;
    let user = process.user();
    let entered = cwd::enter(process.cwd())?;
    birth.streams.give_to(user.uid()).context("own", "the streams")?;
    let groups: Vec<_> =
        user.additional_gids().iter().flatten().map(|gid| Gid::from_raw(*gid)).collect();
    if !groups.is_empty() {
        nix(setgroups(&groups)).context("set", "process.user.additionalGids")?;
    }
    set_user(user.uid(), user.gid()).context_as(
        ErrorKind::InvalidArgument,
        "set",
        "process.user",
    )?;
    if entered == Entered::Denied && cwd::enter(process.cwd())? == Entered::Denied {
        return Err(cwd::denied(process.cwd()));
    }
    // Nothing that is open now will be open in the user's program. Until then it is
    // pipes and sockets, through which no path leads anywhere.
    LinuxSyscall.close_range(0).map_err(|e| refused("the descriptors", e))?;
    capabilities::reset_effective(&LinuxSyscall).map_err(|e| refused("process.capabilities", e))?;
    if !birth.in_user_namespace {
        process::limit_resources(0, process)?;
    }
    let filter = birth.filter;
    let early = filter.filter(|filter| filter.has_listener());
    if let Some(filter) = early {
        // Who answers for it has to be told while the container is made.
        install(filter, child)?;
    }
    drop_capabilities(birth)?;
    let program = Program::of(process)?;
    child.tell(Point::Ready)?;

    match &birth.first {
        Some(first) => first.wait(process)?,
        None => child.wait()?,
    }
    // What this program ignores, the user's need not.
    sys::process::reset_signals();
    if let Some(filter) = filter.filter(|filter| !filter.has_listener()) {
        install(filter, child)?;
    }
    program.execute()
}

/// Becomes a user who may still do everything.
fn set_user(user: u32, group: u32) -> io::Result<()> {
    let (user, group) = (Uid::from_raw(user), Gid::from_raw(group));
    nix(prctl::set_keepcaps(true))?;
    nix(setresgid(group, group, group))?;
    nix(setresuid(user, user, user))?;
    nix(prctl::set_keepcaps(false))
}

fn install(filter: &Filter, child: &Child) -> Result<()> {
    match filter.install().context_as(ErrorKind::InvalidArgument, "set", "linux.seccomp")? {
        Some(listener) => child.send_listener(listener.as_fd()),
        None => Ok(()),
    }
}

/// Leaves the capabilities that were asked for. Without no_new_privs only who
/// may administer can set a filter, and that comes last so that the filter need
/// allow nothing of ours: until then we keep that one, too. It does not get
/// through execve(2), which makes new sets of those that it may inherit.
fn drop_capabilities(birth: &Birth<'_>) -> Result<()> {
    let mut asked = birth.confined.capabilities.clone();
    let filters_late = birth.filter.is_some_and(|filter| !filter.has_listener());
    if filters_late && birth.confined.process.no_new_privileges() != Some(true) {
        let with = |set: &Option<oci_spec::runtime::Capabilities>| {
            let mut set = set.clone().unwrap_or_default();
            set.insert(Capability::SysAdmin);
            Some(set)
        };
        let (permitted, effective) = (with(asked.permitted()), with(asked.effective()));
        asked.set_permitted(permitted).set_effective(effective);
    }
    capabilities::drop_privileges(&asked, &LinuxSyscall)
        .map_err(|e| refused("process.capabilities", e))
}

impl First<'_> {
    /// Runs hooks, which get to see the container with this process as theirs sees it.
    fn run(
        &self,
        list: Option<&Vec<Hook>>,
        name: &str,
        status: ContainerStatus,
        env: Option<&[String]>,
    ) -> Result<()> {
        let mut view = self.view.clone();
        view.state.status = status;
        view.state.pid = Some(nix::unistd::Pid::this().as_raw());
        hooks::run(list, name, &view, env)
    }

    /// Names the machine, if it is one of its own.
    fn name(&self) -> Result<()> {
        if !self.is_named {
            return Ok(());
        }
        let spec = &self.config.spec;
        if let Some(name) = spec.hostname() {
            nix(sethostname(name)).context_as(ErrorKind::InvalidArgument, "set", "hostname")?;
        }
        if let Some(name) = spec.domainname() {
            LinuxSyscall.set_domainname(name).map_err(|e| refused("domainname", e))?;
        }
        Ok(())
    }

    /// Waits until the container is started.
    fn wait(&self, process: &oci_spec::runtime::Process) -> Result<()> {
        let hear = || -> io::Result<usize> {
            let (mut stream, _) = self.door.accept()?;
            stream.read(&mut [0; MAX_WORD_BYTES])
        };
        // Who only looks whether we wait says nothing.
        while hear().context("wait for", "the start")? == 0 {}
        let list = self.config.hooks.start_container();
        let env = program::environment(process);
        self.run(list.as_ref(), "startContainer", ContainerStatus::Created, Some(&env))
    }
}

fn refused(field: &str, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::caused(ErrorKind::InvalidArgument, format!("set {field}"), error)
}

fn nix<T>(result: nix::Result<T>) -> io::Result<T> {
    result.map_err(io::Error::from)
}
