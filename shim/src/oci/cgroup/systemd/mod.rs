//! Control groups that systemd makes: a container is a scope, a unit for
//! processes that others start (systemd.scope(5)). Names, properties and waiting
//! are as with runc's driver.
//!
//! A scope begins with a process and ends without. A container's first one is
//! not there yet, because it is born in its group, and its limits are to hold
//! before it does anything. So a process of ours holds the scope until then.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use nix::sched::CloneFlags;
use oci_spec::runtime::LinuxResources;
use serde::{Deserialize, Serialize};
use shim_protocol::{Context, Error, ErrorKind, Result};

use self::{
    bus::{Bus, SYSTEMD},
    wire::{Call, Message, Property, Value, Writer},
};
use super::devices::Rule;
use crate::oci::idle::Idle;

mod annotations;
mod bus;
mod properties;
mod wire;

const MANAGER: Call<'_> = Call {
    destination: SYSTEMD,
    path: "/org/freedesktop/systemd1",
    interface: "org.freedesktop.systemd1.Manager",
    member: "",
    signature: "",
};
/// Where a path names no slice, and what a name begins with where it names none.
const SLICE: &str = "system.slice";
const PREFIX: &str = "runc";
/// `UNIT_NAME_MAX`, in bytes.
const MAX_NAME_BYTES: usize = 255;

/// The unit of a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Scope {
    name: String,
    slice: String,
    description: String,
    /// What the client sets besides.
    #[serde(skip)]
    extra: Vec<(String, Value)>,
}

impl Scope {
    /// Reads `linux.cgroupsPath`, which is `slice:prefix:name` here, or nothing.
    ///
    /// # Errors
    /// `InvalidArgument` for a path of another form, or an annotation that sets a
    /// property to what is not understood.
    pub(super) fn parse(
        path: &str,
        id: &str,
        annotations: &HashMap<String, String>,
    ) -> Result<Self> {
        let wrong = |what: &str| Error::invalid(format!("linux.cgroupsPath: {path:?}: {what}"));
        let (slice, prefix, name) = match path {
            "" => ("", PREFIX, id),
            path => match path.split(':').collect::<Vec<_>>()[..] {
                [slice, prefix, name] => (slice, prefix, name),
                _ => return Err(wrong("not slice:prefix:name, as it is for systemd")),
            },
        };
        if name.ends_with(".slice") {
            return Err(wrong("a container is a scope, and no slice"));
        }
        let slice = if slice.is_empty() { SLICE } else { slice };
        let name = format!("{prefix}-{name}.scope");
        let is_name = |name: &str| {
            let fits = |c: char| c.is_ascii_alphanumeric() || ":-_.\\@".contains(c);
            name.len() <= MAX_NAME_BYTES && name.chars().all(fits)
        };
        if !is_name(&name) || !is_name(slice) || expand(slice).is_none() {
            return Err(wrong("not the name of a unit"));
        }
        let extra = annotations::properties(annotations)?;
        let description = format!("container {id}");
        Ok(Self { name, slice: slice.to_owned(), description, extra })
    }

    /// The group of the unit, from where systemd begins.
    pub(super) fn path(&self) -> PathBuf {
        expand(&self.slice).unwrap_or_default().join(&self.name)
    }

