//! Namespaces: new ones, and those of others.

use std::fs;

use serde_json::json;

use crate::harness::Bed;

const KINDS: [&str; 4] = ["ipc", "net", "uts", "pid"];

fn namespace(pid: impl std::fmt::Display, kind: &str) -> String {
    fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap().display().to_string()
}

#[test]
fn those_of_another_container_are_joined() {
    let Some(sandbox) = Bed::new("sandbox", "sleep 1000") else { return };
    sandbox.start();
    let pid = sandbox.pid();
    let Some(bed) = Bed::new("member", "sleep 1000") else { return };
    let bed = bed.set(
        "/linux/namespaces",
        json!([
            {"type": "mount", "path": ""},
            {"type": "pid", "path": format!("/proc/{pid}/ns/pid")},
            {"type": "ipc", "path": format!("/proc/{pid}/ns/ipc")},
            {"type": "uts", "path": format!("/proc/{pid}/ns/uts")},
            {"type": "network", "path": format!("/proc/{pid}/ns/net")},
            {"type": "cgroup"},
        ]),
    );
    bed.start();
    for kind in KINDS {
        assert_eq!(namespace(bed.pid(), kind), namespace(pid, kind), "{kind}");
    }
    for kind in ["mnt", "cgroup"] {
        assert_ne!(namespace(bed.pid(), kind), namespace(pid, kind), "{kind}");
    }
    for kind in KINDS {
        let inside = bed.exec(&format!("readlink /proc/self/ns/{kind}"));
        assert_eq!(inside.trim(), namespace(pid, kind), "{kind} of an added process");
    }
    // In a cgroup namespace the container's group is the root.
    assert!(bed.exec("cat /proc/self/cgroup").lines().all(|line| line.ends_with(":/")));
}

#[test]
fn a_user_namespace() {
    let script = "id -u; id -g; cat /proc/self/uid_map /proc/self/gid_map | tr -s ' '; sleep 1000";
    let Some(bed) = Bed::new("user", script) else { return };
    let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65_536}]);
    let all = json!(["CAP_SETUID", "CAP_SETGID", "CAP_KILL"]);
    let bed = bed
        .add("/linux/namespaces", json!({"type": "user"}))
        .set("/linux/uidMappings", map.clone())
        .set("/linux/gidMappings", map)
        .set("/process/capabilities/bounding", all.clone())
        .set("/process/capabilities/effective", all.clone())
        .set("/process/capabilities/permitted", all);
    // The container's root has to get through to its files.
    for folder in [bed.path(""), bed.path("rootfs")] {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(&folder, mode).unwrap();
        nix::unistd::chown(&folder, Some(100_000.into()), Some(100_000.into())).unwrap();
    }
    bed.start();
    let seen = "0\n0\n 0 100000 65536\n 0 100000 65536\n";
    bed.until("its output", || fs::read_to_string(bed.path("output")).unwrap() == seen);
    let status = fs::read_to_string(format!("/proc/{}/status", bed.pid())).unwrap();
    assert!(status.contains("Uid:\t100000\t100000"), "{status}");
    // What is added is no more of a root than init.
    let inside = bed.exec("readlink /proc/self/ns/user; id -u");
    assert_eq!(inside, format!("{}\n0\n", namespace(bed.pid(), "user")));
    let inside = bed.ok(&["exec", "--user", "5:6", &bed.id, "sh", "-c", "id -u; id -g"]);
    assert_eq!(inside, "5\n6\n");
    // A second container in the first one's.
    let Some(member) = Bed::new("user-member", "id -u; readlink /proc/self/ns/user") else {
        return;
    };
    for folder in [member.path(""), member.path("rootfs")] {
        nix::unistd::chown(&folder, Some(100_000.into()), Some(100_000.into())).unwrap();
    }
    let path = format!("/proc/{}/ns/user", bed.pid());
    let member = member.add("/linux/namespaces", json!({"type": "user", "path": path}));
    assert_eq!(member.output(), format!("0\n{}\n", namespace(bed.pid(), "user")));
}

#[test]
fn a_time_namespace() {
    let Some(bed) = Bed::new("time", "cat /proc/uptime; sleep 1000") else { return };
    let bed = bed
        .add("/linux/namespaces", json!({"type": "time"}))
        .set("/linux/timeOffsets", json!({"boottime": {"secs": 1_000_000, "nanosecs": 0}}));
    bed.start();
    let long = |text: &str| {
        text.split('.').next().and_then(|seconds| seconds.parse::<u64>().ok()).unwrap() > 1_000_000
    };
    bed.until("its output", || fs::read_to_string(bed.path("output")).unwrap().ends_with('\n'));
    assert!(long(&fs::read_to_string(bed.path("output")).unwrap()));
    assert!(long(&bed.exec("cat /proc/uptime")));
    assert_ne!(namespace(bed.pid(), "time"), namespace("self", "time"));
}
