//! What a container gets if nobody says otherwise: the defaults of
//! containerd's clients (`pkg/oci/spec.go` and `mounts.go`).

use std::path::PathBuf;

use oci_spec::runtime::{
    LinuxDeviceCgroup, LinuxDeviceType, LinuxNamespace, LinuxNamespaceType, Mount, PosixRlimit,
    Process,
};

/// Search path of programs, for containers that set none.
pub(super) const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Paths that a container sees empty.
pub(super) const MASKED_PATHS: [&str; 11] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
    "/proc/scsi",
];

/// Paths that a container cannot write to.
pub(super) const READONLY_PATHS: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Character devices that every container may use, as major and minor number.
/// No minor number means all of them.
const DEVICES: [(i64, Option<i64>); 9] = [
    (1, Some(3)), // null
    (1, Some(8)), // random
    (1, Some(7)), // full
    (5, Some(0)), // tty
    (1, Some(5)), // zero
    (1, Some(9)), // urandom
    (5, Some(1)), // console
    (136, None),  // pts/*
    (5, Some(2)), // ptmx
];

/// Namespaces of its own that a container gets.
pub(super) fn namespaces() -> Vec<LinuxNamespace> {
    [
        LinuxNamespaceType::Pid,
        LinuxNamespaceType::Ipc,
        LinuxNamespaceType::Uts,
        LinuxNamespaceType::Mount,
        LinuxNamespaceType::Network,
    ]
    .into_iter()
    .map(|kind| namespace(kind, None))
    .collect()
}

pub(super) fn namespace(kind: LinuxNamespaceType, path: Option<PathBuf>) -> LinuxNamespace {
    let mut namespace = LinuxNamespace::default();
    namespace.set_typ(kind).set_path(path);
    namespace
}

/// 1024 open files, which is what the OCI crate starts with.
pub(super) fn rlimits() -> Vec<PosixRlimit> {
    Process::default().rlimits().clone().unwrap_or_default()
}

pub(super) fn mounts() -> Vec<Mount> {
    const SAFE: [&str; 3] = ["nosuid", "noexec", "nodev"];
    let small = ["nosuid", "strictatime", "mode=755", "size=65536k"];
    vec![
        mount("/proc", "proc", "proc", SAFE),
        mount("/dev", "tmpfs", "tmpfs", small),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("/dev/shm", "tmpfs", "shm", SAFE.into_iter().chain(["mode=1777", "size=65536k"])),
        mount("/dev/mqueue", "mqueue", "mqueue", SAFE),
        mount("/sys", "sysfs", "sysfs", SAFE.into_iter().chain(["ro"])),
        mount("/run", "tmpfs", "tmpfs", small),
    ]
}

pub(super) fn mount<'a>(
    destination: &str,
    kind: &str,
    source: &str,
    options: impl IntoIterator<Item = &'a str>,
) -> Mount {
    let mut mount = Mount::default();
    mount
        .set_destination(destination.into())
        .set_typ(Some(kind.into()))
        .set_source(Some(source.into()))
        .set_options(Some(options.into_iter().map(str::to_owned).collect()));
    mount
}

/// Rules for devices: none but the usual ones.
pub(super) fn device_rules() -> Vec<LinuxDeviceCgroup> {
    let deny = device_rule(false, None, None, None, "rwm");
    let allow = DEVICES.into_iter().map(|(major, minor)| {
        device_rule(true, Some(LinuxDeviceType::C), Some(major), minor, "rwm")
    });
    std::iter::once(deny).chain(allow).collect()
}

pub(super) fn device_rule(
    allow: bool,
    kind: Option<LinuxDeviceType>,
    major: Option<i64>,
    minor: Option<i64>,
    access: &str,
) -> LinuxDeviceCgroup {
    let mut rule = LinuxDeviceCgroup::default();
    rule.set_allow(allow)
        .set_typ(kind)
        .set_major(major)
        .set_minor(minor)
        .set_access(Some(access.into()));
    rule
}
