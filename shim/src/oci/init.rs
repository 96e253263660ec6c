//! The life of a container's process before the user's program: from birth
//! through libcontainer to the executor.

use std::{
    error::Error as StdError,
    ffi::CString,
    fs::File,
    io::{self, PipeReader, PipeWriter, Read, Write},
    os::{
        fd::{AsRawFd, BorrowedFd, IntoRawFd, RawFd},
        unix::net::UnixStream,
    },
    path::PathBuf,
    rc::Rc,
};

use libcgroups::common::CgroupConfig;
use libcontainer::{
    notify_socket::NotifyListener,
    process::{
        args::{ContainerArgs, ContainerType},
        channel::{InitReceiver, InitSender, MainReceiver, MainSender, init_channel, main_channel},
        init::process::container_init_process,
    },
    syscall::syscall::SyscallType,
};
use nix::{
    sched::CloneFlags,
    sys::stat::{Mode, umask},
    unistd::{Gid, Uid, setgroups, setresgid, setresuid},
};
use oci_spec::runtime::Spec;
use shim_protocol::{Context, Error, ErrorKind, Result};

use super::{
    cgroup::Doors, executor::Become, mounts::Scratch, process, process::NEWTIME, streams::Open,
};
use crate::sys;

/// The most that is read of what a process says about its failure, in bytes.
const MAX_WORDS_BYTES: u64 = 16 * 1024;
/// Status of a process that did not become the user's program, as with runc.
const FAILED: u8 = 255;

/// What a new process is told.
pub(super) struct Birth<'a> {
    pub(super) doors: &'a Doors,
    /// It is in a user namespace, and becomes root there.
    pub(super) in_user_namespace: bool,
    /// A time namespace to enter.
    pub(super) time: Option<&'a File>,
    /// A container to enter, by its init, and those of its namespaces.
    pub(super) enter: Option<(BorrowedFd<'a>, CloneFlags)>,
    /// Name of a session keyring of its own.
    pub(super) keyring: Option<CString>,
    /// Mounts that are made before the others.
    pub(super) scratch: Option<&'a Scratch>,
    /// The way in which it goes on.
    pub(super) args: ContainerArgs,
    pub(super) executor: Become,
}

/// All ends of what a new process and its maker tell each other.
pub(super) struct Line {
    to_maker: MainSender,
    from_init: MainReceiver,
    to_init: InitSender,
    from_maker: InitReceiver,
    /// Init says here why it failed.
    failure: (Option<PipeReader>, PipeWriter),
    /// Init hears here that its ids are mapped.
    mapping: Option<(PipeReader, PipeWriter)>,
    /// The listener of a filter comes through here.
    listener: Option<(UnixStream, UnixStream)>,
}

/// The maker's ends.
pub(super) struct Maker {
    from_init: MainReceiver,
    to_init: InitSender,
    failure: Option<PipeReader>,
    pub(super) mapping: Option<PipeWriter>,
    pub(super) listener: Option<UnixStream>,
}

impl Line {
    pub(super) fn new(maps: bool, listens: bool) -> Result<Self> {
        let failed = |e| Error::caused(ErrorKind::Internal, "make a channel", e);
        let (to_maker, from_init) = main_channel().map_err(failed)?;
        let (to_init, from_maker) = init_channel().map_err(failed)?;
        let (words, failure) = io::pipe().context("make", "a pipe")?;
        let failure = (Some(words), failure);
        let mapping = maps.then(io::pipe).transpose().context("make", "a pipe")?;
        let listener = listens.then(UnixStream::pair).transpose().context("make", "a socket")?;
        Ok(Self { to_maker, from_init, to_init, from_maker, failure, mapping, listener })
    }

    /// Where init is to send the listener of its filter.
    pub(super) fn listener(&self) -> Option<RawFd> {
        self.listener.as_ref().map(|(_, init)| init.as_raw_fd())
    }

    /// To be called in the maker once init is born, which has copies of its ends.
    pub(super) fn into_maker(self) -> Result<Maker> {
        let closed = self.to_maker.close().and_then(|()| self.from_maker.close());
        closed.map_err(|e| Error::caused(ErrorKind::Internal, "close a channel", e))?;
        let Self { from_init, to_init, failure: (failure, _), mapping, listener, .. } = self;
        let mapping = mapping.map(|(_, mapping)| mapping);
        let listener = listener.map(|(listener, _)| listener);
        Ok(Maker { from_init, to_init, failure, mapping, listener })
    }
}

impl Maker {
    /// Waits until init asks for hooks.
    pub(super) fn wait_for_hooks(&mut self) -> Result<()> {
        let asked = self.from_init.wait_for_hook_request();
        asked.map_err(|_| self.why())
    }

    /// Tells init that they have run.
    pub(super) fn hooks_done(&mut self) -> Result<()> {
        let told = self.to_init.hook_done();
        told.map_err(|_| self.why())
    }

    /// Waits until init is about to become the user's program.
    pub(super) fn wait_until_ready(&mut self) -> Result<()> {
        let ready = self.from_init.wait_for_init_ready();
        ready.map_err(|_| self.why())
    }