    /// Starts the unit, and waits until it is there.
    ///
    /// # Errors
    /// `AlreadyExists` when there is one of that name, `InvalidArgument` for
    /// limits that systemd refuses, `FailedPrecondition` without systemd.
    pub(super) fn start(
        &self,
        resources: Option<&LinuxResources>,
        rules: &[Rule],
        is_unified: bool,
    ) -> Result<Idle> {
        let mut bus = Bus::connect(bus::PATIENCE)?;
        let holder = Idle::new(CloneFlags::empty())?;
        let mut properties = self.properties(holder.pid(), is_unified);
        properties.extend(properties::devices(rules, is_unified));
        if let Some(resources) = resources {
            properties.extend(properties::of(resources, is_unified, version(&mut bus)?)?);
        }
        // Those of the client come last, and so count.
        let extra = self.extra.iter().map(|(name, value)| (name.as_str(), value));
        let properties: Vec<_> =
            properties.iter().map(|(name, value)| (*name, value)).chain(extra).collect();
        let start = |bus: &mut Bus| self.job(bus, "StartTransientUnit", Some(&properties));
        let started = match start(&mut bus) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                // One that has failed only waits for somebody to look at it.
                self.reset(&mut bus)?;
                start(&mut bus)
            }
            started => started,
        };
        let error = match started {
            Ok(result) if result == "done" => return Ok(holder),
            Ok(result) => {
                let what = format!("systemd: start {}: {result}", self.name);
                Error::new(ErrorKind::Unknown, what)
            }
            // It is somebody else's.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => return Err(error),
            Err(error) => error,
        };
        drop(holder);
        // It may come to be after all; the first error says why.
        let _ = self.stop();
        Err(error)
    }

    fn properties(&self, pid: u32, is_unified: bool) -> Vec<Property> {
        let on = || Value::Flag(true);
        vec![
            ("Description", Value::Text(self.description.clone())),
            ("Slice", Value::Text(self.slice.clone())),
            ("Delegate", on()),
            ("PIDs", Value::Numbers(vec![pid])),
            ("MemoryAccounting", on()),
            ("CPUAccounting", on()),
            (if is_unified { "IOAccounting" } else { "BlockIOAccounting" }, on()),
            ("TasksAccounting", on()),
            ("DefaultDependencies", Value::Flag(false)),
        ]
    }

    /// Changes limits.
    ///
    /// # Errors
    /// `NotFound` when the unit is gone; else as [`Scope::start`].
    pub(super) fn update(&self, resources: &LinuxResources, is_unified: bool) -> Result<()> {
        let mut bus = Bus::connect(bus::PATIENCE)?;
        let properties = properties::of(resources, is_unified, version(&mut bus)?)?;
        if properties.is_empty() {
            return Ok(());
        }
        let mut arguments = Writer::default();
        // Until the next boot, as the unit itself.
        let properties: Vec<_> = properties.iter().map(|(name, value)| (*name, value)).collect();
        arguments.text(&self.name).flag(true).properties(&properties);
        let call = Call { member: "SetUnitProperties", signature: "sba(sv)", ..MANAGER };
        bus.call(&call, &arguments).map(drop)
    }

    /// Stops the unit and has it forgotten, also if it has failed. Gone already
    /// is fine.
    ///
    /// # Errors
    /// What systemd answers.
    pub(super) fn stop(&self) -> Result<()> {
        let mut bus = Bus::connect(bus::CLEANUP_PATIENCE)?;
        match self.job(&mut bus, "StopUnit", None) {
            Ok(result) if result == "done" => {}
            Ok(result) => {
                let unit = &self.name;
                tracing::warn!(unit, result, "stop the unit of a container");
            }
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
        self.reset(&mut bus)
    }

    /// Has systemd forget a failure.
    fn reset(&self, bus: &mut Bus) -> Result<()> {
        let mut arguments = Writer::default();
        arguments.text(&self.name);
        let call = Call { member: "ResetFailedUnit", signature: "s", ..MANAGER };
        match bus.call(&call, &arguments) {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }

    /// Has systemd do something with the unit; gives how that ended.
    fn job(
        &self,
        bus: &mut Bus,
        member: &str,
        properties: Option<&[(&str, &Value)]>,
    ) -> Result<String> {
        let mut arguments = Writer::default();
        arguments.text(&self.name).text("replace");
        let signature = match properties {
            Some(properties) => {
                arguments.properties(properties).no_units();
                "ssa(sv)a(sa(sv))"
            }
            None => "ss",
        };
        let answer = bus.call(&Call { member, signature, ..MANAGER }, &arguments)?;
        let job = answer.body().text()?.to_owned();
        bus.wait(|signal| end_of(&job, signal)).context_as(
            ErrorKind::DeadlineExceeded,
            member,
            &self.name,
        )
    }
}

/// How a job has ended, if `signal` says so: `JobRemoved(id, job, unit, result)`.
fn end_of(job: &str, signal: &Message) -> Result<Option<String>> {
    if signal.member != "JobRemoved" || signal.interface != MANAGER.interface {
        return Ok(None);
    }
    if signal.signature != "uoss" {
        return Err(Error::new(ErrorKind::DataLoss, "systemd: JobRemoved of another form"));
    }
    let mut body = signal.body();
    body.u32()?;
    let (ended, _unit, result) = (body.text()?, body.text()?, body.text()?);
    Ok((ended == job).then(|| result.to_owned()))
}

/// systemd's version, such as 252; what cannot be read is an old one.
fn version(bus: &mut Bus) -> Result<u32> {
    let mut arguments = Writer::default();
    arguments.text(MANAGER.interface).text("Version");
    let call = Call {
        interface: "org.freedesktop.DBus.Properties",
        member: "Get",
        signature: "ss",
        ..MANAGER
    };
    let answer = bus.call(&call, &arguments)?;
    let mut body = answer.body();
    let text = match body.signature()? {
        "s" => body.text()?,
        _ => "",
    };
    Ok(number_in(text))
}

/// `252.38-1~deb12u1`, `v245`, `systemd 219` are versions.
fn number_in(text: &str) -> u32 {
    let digits = text.trim_start_matches(|c: char| !c.is_ascii_digit());
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    digits.get(..end).and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

/// The group of a slice: `a-b.slice` is in `a.slice` (systemd.slice(5)).
fn expand(slice: &str) -> Option<PathBuf> {
    let name = slice.strip_suffix(".slice").filter(|name| !name.is_empty())?;
    let mut path = PathBuf::new();
    if name == "-" {
        return Some(path);
    }
    if name.split('-').any(str::is_empty) {
        return None;
    }
    let ends = name.match_indices('-').map(|(at, _)| at).chain([name.len()]);
    for end in ends {
        path.push(Path::new(&format!("{}.slice", name.get(..end)?)));
    }
    Some(path)
}

/// The limits of a container: those that hold before its first process is born,
/// and those that would keep it from that, because the holder counts, too.
#[derive(Debug)]
pub(crate) struct Limits {
    first: Option<LinuxResources>,
    last: Option<LinuxResources>,
}

impl Limits {
    /// All limits are for the beginning where nothing holds the groups.
    pub(crate) fn of(resources: Option<&LinuxResources>, is_held: bool) -> Self {
        let mut first = resources.cloned();
        let pids = first.as_ref().and_then(|resources| *resources.pids());
        let Some(pids) = pids.filter(|pids| is_held && pids.limit() == 1) else {
            return Self { first, last: None };
        };
        if let Some(first) = &mut first {
            first.set_pids(None);
        }
        let mut last = LinuxResources::default();
        last.set_devices(None).set_pids(Some(pids));
        Self { first, last: Some(last) }
    }

    pub(crate) fn first(&self) -> Option<&LinuxResources> {
        self.first.as_ref()
    }

    pub(crate) fn last(&self) -> Option<&LinuxResources> {
        self.last.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_those_of_runc() {
        for (path, unit, group) in [
            ("", "runc-c1.scope", "system.slice/runc-c1.scope"),
            ("::c2", "-c2.scope", "system.slice/-c2.scope"),
            ("a.slice:p:n", "p-n.scope", "a.slice/p-n.scope"),
            ("-.slice:p:n", "p-n.scope", "p-n.scope"),
            (
                "kubepods-burstable-pod1.slice:cri-containerd:x",
                "cri-containerd-x.scope",
                "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice/\
                 cri-containerd-x.scope",
            ),
        ] {
            let scope = Scope::parse(path, "c1", &HashMap::new()).unwrap();
            assert_eq!((&*scope.name, &*scope.path()), (unit, Path::new(group)), "{path}");
        }
    }

    #[test]
    fn other_paths_are_refused() {
        let long = format!("a.slice:p:{}", "n".repeat(300));
        for path in [
            "/a/b",
            "a.slice",
            "a.slice:p",
            "a:b:c:d",
            "a:p:n",
            ".slice:p:n",
            "-a.slice:p:n",
            "a-.slice:p:n",
            "a--b.slice:p:n",
            "../a.slice:p:n",
            "a.slice:p:n/..",
            "a.slice:p:n.slice",
            "a.slice:p:n\n",
            &long,
        ] {
            let error = Scope::parse(path, "c1", &HashMap::new()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{path}");
            assert!(error.to_string().contains("linux.cgroupsPath"), "{error}");
        }
    }

    #[test]
    fn versions_are_read() {
        for (text, version) in
            [("252.38-1~deb12u1", 252), ("v245", 245), ("systemd 219", 219), ("?", 0), ("", 0)]
        {
            assert_eq!(number_in(text), version, "{text}");
        }
    }
}
