//! The system calls of a container: containerd's default profile
//! (`contrib/seccomp`), and profiles from files.

use std::{fs, path::Path};

use oci_spec::runtime::{
    Arch, Capabilities, Capability, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg,
    LinuxSeccompArgBuilder, LinuxSeccompOperator, LinuxSyscall,
};

use crate::{Context, Error, ErrorKind, Result};

/// What every container may call, separated by white space.
const ALLOWED: &str = include_str!("seccomp_allowed.txt");

/// What a capability adds.
const BY_CAPABILITY: [(Capability, &[&str]); 14] = [
    (Capability::DacReadSearch, &["open_by_handle_at"]),
    (
        Capability::SysAdmin,
        &[
            "bpf",
            "clone",
            "clone3",
            "fanotify_init",
            "fsconfig",
            "fsmount",
            "fsopen",
            "fspick",
            "lookup_dcookie",
            "mount",
            "mount_setattr",
            "move_mount",
            "open_tree",
            "perf_event_open",
            "quotactl",
            "quotactl_fd",
            "setdomainname",
            "sethostname",
            "setns",
            "syslog",
            "umount",
            "umount2",
            "unshare",
        ],
    ),
    (Capability::SysBoot, &["reboot"]),
    (Capability::SysChroot, &["chroot"]),
    (Capability::SysModule, &["delete_module", "init_module", "finit_module"]),
    (Capability::SysPacct, &["acct"]),
    (Capability::SysPtrace, &["kcmp", "pidfd_getfd", "process_madvise"]),
    (Capability::SysRawio, &["iopl", "ioperm"]),
    (Capability::SysTime, &["settimeofday", "stime", "clock_settime", "clock_settime64"]),
    (Capability::SysTtyConfig, &["vhangup"]),
    (Capability::SysNice, &["get_mempolicy", "mbind", "set_mempolicy", "set_mempolicy_home_node"]),
    (Capability::Syslog, &["syslog"]),
    (Capability::Bpf, &["bpf"]),
    (Capability::Perfmon, &["perf_event_open"]),
];

/// Values of `personality(2)` that weaken nothing (`linux/personality.h`): plain
/// Linux, `PER_LINUX32`, each also with `UNAME26`, and the question which it is.
const PERSONALITIES: [u64; 5] = [0x0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// Address families whose sockets reach past the container (`linux/socket.h`).
const AF_ALG: u64 = 38;
const AF_VSOCK: u64 = 40;

/// The flags of `clone(2)` that make namespaces.
const NEW_NAMESPACES: u64 = (nix::libc::CLONE_NEWNS
    | nix::libc::CLONE_NEWUTS
    | nix::libc::CLONE_NEWIPC
    | nix::libc::CLONE_NEWUSER
    | nix::libc::CLONE_NEWPID
    | nix::libc::CLONE_NEWNET
    | nix::libc::CLONE_NEWCGROUP) as u64;

/// The default profile for a process with these capabilities.
///
/// # Errors
/// `Internal`, never in practice: the OCI crate's builder has a way to fail.
pub(super) fn default_profile(capabilities: &Capabilities) -> Result<LinuxSeccomp> {
    use LinuxSeccompOperator as Op;

    let mut calls = vec![allow(ALLOWED.split_whitespace(), Vec::new())];
    for value in PERSONALITIES {
        calls.push(allow(["personality"], vec![argument(0, value, 0, Op::ScmpCmpEq)?]));
    }
    // All families but AF_ALG and AF_VSOCK. Two conditions on one argument would
    // be split into two rules by libseccomp and so allow everything; three ranges
    // do not overlap.
    let ranges = [(AF_ALG, Op::ScmpCmpLt), (AF_ALG + 1, Op::ScmpCmpEq), (AF_VSOCK, Op::ScmpCmpGt)];
    for (family, operator) in ranges {
        calls.push(allow(["socket"], vec![argument(0, family, 0, operator)?]));
    }
    // A tracer could get around the filter until Linux 4.8; older ones are gone.
    calls.push(allow(["process_vm_readv", "process_vm_writev", "ptrace"], Vec::new()));
    calls.push(allow(of_machine().iter().copied(), Vec::new()));
    for (capability, names) in BY_CAPABILITY {
        if capabilities.contains(&capability) {
            calls.push(allow(names.iter().copied(), Vec::new()));
        }
    }
    if !capabilities.contains(&Capability::SysAdmin) {
        let plain = argument(0, NEW_NAMESPACES, 0, Op::ScmpCmpMaskedEq)?;
        calls.push(allow(["clone"], vec![plain]));
        // Its flags are behind a pointer, out of the filter's sight. "Not known"
        // makes libraries fall back to clone.
        let mut clone3 = LinuxSyscall::default();
        clone3
            .set_names(vec!["clone3".into()])
            .set_action(LinuxSeccompAction::ScmpActErrno)
            .set_errno_ret(Some(nix::libc::ENOSYS as u32))
            .set_args(None);
        calls.push(clone3);
    }

    let mut profile = LinuxSeccomp::default();
    profile
        .set_default_action(LinuxSeccompAction::ScmpActErrno)
        .set_architectures(architectures())
        .set_syscalls(Some(calls));
    Ok(profile)
}

/// The profile in a file: the `linux.seccomp` part of an OCI configuration.
///
/// # Errors
/// Those of the system, and `InvalidArgument` when it is no profile.
pub(super) fn from_file(path: &Path) -> Result<LinuxSeccomp> {
    let bytes = fs::read(path).context("read seccomp profile", path.display())?;
    serde_json::from_slice(&bytes).map_err(|e| {
        let context = format!("read seccomp profile {}", path.display());
        Error::caused(ErrorKind::InvalidArgument, context, e)
    })
}

fn allow<'a>(
    names: impl IntoIterator<Item = &'a str>,
    arguments: Vec<LinuxSeccompArg>,
) -> LinuxSyscall {
    let mut call = LinuxSyscall::default();
    call.set_names(names.into_iter().map(str::to_owned).collect())
        .set_action(LinuxSeccompAction::ScmpActAllow)
        .set_args((!arguments.is_empty()).then_some(arguments));
    call
}

