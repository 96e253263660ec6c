//! Capabilities by name, and those that this process has.

use caps::CapSet;

use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities};

use crate::{Error, ErrorKind, Result};

/// What a container may do if nobody says otherwise (containerd,
/// `pkg/oci/spec.go`).
const DEFAULT: [Capability; 14] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fsetid,
    Capability::Fowner,
    Capability::Mknod,
    Capability::NetRaw,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setfcap,
    Capability::Setpcap,
    Capability::NetBindService,
    Capability::SysChroot,
    Capability::Kill,
    Capability::AuditWrite,
];

pub(super) fn default() -> Capabilities {
    DEFAULT.into_iter().collect()
}

/// Those that the calling process has: it cannot give away more.
pub(super) fn current() -> Result<Capabilities> {
    let held = caps::read(None, CapSet::Effective).map_err(|e| {
        Error::caused(ErrorKind::Internal, "read the capabilities of this process", e)
    })?;
    held.into_iter().map(|capability| parse(&capability.to_string())).collect()
}

/// The capability of a name such as `CAP_NET_ADMIN`, in whatever case.
pub(super) fn parse(name: &str) -> Result<Capability> {
    name.to_ascii_uppercase().strip_prefix("CAP_").and_then(|bare| bare.parse().ok()).ok_or_else(
        || Error::invalid(format!("unknown capability {name:?}, such as CAP_NET_ADMIN")),
    )
}

/// The sets of a process that may do just this.
pub(super) fn sets(capabilities: &Capabilities) -> LinuxCapabilities {
    let mut sets = LinuxCapabilities::default();
    sets.set_bounding(Some(capabilities.clone()))
        .set_effective(Some(capabilities.clone()))
        .set_permitted(Some(capabilities.clone()))
        .set_inheritable(None)
        .set_ambient(None);
    sets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_kernels() {
        assert_eq!(parse("CAP_SYS_ADMIN").unwrap(), Capability::SysAdmin);
        assert_eq!(parse("cap_net_raw").unwrap(), Capability::NetRaw);
        assert_eq!(parse("CAP_CHECKPOINT_RESTORE").unwrap(), Capability::CheckpointRestore);
        for bad in ["", "SYS_ADMIN", "CAP_", "CAP_FLY"] {
            assert_eq!(parse(bad).unwrap_err().kind(), ErrorKind::InvalidArgument, "{bad:?}");
        }
    }

    #[test]
    fn every_capability_of_the_kernel_has_a_name_here() {
        for capability in caps::all() {
            parse(&capability.to_string()).unwrap();
        }
        assert!(current().unwrap().len() <= caps::all().len());
    }
}
