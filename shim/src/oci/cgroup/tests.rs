//! Limits in folders that look like the kernel's, and device rules in real
//! groups.

use std::{fs, path::Path, process::Command};

use serde_json::{Value, json};
use shim_protocol::ErrorKind;

use super::{Groups, Unified, devices, resources::weight_of_shares, tree};
use crate::testing::{is_root, remove_group};

fn resources(value: Value) -> oci_spec::runtime::LinuxResources {
    serde_json::from_value(value).unwrap()
}

/// A group with these files, which are all empty.
fn group(folder: &Path, files: &[&str]) {
    fs::create_dir_all(folder).unwrap();
    for file in files {
        fs::write(folder.join(file), "").unwrap();
    }
}

fn read(folder: &Path, file: &str) -> String {
    fs::read_to_string(folder.join(file)).unwrap()
}

#[test]
fn limits_in_v2() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("g");
    let files = [
        "memory.max",
        "memory.low",
        "memory.swap.max",
        "cpu.weight",
        "cpu.max",
        "cpu.idle",
        "cpuset.cpus",
        "cpuset.mems",
        "pids.max",
        "io.weight",
        "io.max",
        "hugetlb.2MB.max",
        "rdma.max",
        "misc.max",
    ];
    group(&folder, &files);
    let unified = Unified { root: dir.path().to_owned(), group: folder.clone() };
    let groups = Groups { v2: Some(unified), ..Groups::default() };
    let asked = resources(json!({
        "memory": {"limit": 1000, "swap": 1500, "reservation": 700},
        "cpu": {"shares": 1024, "quota": 5000, "period": 10_000, "cpus": "0-1", "mems": "0"},
        "pids": {"limit": 7},
        "blockIO": {"weight": 500, "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 99}]},
        "hugepageLimits": [{"pageSize": "2MB", "limit": 4096}],
        "rdma": {"mlx": {"hcaHandles": 3}},
        "unified": {"misc.max": "res_a 1"},
    }));
    groups.apply(&asked).unwrap();
    for (file, value) in [
        ("memory.max", "1000"),
        ("memory.low", "700"),
        ("memory.swap.max", "500"),
        ("cpu.weight", "39"),
        ("cpu.max", "5000 10000"),
        ("cpuset.cpus", "0-1"),
        ("cpuset.mems", "0"),
        ("pids.max", "7"),
        ("io.weight", "4950"),
        ("io.max", "8:0 rbps=99"),
        ("hugetlb.2MB.max", "4096"),
        ("rdma.max", "mlx hca_handle=3 hca_object=max"),
        ("misc.max", "res_a 1"),
        ("cpu.idle", ""),
    ] {
        assert_eq!(read(&folder, file), value, "{file}");
    }
}

