//! Control groups.

use std::fs;

use serde_json::json;

use crate::harness::{Bed, skip};

#[test]
fn limits_are_set_and_changed() {
    let Some(bed) = Bed::new("limits", "sleep 1000") else { return };
    let v1 = std::path::Path::new("/sys/fs/cgroup/memory").exists();
    let bed = bed
        .set("/linux/resources/memory", json!({"limit": 67_108_864, "reservation": 33_554_432}))
        .set(
            "/linux/resources/cpu",
            json!({"shares": 512, "quota": 50_000, "period": 100_000, "cpus": "0"}),
        )
        .set("/linux/resources/pids", json!({"limit": 20}));
    bed.start();
    let expect = |file: [&str; 2], value: [&str; 2]| {
        let index = usize::from(!v1);
        assert_eq!(bed.limit(file[index]).as_deref(), Some(value[index]), "{}", file[index]);
    };
    expect(["memory.limit_in_bytes", "memory.max"], ["67108864"; 2]);
    expect(["memory.soft_limit_in_bytes", "memory.low"], ["33554432"; 2]);
    expect(["cpu.shares", "cpu.weight"], ["512", "20"]);
    expect(["cpu.cfs_quota_us", "cpu.max"], ["50000", "50000 100000"]);
    expect(["cpuset.cpus"; 2], ["0"; 2]);
    expect(["pids.max"; 2], ["20"; 2]);
    fs::write(
        bed.path("more"),
        json!({"memory": {"limit": 134_217_728}, "pids": {"limit": -1}}).to_string(),
    )
    .unwrap();
    bed.ok(&["update", "--resources", "more", &bed.id]);
    expect(["memory.limit_in_bytes", "memory.max"], ["134217728"; 2]);
    expect(["pids.max"; 2], ["max"; 2]);
    expect(["cpu.shares", "cpu.weight"], ["512", "20"]);
    fs::write(bed.path("bad"), json!({"cpu": {"cpus": "4000"}}).to_string()).unwrap();
    let words = bed.refused(&["update", "--resources", "bad", &bed.id]);
    assert!(words.contains("cpuset.cpus"), "{words}");
}

#[test]
fn a_limit_that_lives_in_the_other_tree() {
    let unified =
        ["/sys/fs/cgroup/cgroup.controllers", "/sys/fs/cgroup/unified/cgroup.controllers"];
    let controllers = unified.iter().find_map(|path| fs::read_to_string(path).ok());
    if !controllers.is_some_and(|names| names.split_whitespace().any(|name| name == "hugetlb")) {
        skip("a_limit_that_lives_in_the_other_tree", "needs hugetlb in the v2 tree");
        return;
    }
    let Some(bed) = Bed::new("pages", "sleep 1000") else { return };
    let bed = bed
        .set("/linux/resources/hugepageLimits", json!([{"pageSize": "2MB", "limit": 4_194_304}]));
    bed.start();
    assert_eq!(bed.limit("hugetlb.2MB.max").as_deref(), Some("4194304"));
    let group = bed.config["linux"]["cgroupsPath"].as_str().unwrap();
    // It was born there, and what is added is, too.
    assert!(bed.exec("cat /proc/self/cgroup").contains(&format!("0::{group}\n")));
    assert!(bed.exec("cat /proc/1/cgroup").contains(&format!("0::{group}\n")));
    // All of it is killed at once there.
    bed.ok(&["kill", "--all", &bed.id, "KILL"]);
    bed.until("the end", || bed.state()["status"] == "stopped");
}

#[test]
fn devices_are_forbidden_unless_allowed() {
    let script = "mknod /tmp-loop b 7 0 && (exec 3</tmp-loop) 2>/dev/null && echo loop; \
                  head -c 1 /dev/zero | wc -c; echo x >/dev/null && echo null; \
                  (exec 3<>/dev/fuse) 2>/dev/null && echo fuse; true";
    let Some(bed) = Bed::new("devices", script) else { return };
    let make = json!(["CAP_MKNOD"]);
    let bed = bed
        .set("/process/capabilities/bounding", make.clone())
        .set("/process/capabilities/effective", make.clone())
        .set("/process/capabilities/permitted", make)
        .set(
            "/linux/devices",
            json!([{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o666}]),
        );
    assert_eq!(bed.output(), "1\nnull\n");
    fs::remove_file(bed.path("rootfs/tmp-loop")).unwrap();
    let bed = bed.add(
        "/linux/resources/devices",
        json!({"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw"}),
    );
    assert_eq!(bed.output(), "1\nnull\nfuse\n");
}

#[test]
fn groups_in_use_are_refused() {
    let Some(bed) = Bed::new("in-use", "sleep 1000") else { return };
    bed.start();
    let Some(other) = Bed::new("in-use-too", "true") else { return };
    let path = bed.config["linux"]["cgroupsPath"].clone();
    let mut other = other.set("/linux/cgroupsPath", path);
    let output = other.run();
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(words.contains("linux.cgroupsPath"), "{words}");
    // The other's group is still there.
    assert_eq!(bed.state()["status"], "running");
    assert!(!bed.groups().is_empty());
    other.config["linux"]["cgroupsPath"] = json!("/containerd-shim-test-none");
}

/// All that is below a container's group goes with it, so a group that others
/// have groups in is not to be had.
#[test]
fn a_group_above_others_is_refused() {
    let Some(bed) = Bed::new("below", "sleep 1000") else { return };
    let above = bed.config["linux"]["cgroupsPath"].clone();
    let below = format!("{}/below", above.as_str().unwrap());
    let mut bed = bed.set("/linux/cgroupsPath", json!(below));
    bed.start();
    let Some(other) = Bed::new("above", "true") else { return };
    let mut other = other.set("/linux/cgroupsPath", above.clone());
    let output = other.run();
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(words.contains("linux.cgroupsPath"), "{words}");
    assert_eq!(bed.state()["status"], "running");
    bed.ok(&["delete", "--force", &bed.id]);
    assert!(bed.groups().is_empty());
    // What was made on the way to it stays, as with other runtimes.
    bed.config["linux"]["cgroupsPath"] = above;
    for group in bed.groups() {
        fs::remove_dir(group).unwrap();
    }
    other.config["linux"]["cgroupsPath"] = json!("/containerd-shim-test-none");
}
