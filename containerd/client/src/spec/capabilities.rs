//! Capabilities by name and by number.

use std::{collections::BTreeMap, fs};

use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities};

use crate::{Context, Error, ErrorKind, Result};

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

/// Every capability at the place of its number (`linux/capability.h`).
const BY_NUMBER: [Capability; 41] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::DacReadSearch,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setpcap,
    Capability::LinuxImmutable,
    Capability::NetBindService,
    Capability::NetBroadcast,
    Capability::NetAdmin,
    Capability::NetRaw,
    Capability::IpcLock,
    Capability::IpcOwner,
    Capability::SysModule,
    Capability::SysRawio,
    Capability::SysChroot,
    Capability::SysPtrace,
    Capability::SysPacct,
    Capability::SysAdmin,
    Capability::SysBoot,
    Capability::SysNice,
    Capability::SysResource,
    Capability::SysTime,
    Capability::SysTtyConfig,
    Capability::Mknod,
    Capability::Lease,
    Capability::AuditWrite,
    Capability::AuditControl,
    Capability::Setfcap,
    Capability::MacOverride,
    Capability::MacAdmin,
    Capability::Syslog,
    Capability::WakeAlarm,
    Capability::BlockSuspend,
    Capability::AuditRead,
    Capability::Perfmon,
    Capability::Bpf,
    Capability::CheckpointRestore,
];

pub(super) fn default() -> Capabilities {
    DEFAULT.into_iter().collect()
}

/// Those that the calling process has: it cannot give away more.
pub(super) fn current() -> Result<Capabilities> {
    const STATUS: &str = "/proc/self/status";
    let text = fs::read_to_string(STATUS).context("read", STATUS)?;
    let mask = text
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .ok_or_else(|| Error::new(ErrorKind::Internal, format!("{STATUS} has no capabilities")))?;
    Ok(from_mask(mask))
}

fn from_mask(mask: u64) -> Capabilities {
    BY_NUMBER.into_iter().enumerate().filter(|(i, _)| mask >> i & 1 == 1).map(|(_, c)| c).collect()
}

/// The capability of a name such as `CAP_NET_ADMIN`, in whatever case.
pub(super) fn parse(name: &str) -> Result<Capability> {
    let by_name: BTreeMap<String, Capability> =
        BY_NUMBER.into_iter().map(|c| (format!("CAP_{c}"), c)).collect();
    by_name.get(&name.to_ascii_uppercase()).copied().ok_or_else(|| {
        Error::invalid(format!("unknown capability {name:?}, such as CAP_NET_ADMIN"))
    })
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
    fn numbers_are_the_kernels() {
        assert_eq!(from_mask(1 << 21), Capabilities::from([Capability::SysAdmin]));
        assert_eq!(from_mask(1 << 40), Capabilities::from([Capability::CheckpointRestore]));
        assert_eq!(from_mask(u64::MAX).len(), 41);
    }
}
