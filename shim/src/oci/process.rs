//! Makes a process where it belongs: in its namespaces and cgroups.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use nix::sched::{CloneFlags, setns, unshare};
use oci_spec::runtime::{Linux, LinuxIdMapping, LinuxNamespaceType, PosixRlimit, PosixRlimitType};
use shim_protocol::{Context, Error, ErrorKind, Result};

use super::{cgroup::Doors, spec};
use crate::sys::{
    clone::{self, Cloned, How},
    process,
};

/// Not known to nix: a time namespace (`include/uapi/linux/sched.h`).
pub(super) const NEWTIME: CloneFlags = CloneFlags::from_bits_retain(nix::libc::CLONE_NEWTIME);

/// Where a new process is to be.
#[derive(Debug)]
pub(super) struct Place {
    /// Made together with it: a pid and a user namespace.
    new: CloneFlags,
    /// Made by the process itself, of what it is in by then.
    pub(super) unshare: CloneFlags,
    /// The machine's names are the container's own to set.
    pub(super) is_named: bool,
    /// Entered before it is made, in this order.
    joined: Vec<(CloneFlags, File)>,
    /// A new time namespace, with what is written into its offsets.
    new_time: Option<String>,
    /// Entered by the process itself: the kernel lets nobody else in that shares
    /// memory.
    pub(super) time: Option<File>,
}

impl Place {
    /// The place of a container's first process.
    ///
    /// # Errors
    /// `InvalidArgument` for a namespace that is not there.
    pub(super) fn of(linux: &Linux) -> Result<Self> {
        let with_it = CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWUSER;
        let mut place = Self {
            new: CloneFlags::empty(),
            unshare: CloneFlags::empty(),
            is_named: false,
            joined: Vec::new(),
            new_time: None,
            time: None,
        };
        for namespace in linux.namespaces().iter().flatten() {
            let kind = flag(namespace.typ());
            let path = namespace.path().as_ref().filter(|path| !path.as_os_str().is_empty());
            match path {
                Some(path) => {
                    let file = open_namespace(path, kind)?;
                    if kind == CloneFlags::CLONE_NEWUTS {
                        place.is_named = !is_ours(&file, "uts")?;
                    }
                    match kind {
                        NEWTIME => place.time = Some(file),
                        _ => place.joined.push((kind, file)),
                    }
                }
                None if kind == NEWTIME => place.new_time = Some(offsets(linux)),
                None => {
                    place.is_named |= kind == CloneFlags::CLONE_NEWUTS;
                    place.new |= kind & with_it;
                    place.unshare |= kind - with_it;
                }
            }
        }
        // Its kinds of namespaces are entered by processes that have the right to one.
        if place.time.is_some() && place.has_new_user() {
            return Err(spec::unable("linux.namespaces[time].path with a new user namespace"));
        }
        // With a user namespace go the rights to enter the others.
        place.joined.sort_by_key(|(kind, _)| *kind == CloneFlags::CLONE_NEWUSER);
        Ok(place)
    }

    /// Is there a user namespace whose ids are to be mapped?
    pub(super) fn has_new_user(&self) -> bool {
        self.new.contains(CloneFlags::CLONE_NEWUSER)
    }

    /// Is it in a user namespace, new or not?
    pub(super) fn has_user(&self) -> bool {
        let is_user = |(kind, _): &(CloneFlags, File)| *kind == CloneFlags::CLONE_NEWUSER;
        self.has_new_user() || self.joined.iter().any(is_user)
    }

    /// The user namespace that is entered, if it is not a new one.
    pub(super) fn user_namespace(&self) -> Option<&File> {
        let mut joined = self.joined.iter();
        joined.find(|(kind, _)| *kind == CloneFlags::CLONE_NEWUSER).map(|(_, file)| file)
    }

    /// Makes a process that runs `child`.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub(super) fn spawn(
        &self,
        doors: &Doors,
        sibling: bool,
        child: impl FnOnce() -> u8,
    ) -> Result<Cloned> {
        let how = How { namespaces: self.new, sibling, cgroup: doors.unified() };
        if self.joined.is_empty() && self.new_time.is_none() {
            return clone::clone(&how, child).context("make", "a process");
        }
        // What is made aside is a sibling of its maker there, and so ours to wait for
        // or our parent's, as asked.
        let how = How { sibling: true, ..how };
        let mut child = Some(child);
        let mut cloned = None;
        clone::aside(sibling, || {
            let made = self.enter().and_then(|()| match child.take() {
                Some(child) => clone::clone(&how, child).context("make", "a process"),
                None => Err(Error::internal("a process was made twice")),
            });
            cloned = Some(made);
        })
        .context("enter", "namespaces")?;
        cloned.unwrap_or_else(|| Err(Error::internal("no process was made")))
    }

    fn enter(&self) -> Result<()> {
        for (kind, namespace) in &self.joined {
            setns(namespace, *kind)
                .map_err(io::Error::from)
                .context("enter", format_args!("linux.namespaces: {kind:?}"))?;
        }
        if let Some(offsets) = &self.new_time {
            unshare(NEWTIME).map_err(io::Error::from).context("make", "a time namespace")?;
            if !offsets.is_empty() {
                fs::write("/proc/self/timens_offsets", offsets).context_as(
                    ErrorKind::InvalidArgument,
                    "set",
                    "linux.timeOffsets",
                )?;
            }
        }
        Ok(())
    }
}

