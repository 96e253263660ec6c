//! `config.json`: read and checked. What cannot be done is refused by the name of
//! its field.

use std::{
    fs,
    path::{Path, PathBuf},
};

use libcontainer::validator::Validator;
use oci_spec::runtime::{
    Hooks, Linux, LinuxCapabilities, LinuxNamespaceType, LinuxSeccomp, Process, Spec,
};
use shim_protocol::{Context, Error, ErrorKind, Result};

use super::{REMEDY, capabilities};

/// A container's configuration.
#[derive(Debug)]
pub(super) struct Config {
    pub(super) spec: Spec,
    pub(super) rootfs: PathBuf,
    pub(super) linux: Linux,
    pub(super) process: Confined,
    pub(super) hooks: Hooks,
}

/// A process, and how it is confined.
#[derive(Debug)]
pub(super) struct Confined {
    pub(super) process: Process,
    /// All sets of them.
    pub(super) capabilities: LinuxCapabilities,
    pub(super) seccomp: Option<LinuxSeccomp>,
}

/// Reads the configuration of a bundle.
///
/// # Errors
/// `InvalidArgument` for what is no configuration, `Unimplemented` for what
/// it asks for and cannot have.
pub(super) fn load(bundle: &Path) -> Result<Config> {
    let path = bundle.join("config.json");
    let text = fs::read(&path).context_as(ErrorKind::InvalidArgument, "read", path.display())?;
    let mut spec: Spec = capabilities::decode(&text, "/process")
        .map_err(std::io::Error::from)
        .context_as(ErrorKind::InvalidArgument, "decode", path.display())?;
    if !spec.version().starts_with("1.") {
        return Err(Error::invalid(format!("ociVersion: {:?}", spec.version())));
    }
    let root = spec.root().as_ref().ok_or_else(|| absent("root"))?;
    let rootfs = fs::canonicalize(bundle.join(root.path()));
    let rootfs =
        rootfs.context_as(ErrorKind::InvalidArgument, "find root.path of", path.display())?;
    let process = spec.process().clone().ok_or_else(|| absent("process"))?;
    let linux = match spec.linux() {
        Some(linux) => linux.clone(),
        None => empty_linux()?,
    };
    refuse_linux(&linux)?;
    let process = confine(process, linux.seccomp().clone())?;
    let hooks = spec.hooks().clone().unwrap_or_default();
    spec.set_linux(Some(linux.clone()));
    Validator::validate_spec(&spec)
        .map_err(|e| Error::caused(ErrorKind::InvalidArgument, "config.json", e))?;
    Ok(Config { spec, rootfs, linux, process, hooks })
}

impl Config {
    /// Are there hooks that init runs, or has to wait for, while it is made?
    pub(super) fn has_hooks_around_init(&self) -> bool {
        let hooks = &self.hooks;
        [hooks.prestart(), hooks.create_runtime(), hooks.create_container()]
            .iter()
            .any(|list| list.as_ref().is_some_and(|list| !list.is_empty()))
    }
}

fn absent(field: &str) -> Error {
    Error::invalid(format!("config.json: no {field}"))
}

/// The library's default has namespaces and paths that nobody asked for.
pub(super) fn empty_linux() -> Result<Linux> {
    serde_json::from_str("{}").map_err(|e| Error::caused(ErrorKind::Internal, "decode linux", e))
}

pub(super) fn unable(field: &str) -> Error {
    Error::unimplemented(format!("{field}: {REMEDY}"))
}

/// Checks a process.
///
/// # Errors
/// As [`load`].
pub(super) fn confine(process: Process, seccomp: Option<LinuxSeccomp>) -> Result<Confined> {
    if process.args().as_ref().is_none_or(|args| args.first().is_none_or(String::is_empty)) {
        return Err(absent("process.args"));
    }
    if !process.cwd().is_absolute() {
        return Err(Error::invalid(format!("process.cwd: {:?} is not absolute", process.cwd())));
    }
    if process.selinux_label().as_ref().is_some_and(|label| !label.is_empty()) {
        return Err(unable("process.selinuxLabel"));
    }
    if process.exec_cpu_affinity().is_some() {
        return Err(unable("process.execCPUAffinity"));
    }
    for (index, argument) in process.args().iter().flatten().enumerate() {
        if argument.contains('\0') {
            return Err(Error::invalid(format!("process.args[{index}] has a zero byte")));
        }
    }
    // Absent means none; the library's own default are some.
    let asked = process.capabilities().clone();
    let mut capabilities = LinuxCapabilities::default();
    let of = |set: fn(&LinuxCapabilities) -> _| asked.as_ref().and_then(set).unwrap_or_default();
    capabilities
        .set_bounding(Some(of(|c| c.bounding().clone())))
        .set_effective(Some(of(|c| c.effective().clone())))
        .set_permitted(Some(of(|c| c.permitted().clone())))
        .set_inheritable(Some(of(|c| c.inheritable().clone())))
        .set_ambient(Some(of(|c| c.ambient().clone())));
    Ok(Confined { process, capabilities, seccomp })
}

fn refuse_linux(linux: &Linux) -> Result<()> {
    if linux.mount_label().as_ref().is_some_and(|label| !label.is_empty()) {
        return Err(unable("linux.mountLabel"));
    }
    if linux.intel_rdt().is_some() {
        return Err(unable("linux.intelRdt"));
    }
    let flags = linux.personality().as_ref().and_then(|personality| personality.flags().as_ref());
    if flags.is_some_and(|flags| !flags.is_empty()) {
        return Err(unable("linux.personality.flags"));
    }
    if linux.net_devices().as_ref().is_some_and(|devices| !devices.is_empty()) {
        return Err(unable("linux.netDevices"));
    }
    let mut seen = Vec::new();
    for namespace in linux.namespaces().iter().flatten() {
        if seen.contains(&namespace.typ()) {
            return Err(Error::invalid(format!("linux.namespaces: {} twice", namespace.typ())));
        }
        seen.push(namespace.typ());
        // An empty path is no path: so Go writes what it does not set.
        let path = namespace.path().as_ref().filter(|path| !path.as_os_str().is_empty());
        if namespace.typ() == LinuxNamespaceType::Mount && path.is_some() {
            return Err(unable("linux.namespaces[mount].path"));
        }
    }
    if !seen.contains(&LinuxNamespaceType::Mount) {
        return Err(unable("linux.namespaces without mount"));
    }
    Ok(())
}