    /// Waits until it is the user's program.
    pub(super) fn wait_until_executed(self) -> Result<()> {
        match self.words() {
            None => Ok(()),
            Some(words) => Err(Error::new(ErrorKind::Unknown, words)),
        }
    }

    /// Why the process has failed, in its own words.
    fn why(&self) -> Error {
        let words = self.words();
        let words = words.unwrap_or_else(|| "the container's process was killed".into());
        Error::new(ErrorKind::Unknown, words)
    }

    /// What it said, once it can say no more.
    fn words(&self) -> Option<String> {
        let mut words = Vec::new();
        // What cannot be read was not said.
        let _ = self.failure.as_ref()?.take(MAX_WORDS_BYTES).read_to_end(&mut words);
        (!words.is_empty()).then(|| String::from_utf8_lossy(&words).into_owned())
    }
}

/// How libcontainer is told to go on.
pub(super) fn args(
    kind: ContainerType,
    spec: Spec,
    rootfs: PathBuf,
    streams: &Open,
    notify_listener: NotifyListener,
    executor: &Become,
) -> ContainerArgs {
    let [stdin, stdout, stderr] = streams.numbers().map(Some);
    ContainerArgs {
        container_type: kind,
        syscall: SyscallType::Linux,
        spec: Rc::new(spec),
        rootfs,
        console_socket: streams.console(),
        notify_listener,
        preserve_fds: 0,
        container: None,
        user_ns_config: None,
        // Not looked at: groups are ours.
        cgroup_config: CgroupConfig {
            cgroup_path: Default::default(),
            systemd_cgroup: false,
            container_name: String::new(),
        },
        detached: true,
        executor: Box::new(executor.clone()),
        no_pivot: false,
        stdin,
        stdout,
        stderr,
        as_sibling: false,
        pid_file: None,
    }
}

/// Runs in the new process; returns only if that did not become the user's
/// program.
pub(super) fn live(birth: &Birth<'_>, line: &mut Line) -> u8 {
    // Each end has one holder, so that its end is noticed.
    let _ = (line.from_init.close(), line.to_init.close(), line.failure.0.take());
    let mapping = line.mapping.take().map(|(mapped, _)| mapped);
    if let Some((_, init)) = line.listener.take() {
        // The executor knows it by its number.
        let _ = init.into_raw_fd();
    }
    let lived = prepare(birth, mapping).and_then(|()| {
        container_init_process(&birth.args, &mut line.to_maker, &mut line.from_maker)
            .map_err(|error| Error::new(ErrorKind::Unknown, chain(&error)))
    });
    let words = match lived {
        Ok(()) => "the process went on after its end".to_owned(),
        Err(error) => birth.executor.failure().unwrap_or_else(|| error.report().to_string()),
    };
    sys::process::ignore_broken_pipes();
    // Once the container was started nobody listens; its own standard error is
    // what is left then, as with runc.
    if line.failure.1.write_all(words.as_bytes()).is_err() {
        let _ = writeln!(io::stderr(), "{words}");
    }
    FAILED
}

fn prepare(birth: &Birth<'_>, mapped: Option<PipeReader>) -> Result<()> {
    birth.doors.enter().context("enter", "the container's cgroups")?;
    let nix = |result: nix::Result<()>, what: &str| {
        result.map_err(io::Error::from).context(what, "for the container's process")
    };
    if let Some((init, kinds)) = birth.enter {
        process::enter_those_of(init, kinds).context("enter", "the container's namespaces")?;
    }
    if let Some(mut mapped) = mapped {
        let mut byte = [0];
        mapped.read_exact(&mut byte).context("wait for", "the ids of the user namespace")?;
    }
    if let Some(time) = birth.time {
        nix(nix::sched::setns(time, NEWTIME), "set the time namespace")?;
    }
    if let Some(name) = &birth.keyring {
        match sys::process::new_session_keyring(name) {
            // A kernel without keys has none to share either.
            Err(e) if e.raw_os_error() == Some(nix::libc::ENOSYS) => {}
            made => made.context("make", "a session keyring")?,
        }
    }
    // What the daemon's user belongs to is nothing to the container.
    nix(setgroups(&[]), "drop the groups")?;
    if birth.in_user_namespace {
        let (user, group) = (Uid::from_raw(0), Gid::from_raw(0));
        nix(setresgid(group, group, group), "become root of the user namespace")?;
        nix(setresuid(user, user, user), "become root of the user namespace")?;
    }
    umask(Mode::S_IWGRP | Mode::S_IWOTH);
    birth.scratch.map_or(Ok(()), Scratch::attach)
}

/// An error with all that is below it. The library's own texts repeat what is
/// below in part.
fn chain(error: &dyn StdError) -> String {
    let mut words = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_words = cause.to_string();
        if !words.ends_with(&cause_words) {
            words = format!("{words}: {cause_words}");
        }
        next = cause.source();
    }
    words
}