/// The clone flag of a kind.
pub(super) fn flag(kind: LinuxNamespaceType) -> CloneFlags {
    match kind {
        LinuxNamespaceType::Mount => CloneFlags::CLONE_NEWNS,
        LinuxNamespaceType::Cgroup => CloneFlags::CLONE_NEWCGROUP,
        LinuxNamespaceType::Uts => CloneFlags::CLONE_NEWUTS,
        LinuxNamespaceType::Ipc => CloneFlags::CLONE_NEWIPC,
        LinuxNamespaceType::User => CloneFlags::CLONE_NEWUSER,
        LinuxNamespaceType::Pid => CloneFlags::CLONE_NEWPID,
        LinuxNamespaceType::Network => CloneFlags::CLONE_NEWNET,
        LinuxNamespaceType::Time => NEWTIME,
    }
}

/// Is it the namespace that this process is in?
fn is_ours(namespace: &File, name: &str) -> Result<bool> {
    let own = format!("/proc/self/ns/{name}");
    let found = namespace.metadata().context("look at", "a namespace")?;
    let own = fs::metadata(&own).context("look at", &own)?;
    Ok((found.dev(), found.ino()) == (own.dev(), own.ino()))
}

fn open_namespace(path: &Path, kind: CloneFlags) -> Result<File> {
    let what = || format!("linux.namespaces: {kind:?} at {}", path.display());
    File::open(path).context_as(ErrorKind::InvalidArgument, "open", what())
}

fn offsets(linux: &Linux) -> String {
    let offsets = linux.time_offsets().iter().flatten();
    let line = |(clock, offset): (&String, &oci_spec::runtime::LinuxTimeOffset)| {
        let (seconds, nanos) = (offset.secs().unwrap_or(0), offset.nanosecs().unwrap_or(0));
        format!("{clock} {seconds} {nanos}\n")
    };
    offsets.map(line).collect()
}

/// Tells a container's new user namespace which ids it has (user_namespaces(7)).
///
/// # Errors
/// `InvalidArgument` for a mapping that the kernel refuses.
pub(super) fn map_ids(pid: u32, linux: &Linux) -> Result<()> {
    for (file, field, mappings) in [
        ("uid_map", "linux.uidMappings", linux.uid_mappings()),
        ("gid_map", "linux.gidMappings", linux.gid_mappings()),
    ] {
        let text = id_map(mappings.as_deref().unwrap_or_default());
        if text.is_empty() {
            return Err(Error::invalid(format!("{field}: none for a new user namespace")));
        }
        fs::OpenOptions::new()
            .write(true)
            .open(format!("/proc/{pid}/{file}"))
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .context_as(ErrorKind::InvalidArgument, "set", field)?;
    }
    Ok(())
}

/// Mappings as the kernel reads them.
pub(super) fn id_map(mappings: &[LinuxIdMapping]) -> String {
    let line = |m: &LinuxIdMapping| format!("{} {} {}\n", m.container_id(), m.host_id(), m.size());
    mappings.iter().map(line).collect()
}

/// Sets what a process in a user namespace may not set for itself, and what
/// follows it by its pid.
///
/// # Errors
/// `InvalidArgument` for a value that the kernel refuses.
pub(super) fn limit(
    pid: u32,
    process: &oci_spec::runtime::Process,
    in_user_namespace: bool,
) -> Result<()> {
    if in_user_namespace {
        limit_resources(pid, process)?;
    }
    if let Some(score) = process.oom_score_adj() {
        let path = PathBuf::from(format!("/proc/{pid}/oom_score_adj"));
        fs::write(&path, score.to_string()).context_as(
            ErrorKind::InvalidArgument,
            "set",
            "process.oomScoreAdj",
        )?;
    }
    Ok(())
}

/// Sets a process's resource limits; 0 is this process.
///
/// # Errors
/// As [`limit`].
pub(super) fn limit_resources(pid: u32, process: &oci_spec::runtime::Process) -> Result<()> {
    for limit in process.rlimits().iter().flatten() {
        let Limit { number, soft, hard } = limit_of(limit);
        process::limit(pid, number, soft, hard).context_as(
            ErrorKind::InvalidArgument,
            "set",
            format_args!("process.rlimits: {}", limit.typ()),
        )?;
    }
    Ok(())
}

struct Limit {
    number: u32,
    soft: u64,
    hard: u64,
}

fn limit_of(limit: &PosixRlimit) -> Limit {
    use nix::libc;
    let number = match limit.typ() {
        PosixRlimitType::RlimitCpu => libc::RLIMIT_CPU,
        PosixRlimitType::RlimitFsize => libc::RLIMIT_FSIZE,
        PosixRlimitType::RlimitData => libc::RLIMIT_DATA,
        PosixRlimitType::RlimitStack => libc::RLIMIT_STACK,
        PosixRlimitType::RlimitCore => libc::RLIMIT_CORE,
        PosixRlimitType::RlimitRss => libc::RLIMIT_RSS,
        PosixRlimitType::RlimitNproc => libc::RLIMIT_NPROC,
        PosixRlimitType::RlimitNofile => libc::RLIMIT_NOFILE,
        PosixRlimitType::RlimitMemlock => libc::RLIMIT_MEMLOCK,
        PosixRlimitType::RlimitAs => libc::RLIMIT_AS,
        PosixRlimitType::RlimitLocks => libc::RLIMIT_LOCKS,
        PosixRlimitType::RlimitSigpending => libc::RLIMIT_SIGPENDING,
        PosixRlimitType::RlimitMsgqueue => libc::RLIMIT_MSGQUEUE,
        PosixRlimitType::RlimitNice => libc::RLIMIT_NICE,
        PosixRlimitType::RlimitRtprio => libc::RLIMIT_RTPRIO,
        PosixRlimitType::RlimitRttime => libc::RLIMIT_RTTIME,
    };
    Limit { number, soft: limit.soft(), hard: limit.hard() }
}
