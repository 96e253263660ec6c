//! What the program sees of the host: mounts, namespaces, devices.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxIdMapping, LinuxNamespaceType, Mount};

use super::{
    super::{capabilities, defaults, devices},
    Seccomp, SpecBuilder,
};
use crate::Result;

impl SpecBuilder {
    /// Adds a mount, in place of one at the same destination.
    #[must_use]
    pub fn mount(mut self, mount: Mount) -> Self {
        self.mounts.retain(|m| m.destination() != mount.destination());
        self.mounts.push(mount);
        self
    }

    /// How mounts of the root filesystem propagate, such as `rshared`.
    #[must_use]
    pub fn rootfs_propagation(mut self, propagation: impl Into<String>) -> Self {
        self.propagation = Some(propagation.into());
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
}
