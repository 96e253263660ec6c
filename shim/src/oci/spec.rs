//! `config.json`: read, checked, and brought into the form that libcontainer
//! takes. What neither it nor we can do is refused by the name of its field.

use std::{
    fs,
    path::{Path, PathBuf},
};

use libcontainer::validator::Validator;
use oci_spec::runtime::{
    Hooks, Linux, LinuxCapabilities, LinuxNamespaceType, LinuxSeccomp, Process, Spec,
};
use shim_protocol::{Context, Error, ErrorKind, Result};

use super::REMEDY;

/// A container's configuration.
#[derive(Debug)]
pub(super) struct Config {
    /// Without what we do ourselves.
    pub(super) spec: Spec,
    pub(super) rootfs: PathBuf,
    pub(super) linux: Linux,
    pub(super) process: Confined,
    /// All of them; `spec` has them only if init has to wait for some.
    pub(super) hooks: Hooks,
}

/// A process, and how it is confined.
#[derive(Debug)]
pub(super) struct Confined {
    pub(super) process: Process,
    pub(super) capabilities: LinuxCapabilities,
    pub(super) seccomp: Option<LinuxSeccomp>,
    /// `HOME` is to be found out.
    pub(super) is_homeless: bool,
}

/// Reads the configuration of a bundle.
///
/// # Errors
/// `InvalidArgument` for what is no configuration, `Unimplemented` for what
/// it asks for and cannot have.
pub(super) fn load(bundle: &Path) -> Result<Config> {
    let path = bundle.join("config.json");
    let text = fs::read(&path).context_as(ErrorKind::InvalidArgument, "read", path.display())?;
    let mut spec: Spec = serde_json::from_slice(&text).map_err(std::io::Error::from).context_as(
        ErrorKind::InvalidArgument,
        "decode",
        path.display(),
    )?;
    if !spec.version().starts_with("1.") {
        return Err(Error::invalid(format!("ociVersion: {:?}", spec.version())));
    }
    let root = spec.root().as_ref().ok_or_else(|| absent("root"))?;
    let rootfs = fs::canonicalize(bundle.join(root.path()));
    let rootfs =
        rootfs.context_as(ErrorKind::InvalidArgument, "find root.path of", path.display())?;
    let process = spec.process().clone().ok_or_else(|| absent("process"))?;
    let mut linux = match spec.linux() {
        Some(linux) => linux.clone(),
        None => empty_linux()?,
    };
    refuse_linux(&mut linux)?;
    let seccomp = linux.seccomp().clone();
    linux.set_seccomp(None);
    let process = confine(process, seccomp)?;
    let hooks = spec.hooks().clone().unwrap_or_default();
    if !concern_init(&hooks) {
        spec.set_hooks(None);
    }
    spec.set_linux(Some(linux.clone())).set_process(Some(process.process.clone()));
    Validator::validate_spec(&spec)
        .map_err(|e| Error::caused(ErrorKind::InvalidArgument, "config.json", e))?;
    // Those that exist are entered before libcontainer comes.
    let mut rest = linux.clone();
    let namespaces = linux.namespaces().iter().flatten();
    let new =
        namespaces.filter(|ns| ns.path().as_ref().is_none_or(|path| path.as_os_str().is_empty()));
    rest.set_namespaces(Some(
        new.cloned()
            .map(|mut ns| {
                ns.set_path(None);
                ns
            })
            .collect(),
    ));
    spec.set_linux(Some(rest));
    Ok(Config { spec, rootfs, linux, process, hooks })
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

/// Are there hooks that init runs or has to wait for?
fn concern_init(hooks: &Hooks) -> bool {
    [hooks.prestart(), hooks.create_runtime(), hooks.create_container(), hooks.start_container()]
        .iter()
        .any(|list| list.as_ref().is_some_and(|list| !list.is_empty()))
}

/// Takes a process apart into what libcontainer does and what we do.
///
/// # Errors
/// As [`load`].
pub(super) fn confine(mut process: Process, seccomp: Option<LinuxSeccomp>) -> Result<Confined> {
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
    if process.apparmor_profile().as_ref().is_some_and(String::is_empty) {
        process.set_apparmor_profile(None);
    }
    // For libcontainer a value is a yes.
    if process.no_new_privileges() == Some(false) {
        process.set_no_new_privileges(None);
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
    process.set_capabilities(None);
    // libcontainer would look it up by the system's library, which loads code that
    // the image names, while there still are all privileges. A value keeps it from that.
    let mut env = process.env().clone().unwrap_or_default();
    let is_homeless = !env.iter().any(|entry| entry.starts_with("HOME="));
    if is_homeless {
        env.push("HOME=/".into());
        process.set_env(Some(env));
    }
    Ok(Confined { process, capabilities, seccomp, is_homeless })
}

fn refuse_linux(linux: &mut Linux) -> Result<()> {
    // libcontainer knows the names without "r" alone, and means those with it.
    if let Some(propagation) = linux.rootfs_propagation() {
        let name = propagation.strip_prefix('r').unwrap_or(propagation).to_owned();
        linux.set_rootfs_propagation(Some(name).filter(|name| !name.is_empty()));
    }
    if linux.mount_label().as_ref().is_some_and(|label| !label.is_empty()) {
        return Err(unable("linux.mountLabel"));
    }
    linux.set_mount_label(None);
    if linux.intel_rdt().is_some() {
        return Err(unable("linux.intelRdt"));
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