#[test]
fn limits_in_v1() {
    let dir = tempfile::tempdir().unwrap();
    let both = dir.path().join("cpu");
    let memory = dir.path().join("memory");
    group(&both, &["cpu.shares", "cpu.cfs_quota_us", "cpu.cfs_period_us"]);
    group(&memory, &["memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "memory.swappiness"]);
    fs::write(memory.join("memory.memsw.limit_in_bytes"), "900").unwrap();
    let v1 = vec![("cpu,cpuacct".into(), both.clone()), ("memory".into(), memory.clone())];
    let groups = Groups { v1, ..Groups::default() };
    let asked = resources(json!({
        "memory": {"limit": 1000, "swap": 2000, "swappiness": 5},
        "cpu": {"shares": 10, "quota": -1, "period": 10},
    }));
    groups.apply(&asked).unwrap();
    assert_eq!(read(&both, "cpu.shares"), "10");
    assert_eq!(read(&both, "cpu.cfs_quota_us"), "-1");
    assert_eq!(read(&memory, "memory.memsw.limit_in_bytes"), "2000");
    assert_eq!(read(&memory, "memory.limit_in_bytes"), "1000");
    let error = groups.apply(&resources(json!({"pids": {"limit": 1}}))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
    assert!(error.to_string().contains("pids"), "{error}");
    let error = groups.apply(&resources(json!({"unified": {"pids.max": "1"}}))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
}

#[test]
fn files_that_are_no_limits_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let unified = Unified { root: dir.path().to_owned(), group: dir.path().to_owned() };
    let groups = Groups { v2: Some(unified), ..Groups::default() };
    for file in ["../x.y", "cgroup.procs", "cgroup.subtree_control", "plain"] {
        let error = groups.apply(&resources(json!({"unified": {file: "1"}}))).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{file}");
    }
    let error = groups.apply(&resources(json!({"memory": {"limit": 5, "swap": 4}}))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
}

#[test]
fn shares_become_weights() {
    for (shares, weight) in [(0, 1), (2, 1), (1024, 39), (262_144, 10_000), (u64::MAX, 10_000)] {
        assert_eq!(weight_of_shares(shares), weight, "{shares}");
    }
}

#[test]
fn controllers_are_enabled_down_to_the_group() {
    let dir = tempfile::tempdir().unwrap();
    let group = dir.path().join("a/b");
    fs::write(dir.path().join("cgroup.controllers"), "cpu memory").unwrap();
    for folder in [dir.path().to_owned(), dir.path().join("a")] {
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("cgroup.subtree_control"), "cpu").unwrap();
    }
    tree::enable_controllers(dir.path(), &group).unwrap();
    assert_eq!(read(dir.path(), "cgroup.subtree_control"), "+memory");
    assert_eq!(read(&dir.path().join("a"), "cgroup.subtree_control"), "+memory");
    // The group itself is made by who wants it.
    assert!(!group.exists());
}

#[test]
fn a_path_does_not_lead_out() {
    for path in ["..", "/a/../b", "a/.."] {
        let error = Groups::plan(Path::new(path)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{path}");
    }
}

/// The kernel itself is asked whether the program means what the rules say.
#[test]
fn device_rules_hold_in_v2() {
    const TEST: &str = "device_rules_hold_in_v2";
    let roots = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
    let root = roots.iter().find(|root| Path::new(root).join("cgroup.procs").exists());
    let Some(root) = root.filter(|_| is_root(TEST)) else {
        eprintln!("{TEST}: skipped, needs the cgroup v2 tree");
        return;
    };
    let zero = |access: &str, allow: bool| json!({"allow": allow, "type": "c", "major": 1, "minor": 5, "access": access});
    let none = json!({"allow": false, "access": "rwm"});
    let all = json!({"allow": true, "access": "rwm"});
    let outcome = |name: &str, rules: Value| {
        let path = format!("/containerd-shim-test-devices-{name}-{}", std::process::id());
        let folder = Path::new(root).join(&path[1..]);
        fs::create_dir(&folder).unwrap();
        let asked = resources(json!({"devices": rules}));
        let rules = devices::Rule::all(Some(&asked)).unwrap();
        devices::attach_v2(&folder, &rules).unwrap();
        let script = format!(
            "echo 0 >{}/cgroup.procs || exit 1; for open in '</dev/zero' '>/dev/zero' '<>/dev/zero' \
             '</dev/fuse' '</dev/null'; do if (eval \"exec 3$open\") 2>/dev/null; then printf 1; else \
             printf 0; fi; done",
            folder.display()
        );
        let _turn = crate::testing::turn();
        let output = Command::new("/bin/sh").args(["-c", &script]).output().unwrap();
        remove_group(Path::new(&path));
        String::from_utf8(output.stdout).unwrap()
    };
    // What every container has, and nothing else.
    assert_eq!(outcome("default", json!([none])), "11101");
    assert_eq!(outcome("all", json!([all])), "11111");
    // Later rules count, but what every container has comes last.
    assert_eq!(
        outcome("but", json!([all, {"allow": false, "type": "c", "major": 10, "access": "r"}])),
        "11101"
    );
    assert_eq!(outcome("again", json!([none, all])), "11111");
    assert_eq!(outcome("over", json!([all, zero("w", false), none])), "11101");
    let fuse = json!({"allow": true, "type": "c", "major": 10, "minor": 229, "access": "r"});
    assert_eq!(outcome("one", json!([none, fuse])), "11111");
}

#[test]
fn groups_of_others_stay() {
    let dir = tempfile::tempdir().unwrap();
    let (free, used) = (dir.path().join("free"), dir.path().join("used"));
    group(&free.join("below"), &["cgroup.procs"]);
    group(&used, &["cgroup.procs"]);
    fs::write(used.join("cgroup.procs"), "1\n").unwrap();
    let new = dir.path().join("new");
    let v1 = [("a", &free), ("b", &new), ("c", &used)];
    let v1 = v1.map(|(name, folder)| (name.to_owned(), folder.clone())).to_vec();
    let groups = Groups { v1, ..Groups::default() };
    assert_eq!(groups.require_unused().unwrap_err().kind(), ErrorKind::FailedPrecondition);
    assert_eq!(groups.make(None).unwrap_err().kind(), ErrorKind::FailedPrecondition);
    // What was there before, also if it is empty, is not removed; what is new is.
    assert!(free.join("below").is_dir() && used.is_dir() && !new.exists());
    let free = Groups { v1: vec![("a".into(), free)], ..Groups::default() };
    free.require_unused().unwrap();
    free.make(None).unwrap();
}

#[test]
fn devices_as_a_list() {
    let list = |rules: Value| {
        let rules = devices::Rule::all(Some(&resources(json!({"devices": rules})))).unwrap();
        devices::allowed(&rules)
    };
    let none = json!({"allow": false, "access": "rwm"});
    let all = json!({"allow": true, "access": "rwm"});
    let fuse = json!({"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw"});
    let devices::Allowed::These(these) = list(json!([none, fuse])) else { panic!("no list") };
    for (path, access) in
        [("/dev/char/10:229", "rw"), ("char-*", "m"), ("/dev/char/1:3", "rwm"), ("char-pts", "rwm")]
    {
        assert!(these.contains(&(path.into(), access.into())), "{path}: {these:?}");
    }
    assert_eq!(list(json!([none, all])), devices::Allowed::All);
    let no_fuse = json!({"allow": false, "type": "c", "major": 10, "minor": 229, "access": "rw"});
    assert_eq!(list(json!([all, no_fuse])), devices::Allowed::Other);
}
