//! The builder of OCI configurations.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use oci_spec::runtime::{
    Capabilities, Linux, LinuxCpu, LinuxDevice, LinuxDeviceCgroup, LinuxIdMapping, LinuxIntelRdt,
    LinuxMemory, LinuxNamespace, LinuxNamespaceType, LinuxPids, LinuxResources, LinuxSeccomp,
    Mount, PosixRlimit, Process, Root, Spec, User,
};

use super::{capabilities, defaults, devices, merge_env, seccomp, user};
use crate::Result;

/// The OCI version that what is built here needs.
const OCI_VERSION: &str = "1.1.0";

/// Period of CPU quotas, in microseconds, if none is given.
const CPU_PERIOD_US: u64 = 100_000;

/// Builds the OCI configuration of a container, starting from containerd's
/// defaults.
///
/// ```
/// use containerd_client::SpecBuilder;
///
/// let spec = SpecBuilder::new("default", "web")
///     .rootfs("/srv/busybox")
///     .args(["/bin/httpd", "-f"])
///     .env(["LANG=C.UTF-8"])
///     .memory_limit(64 << 20)
///     .cpus(0.5)
///     .build()?;
/// let linux = spec.linux().as_ref().unwrap();
/// assert_eq!(linux.cgroups_path().as_deref(), Some("/default/web".as_ref()));
/// # Ok::<(), containerd_client::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct SpecBuilder {
    rootfs: PathBuf,
    readonly: bool,
    hostname: Option<String>,
    args: Vec<String>,
    env: Vec<String>,
    cwd: PathBuf,
    terminal: bool,
    user: Option<String>,
    capabilities: Capabilities,
    new_privileges: bool,
    rlimits: Vec<PosixRlimit>,
    apparmor_profile: Option<String>,
    mounts: Vec<Mount>,
    namespaces: Vec<LinuxNamespace>,
    id_mappings: Option<(LinuxIdMapping, LinuxIdMapping)>,
    cgroup: PathBuf,
    devices: Vec<LinuxDevice>,
    device_rules: Vec<LinuxDeviceCgroup>,
    memory_limit: Option<i64>,
    pids_limit: Option<i64>,
    cpu: LinuxCpu,
    seccomp: Seccomp,
    masked_paths: Vec<String>,
    readonly_paths: Vec<String>,
    propagation: Option<String>,
    rdt_class: Option<String>,
    annotations: HashMap<String, String>,
}

#[derive(Clone, Debug)]
enum Seccomp {
    Unconfined,
    /// Depends on the capabilities, which may still change.
    Default,
    Profile(Box<LinuxSeccomp>),
}

impl SpecBuilder {
    /// The defaults, for the container `id` of a namespace: its cgroup is
    /// `/<namespace>/<id>`.
    pub fn new(namespace: &str, id: &str) -> Self {
        Self {
            rootfs: "rootfs".into(),
            readonly: false,
            hostname: None,
            args: Vec::new(),
            env: vec![defaults::PATH.into()],
            cwd: "/".into(),
            terminal: false,
            user: None,
            capabilities: capabilities::default(),
            new_privileges: false,
            rlimits: defaults::rlimits(),
            apparmor_profile: None,
            mounts: defaults::mounts(),
            namespaces: defaults::namespaces(),
            id_mappings: None,
            cgroup: Path::new("/").join(namespace).join(id),
            devices: Vec::new(),
            device_rules: defaults::device_rules(),
            memory_limit: None,
            pids_limit: None,
            cpu: LinuxCpu::default(),
            seccomp: Seccomp::Unconfined,
            masked_paths: defaults::MASKED_PATHS.map(Into::into).into(),
            readonly_paths: defaults::READONLY_PATHS.map(Into::into).into(),
            propagation: None,
            rdt_class: None,
            annotations: HashMap::new(),
        }
    }

    /// The root filesystem: an absolute path, or one relative to the bundle.
    #[must_use]
    pub fn rootfs(mut self, path: impl Into<PathBuf>) -> Self {
        self.rootfs = path.into();
        self
    }

