//! The builder of OCI configurations.

mod image;
mod process;
mod resources;
mod surroundings;

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use oci_spec::runtime::{
    Capabilities, Linux, LinuxCpu, LinuxDevice, LinuxDeviceCgroup, LinuxIdMapping, LinuxIntelRdt,
    LinuxMemory, LinuxNamespace, LinuxPids, LinuxResources, LinuxSeccomp, Mount, PosixRlimit,
    Process, Root, Spec, User,
};

use super::{capabilities, defaults, seccomp, user};
use crate::Result;

/// The OCI version that what is built here needs.
const OCI_VERSION: &str = "1.1.0";

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
    user: Option<UserName>,
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

/// Who the program runs as.
#[derive(Clone, Debug)]
enum UserName {
    /// With the groups that the text says.
    Plain(String),
    /// With the groups that the user has in addition, as users of images do.
    OfImage(String),
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

    /// The host name.
    #[must_use]
    pub fn hostname(mut self, name: impl Into<String>) -> Self {
        self.hostname = Some(name.into());
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
        let files = self.rootfs.clone();
        self.build_with(&files)
    }

    /// Whether [`Self::build`] reads the root filesystem.
    pub(crate) fn needs_files(&self) -> bool {
        self.user.is_some()
    }

    /// Builds it; users and groups are looked up below the folder `files`.
    pub(crate) fn build_with(self, files: &Path) -> Result<Spec> {
        let user = match &self.user {
            Some(UserName::Plain(text)) => user::resolve_user(files, text)?,
            Some(UserName::OfImage(text)) => user::resolve_image_user(files, text)?,
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