/// A condition on an argument. `value_two` is what a masked one must equal.
fn argument(
    index: usize,
    value: u64,
    value_two: u64,
    operator: LinuxSeccompOperator,
) -> Result<LinuxSeccompArg> {
    LinuxSeccompArgBuilder::default()
        .index(index)
        .value(value)
        .value_two(value_two)
        .op(operator)
        .build()
        .map_err(|e| Error::caused(ErrorKind::Internal, "build seccomp profile", e))
}

/// Calls that only this machine has.
fn of_machine() -> &'static [&'static str] {
    match std::env::consts::ARCH {
        "x86_64" => &["arch_prctl", "modify_ldt"],
        "aarch64" => &[
            "arm_fadvise64_64",
            "arm_sync_file_range",
            "sync_file_range2",
            "breakpoint",
            "cacheflush",
            "set_tls",
        ],
        "riscv64" => &["riscv_flush_icache", "riscv_hwprobe"],
        _ => &[],
    }
}

/// The machine's own calls, and those of its older siblings that it runs too.
fn architectures() -> Option<Vec<Arch>> {
    match std::env::consts::ARCH {
        "x86_64" => Some(vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32]),
        "aarch64" => Some(vec![Arch::ScmpArchArm, Arch::ScmpArchAarch64]),
        "riscv64" => Some(vec![Arch::ScmpArchRiscv64]),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(profile: &LinuxSeccomp) -> Vec<&str> {
        let calls = profile.syscalls().as_ref().unwrap();
        calls
            .iter()
            .filter(|call| call.action() == LinuxSeccompAction::ScmpActAllow)
            .flat_map(|call| call.names().iter().map(String::as_str))
            .collect()
    }

    #[test]
    fn the_usual_is_allowed_and_the_rest_is_not() {
        let profile = default_profile(&super::super::capabilities::default()).unwrap();
        let names = names(&profile);
        assert!(names.contains(&"openat") && names.contains(&"chroot"));
        assert!(!names.contains(&"mount") && !names.contains(&"io_uring_setup"));
        assert_eq!(profile.default_action(), LinuxSeccompAction::ScmpActErrno);
    }

    #[test]
    fn namespaces_need_the_capability() {
        let clone = |capabilities: &Capabilities| {
            let profile = default_profile(capabilities).unwrap();
            let calls = profile.syscalls().clone().unwrap();
            calls
                .iter()
                .any(|c| c.names().contains(&"clone3".to_owned()) && c.errno_ret().is_some())
        };
        assert!(clone(&Capabilities::new()));
        assert!(!clone(&Capabilities::from([Capability::SysAdmin])));
        let admin = default_profile(&Capabilities::from([Capability::SysAdmin])).unwrap();
        assert!(names(&admin).contains(&"unshare"));
    }

    #[test]
    fn no_socket_family_is_allowed_twice() {
        let profile = default_profile(&Capabilities::new()).unwrap();
        let calls = profile.syscalls().as_ref().unwrap();
        let rules = calls.iter().filter(|call| call.names().contains(&"socket".to_owned()));
        assert!(rules.clone().all(|rule| rule.args().as_ref().unwrap().len() == 1));
        assert_eq!(rules.count(), 3);
    }

    #[test]
    fn a_file_must_be_a_profile() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), r#"{"defaultAction": "SCMP_ACT_LOG"}"#).unwrap();
        let profile = from_file(file.path()).unwrap();
        assert_eq!(profile.default_action(), LinuxSeccompAction::ScmpActLog);
        fs::write(file.path(), "no").unwrap();
        assert_eq!(from_file(file.path()).unwrap_err().kind(), ErrorKind::InvalidArgument);
    }
}