    /// Makes the root filesystem read-only.
    #[must_use]
    pub fn readonly_rootfs(mut self) -> Self {
        self.readonly = true;
        self
    }

    /// The program and its arguments.
    #[must_use]
    pub fn args<S: Into<String>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args = args.into_iter().map(Into::into).collect();
        self
    }

    /// Sets environment variables: `KEY=value` sets, `KEY` alone removes.
    #[must_use]
    pub fn env<S: Into<String>>(mut self, variables: impl IntoIterator<Item = S>) -> Self {
        merge_env(&mut self.env, variables);
        self
    }

    /// The working directory.
    #[must_use]
    pub fn cwd(mut self, path: impl Into<PathBuf>) -> Self {
        self.cwd = path.into();
        self
    }

    /// Gives the process a terminal.
    #[must_use]
    pub fn terminal(mut self) -> Self {
        self.terminal = true;
        merge_env(&mut self.env, ["TERM=xterm"]);
        self
    }

    /// The user, as [`resolve_user`](super::resolve_user) reads it.
    #[must_use]
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.user = Some(user.into());
        self
    }

    /// The host name.
    #[must_use]
    pub fn hostname(mut self, name: impl Into<String>) -> Self {
        self.hostname = Some(name.into());
        self
    }

    /// Adds a mount, in place of one at the same destination.
    #[must_use]
    pub fn mount(mut self, mount: Mount) -> Self {
        self.mounts.retain(|m| m.destination() != mount.destination());
        self.mounts.push(mount);
        self
    }

    /// Shares the host's network: its interfaces, host names and resolver.
    #[must_use]
    pub fn host_network(self) -> Self {
        let options = ["rbind", "ro"];
        let mut shared = self.host_namespace(LinuxNamespaceType::Network);
        for file in ["/etc/hosts", "/etc/resolv.conf"] {
            shared = shared.mount(defaults::mount(file, "bind", file, options));
        }
        shared
    }

    /// Shares one of the host's namespaces.
    #[must_use]
    pub fn host_namespace(mut self, kind: LinuxNamespaceType) -> Self {
        self.namespaces.retain(|namespace| namespace.typ() != kind);
        self
    }

    /// Joins the namespace at `path`, such as `/proc/1234/ns/net`.
    #[must_use]
    pub fn join_namespace(self, kind: LinuxNamespaceType, path: impl Into<PathBuf>) -> Self {
        let mut joined = self.host_namespace(kind);
        joined.namespaces.push(defaults::namespace(kind, Some(path.into())));
        joined
    }

    /// Gives it a user namespace with one range of users and one of groups.
    #[must_use]
    pub fn user_namespace(self, uids: LinuxIdMapping, gids: LinuxIdMapping) -> Self {
        let mut mapped = self.host_namespace(LinuxNamespaceType::User);
        mapped.namespaces.push(defaults::namespace(LinuxNamespaceType::User, None));
        mapped.id_mappings = Some((uids, gids));
        mapped
    }

    /// Takes the walls down: all capabilities that the caller has, all devices,
    /// nothing masked, `/sys` writable, no seccomp and no AppArmor.
    ///
    /// # Errors
    /// Those of the system when it lists capabilities and devices.
    pub fn privileged(mut self) -> Result<Self> {
        self.capabilities = capabilities::current()?;
        self.masked_paths.clear();
        self.readonly_paths.clear();
        for mount in &mut self.mounts {
            if matches!(mount.typ().as_deref(), Some("sysfs" | "cgroup")) {
                for option in mount.options_mut().iter_mut().flatten() {
                    if option == "ro" {
                        *option = "rw".into();
                    }
                }
            }
        }
        self.apparmor_profile = None;
        self.seccomp = Seccomp::Unconfined;
        self.device_rules = vec![defaults::device_rule(true, None, None, None, "rwm")];
        self.devices.extend(devices::find(Path::new("/dev"))?);
        Ok(self)
    }

    /// Adds a device of the host, or all below a folder. `access` is made of
    /// `r`, `w` and `m` (mknod).
    ///
    /// # Errors
    /// `NotFound`, or `InvalidArgument` when it is no device.
    pub fn device(mut self, path: impl AsRef<Path>, access: &str) -> Result<Self> {
        for device in devices::find(path.as_ref())? {
            let (kind, major, minor) = (device.typ(), device.major(), device.minor());
            let rule = defaults::device_rule(true, Some(kind), Some(major), Some(minor), access);
            self.device_rules.push(rule);
            self.devices.push(device);
        }
        Ok(self)
    }

    /// Adds a capability, such as `CAP_NET_ADMIN`.
    ///
    /// # Errors
    /// `InvalidArgument` when there is no such capability.
    pub fn add_capability(mut self, name: &str) -> Result<Self> {
        self.capabilities.insert(capabilities::parse(name)?);
        Ok(self)
    }

    /// Drops a capability.
    ///
    /// # Errors
    /// `InvalidArgument` when there is no such capability.
    pub fn drop_capability(mut self, name: &str) -> Result<Self> {
        self.capabilities.remove(&capabilities::parse(name)?);
        Ok(self)
    }

    /// Lets programs gain privileges by set-user-id files.
    #[must_use]
    pub fn new_privileges(mut self) -> Self {
        self.new_privileges = true;
        self
    }

    /// Confines system calls to containerd's default profile.
    #[must_use]
    pub fn seccomp(mut self) -> Self {
        self.seccomp = Seccomp::Default;
        self
    }

    /// Confines system calls to the profile in a file: the `linux.seccomp` part
    /// of an OCI configuration.
    ///
    /// # Errors
    /// Those of the system, and `InvalidArgument` when it is no profile.
    pub fn seccomp_profile(mut self, path: impl AsRef<Path>) -> Result<Self> {
        self.seccomp = Seccomp::Profile(Box::new(seccomp::from_file(path.as_ref())?));
        Ok(self)
    }

    /// Confines it to an AppArmor profile that the host has loaded.
    #[must_use]
    pub fn apparmor_profile(mut self, name: impl Into<String>) -> Self {
        self.apparmor_profile = Some(name.into());
        self
    }

    /// Limits memory, in bytes.
    #[must_use]
    pub fn memory_limit(mut self, bytes: u64) -> Self {
        self.memory_limit = Some(i64::try_from(bytes).unwrap_or(i64::MAX));
        self
    }

    /// Limits the number of processes.
    #[must_use]
    pub fn pids_limit(mut self, limit: i64) -> Self {
        self.pids_limit = Some(limit);
        self
    }

    /// Limits CPU time to that of so many processors.
    #[must_use]
    pub fn cpus(self, cpus: f64) -> Self {
        let quota = (cpus * CPU_PERIOD_US as f64) as i64;
        self.cpu_quota(quota, CPU_PERIOD_US)
    }

    /// Limits CPU time to `quota` microseconds in each `period` of so many
    /// microseconds; 0 leaves the kernel's period.
    #[must_use]
    pub fn cpu_quota(mut self, quota: i64, period: u64) -> Self {
        self.cpu.set_quota(Some(quota)).set_period((period > 0).then_some(period));
        self
    }

    /// Weight of its CPU time when others want it too; 1024 is usual.
    #[must_use]
    pub fn cpu_shares(mut self, shares: u64) -> Self {
        self.cpu.set_shares(Some(shares));
        self
    }

    /// Sets a resource limit, in place of one of the same kind.
    #[must_use]
    pub fn rlimit(mut self, limit: PosixRlimit) -> Self {
        self.rlimits.retain(|l| l.typ() != limit.typ());
        self.rlimits.push(limit);
        self
    }

    /// Its cgroup: a path in the hierarchy, or `slice:prefix:name` for systemd.
    /// Empty leaves it in the shim's.
    #[must_use]
    pub fn cgroup(mut self, path: impl Into<PathBuf>) -> Self {
        self.cgroup = path.into();
        self
    }

    /// How mounts of the root filesystem propagate, such as `rshared`.
    #[must_use]
    pub fn rootfs_propagation(mut self, propagation: impl Into<String>) -> Self {
        self.propagation = Some(propagation.into());
        self
    }

    /// Puts it into a class of Intel RDT.
    #[must_use]
    pub fn rdt_class(mut self, class: impl Into<String>) -> Self {
        self.rdt_class = Some(class.into());
        self
    }

    /// Adds an annotation.
    #[must_use]
    pub fn annotation(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.annotations.insert(key.into(), value.into());
        self
    }

    /// Builds the configuration. This reads the root filesystem if the user is
    /// not a plain `uid:gid`.
    ///
    /// # Errors
    /// `NotFound` when the root filesystem has no such user.
    pub fn build(self) -> Result<Spec> {
        let user = match &self.user {
            Some(text) => user::resolve_user(&self.rootfs, text)?,
            None => User::default(),
        };
        let mut root = Root::default();
        root.set_path(self.rootfs.clone()).set_readonly(self.readonly.then_some(true));
        let mut spec = Spec::default();
        spec.set_version(OCI_VERSION.into())
            .set_root(Some(root))
            .set_process(Some(self.process(user)))
            .set_hostname(self.hostname.clone())
            .set_mounts(Some(self.mounts.clone()))
            .set_annotations((!self.annotations.is_empty()).then(|| self.annotations.clone()))
            .set_linux(Some(self.linux()?));
        Ok(spec)
    }

    fn process(&self, user: User) -> Process {
        let mut process = Process::default();
        process
            .set_terminal(self.terminal.then_some(true))
            .set_user(user)
            .set_args(Some(self.args.clone()))
            .set_env(Some(self.env.clone()))
            .set_cwd(self.cwd.clone())
            .set_capabilities(Some(capabilities::sets(&self.capabilities)))
            .set_rlimits(Some(self.rlimits.clone()))
            .set_no_new_privileges(Some(!self.new_privileges))
            .set_apparmor_profile(self.apparmor_profile.clone());
        process
    }

    fn linux(self) -> Result<Linux> {
        let mut resources = LinuxResources::default();
        resources.set_devices(Some(self.device_rules)).set_memory(self.memory_limit.map(|limit| {
            let mut memory = LinuxMemory::default();
            memory.set_limit(Some(limit));
            memory
        }));
        resources.set_pids(self.pids_limit.map(|limit| {
            let mut pids = LinuxPids::default();
            pids.set_limit(limit);
            pids
        }));
        resources.set_cpu((self.cpu != LinuxCpu::default()).then_some(self.cpu));

        let seccomp = match self.seccomp {
            Seccomp::Unconfined => None,
            Seccomp::Default => Some(seccomp::default_profile(&self.capabilities)?),
            Seccomp::Profile(profile) => Some(*profile),
        };
        let (uids, gids) = self.id_mappings.unzip();
        let mut linux = Linux::default();
        linux
            .set_resources(Some(resources))
            .set_cgroups_path((!self.cgroup.as_os_str().is_empty()).then_some(self.cgroup))
            .set_namespaces(Some(self.namespaces))
            .set_uid_mappings(uids.map(|mapping| vec![mapping]))
            .set_gid_mappings(gids.map(|mapping| vec![mapping]))
            .set_devices(some(self.devices))
            .set_seccomp(seccomp)
            .set_rootfs_propagation(self.propagation)
            .set_masked_paths(some(self.masked_paths))
            .set_readonly_paths(some(self.readonly_paths))
            .set_intel_rdt(self.rdt_class.map(|class| {
                let mut rdt = LinuxIntelRdt::default();
                rdt.set_clos_id(Some(class));
                rdt
            }));
        Ok(linux)
    }
}

/// `None` for an empty list: it is left out of the JSON.
fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}
