//! Real groups where the machine has them, files written down where it has
//! not.

use std::time::Duration;

use shim_protocol::proto::{cgroups_v1, cgroups_v2};
use tokio::time::timeout;

use super::*;
use crate::{
    reaper::Reaper,
    testing::{id, is_root, remove_group, run, sh},
};

const LIMIT: Duration = Duration::from_secs(30);

/// A folder as of a group, with these files.
fn fixture(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, content) in files {
        fs::write(dir.path().join(name), content).unwrap();
    }
    dir
}

/// Groups of the test's own in all hierarchies, removed at its end.
struct Groups {
    path: PathBuf,
    folders: Vec<PathBuf>,
}

impl Groups {
    fn new(name: &str) -> Option<Self> {
        if !is_root(name) {
            return None;
        }
        let path = PathBuf::from("/").join(id(name));
        let mut groups = Self { path, folders: Vec::new() };
        for hierarchy in hierarchies().unwrap() {
            let folder = hierarchy.point.join(groups.path.strip_prefix("/").unwrap());
            if let Err(error) = fs::create_dir(&folder) {
                eprintln!("{name}: skipped, no group in {}: {error}", hierarchy.point.display());
                return None;
            }
            // A new group has neither CPUs nor memory to run on.
            for file in ["cpuset.cpus", "cpuset.mems"] {
                if let Ok(value) = fs::read(hierarchy.point.join(file)) {
                    fs::write(folder.join(file), value).unwrap();
                }
            }
            groups.folders.push(folder);
        }
        Some(groups)
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        remove_group(&self.path);
    }
}

/// A process that does nothing until its input ends, in `groups`.
fn member(
    groups: &Groups,
    script: &str,
    reaper: &Reaper,
) -> (crate::reaper::Child, io::PipeWriter) {
    let (theirs, ours) = io::pipe().unwrap();
    let mut command = sh(&format!("read x; {script}"));
    let child = reaper.spawn(command.stdin(theirs)).unwrap();
    Cgroup::join(&groups.path, child.pid).unwrap();
    (child, ours)
}

#[test]
fn a_process_is_found_where_it_was_put_and_counted() {
    run(async |reaper| {
        let Some(groups) = Groups::new("counted") else { return };
        let (child, _input) = member(&groups, "true", &reaper);
        let cgroup = Cgroup::of_pid(child.pid).unwrap();
        let mut found: Vec<_> = cgroup.v1.iter().map(|(_, path)| path.clone()).collect();
        found.extend(cgroup.v2.clone());
        let mut expected = groups.folders.clone();
        found.sort();
        expected.sort();
        assert_eq!(found, expected);

        let stats = cgroup.stats().unwrap();
        if any::is::<cgroups_v1::Metrics>(&stats) {
            let metrics: cgroups_v1::Metrics = any::unpack(&stats).unwrap();
            assert_eq!(metrics.pids.current, 1);
            assert!(metrics.memory.usage.limit > 0);
        } else {
            let metrics: cgroups_v2::Metrics = any::unpack(&stats).unwrap();
            assert_eq!(metrics.pids.current, 1);
        }
        drop(groups);
        let _ = child.exit.await;
        assert!(cgroup.stats().unwrap_err().is_not_found());
        assert!(cgroup.oom_watcher().err().unwrap().is_not_found());
    });
}

#[test]
fn a_missing_process_or_group_is_not_found() {
    assert!(Cgroup::of_pid(u32::MAX).unwrap_err().is_not_found());
    let error = Cgroup::join(Path::new("/no/such/group"), std::process::id()).unwrap_err();
    assert!(error.is_not_found());
}

#[test]
fn a_kill_for_want_of_memory_is_noticed() {
    run(async |reaper| {
        let Some(groups) = Groups::new("oom") else { return };
        // The shell itself grows.
        let script = "x=x; while true; do x=$x$x; done";
        let (child, input) = member(&groups, script, &reaper);
        let cgroup = Cgroup::of_pid(child.pid).unwrap();
        let limit = |group: &Path| {
            let file = if cgroup.is_v1() { "memory.limit_in_bytes" } else { "memory.max" };
            fs::write(group.join(file), "16777216")
        };
        let group = cgroup.controller("memory").or(cgroup.v2.as_deref());
        if let Err(error) = limit(group.unwrap()) {
            eprintln!("oom: skipped, memory cannot be limited: {error}");
            return;
        }
        let watcher = cgroup.oom_watcher().unwrap();
        drop(input);
        assert!(timeout(LIMIT, watcher.next()).await.unwrap());
        assert_eq!(timeout(LIMIT, child.exit).await.unwrap().status, 137);
        // Once more, and nobody looks before the end.
        while watcher.take() {}
        let (child, input) = member(&groups, script, &reaper);
        drop(input);
        assert_eq!(timeout(LIMIT, child.exit).await.unwrap().status, 137);
        assert!(watcher.take());
        drop(groups);
        while timeout(LIMIT, watcher.next()).await.unwrap() {}
    });
}

#[test]
fn v2_kills_are_counted_and_the_end_is_seen() {
    run(async |_| {
        let group = fixture(&[
            ("memory.events", "low 0\noom 0\noom_kill 3\noom_group_kill 0\n"),
            ("cgroup.events", "populated 1\nfrozen 0\n"),
        ]);
        let write = |name: &str, content: &str| {
            // In one step, as the kernel does: a truncated file would be seen.
            use std::os::unix::fs::FileExt;
            let file = fs::OpenOptions::new().write(true).open(group.path().join(name)).unwrap();
            file.write_all_at(content.as_bytes(), 0).unwrap();
        };
        let watcher = OomWatcher::v2(group.path()).unwrap();
        assert!(!watcher.take());
        write("memory.events", "low 1\noom 1\noom_kill 4\n");
        assert!(timeout(LIMIT, watcher.next()).await.unwrap());
        assert!(!watcher.take());
        write("memory.events", "low 1\noom 1\noom_kill 5\n");
        assert!(watcher.take());
        write("cgroup.events", "populated 0\n");
        assert!(!timeout(LIMIT, watcher.next()).await.unwrap());
    });
}

#[test]
fn v2_numbers() {
    let group = fixture(&[
        ("pids.current", "5\n"),
        ("pids.max", "max\n"),
        ("cpu.stat", "usage_usec 30\nuser_usec 20\nsystem_usec 10\nnr_periods 0\n"),
        (
            "cpu.pressure",
            "some avg10=1.50 avg60=0.25 avg300=0.00 total=77\n\
             full avg10=0.00 avg60=0.00 avg300=0.00 total=6\n",
        ),
        ("memory.stat", "anon 4096\nfile 8192\nworkingset_refault_anon 2\n"),
        ("memory.current", "12288\n"),
        ("memory.max", "max\n"),
        ("memory.events", "low 0\nhigh 0\nmax 0\noom 1\noom_kill 2\n"),
        ("io.stat", "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n"),
        ("rdma.current", "mlx4_0 hca_handle=2 hca_object=2000\n"),
        ("rdma.max", "mlx4_0 hca_handle=2 hca_object=max\n"),
        ("hugetlb.2MB.current", "2097152\n"),
        ("hugetlb.2MB.max", "max\n"),
        ("hugetlb.2MB.events", "max 9\n"),
        ("hugetlb.2MB.rsvd.current", "0\n"),
    ]);
    let metrics = v2::metrics(group.path()).unwrap();
    assert_eq!((metrics.pids.current, metrics.pids.limit), (5, u64::MAX));
    assert_eq!(metrics.cpu.usage_usec, 30);
    let psi = &metrics.cpu.psi.some;
    assert_eq!((psi.avg10, psi.avg60, psi.total), (1.5, 0.25, 77));
    assert!(metrics.memory.psi.is_none());
    assert_eq!((metrics.memory.anon, metrics.memory.workingset_refault), (4096, 2));
    assert_eq!((metrics.memory.usage, metrics.memory.usage_limit), (12288, u64::MAX));
    assert_eq!((metrics.memory_events.oom, metrics.memory_events.oom_kill), (1, 2));
    let io = &metrics.io.usage[0];
    assert_eq!((io.major, io.minor, io.rbytes, io.wios), (8, 0, 1, 4));
    assert_eq!(metrics.rdma.current[0].device, "mlx4_0");
    assert_eq!(metrics.rdma.limit[0].hca_objects, u32::MAX);
    assert_eq!(metrics.hugetlb.len(), 1);
    let huge = &metrics.hugetlb[0];
    assert_eq!((huge.pagesize.as_str(), huge.current, huge.failcnt), ("2MB", 2_097_152, 9));
}

#[test]
fn v1_numbers_with_a_controller_in_v2() {
    let cpu = fixture(&[
        ("cpuacct.usage", "123\n"),
        ("cpuacct.stat", "user 2\nsystem 3\n"),
        ("cpuacct.usage_percpu", "100 23 \n"),
        ("cpu.stat", "nr_periods 7\nnr_throttled 6\nthrottled_time 5\n"),
    ]);
    let pids = fixture(&[("pids.current", "5\n"), ("pids.max", "max\n")]);
    let blkio = fixture(&[
        ("blkio.throttle.io_service_bytes", "250:0 Read 4096\n250:0 Total 4096\nTotal 4096\n"),
        ("blkio.sectors", "8\n"),
    ]);
    let unified =
        fixture(&[("hugetlb.2MB.current", "2097152\n"), ("hugetlb.2MB.events", "max 9\n")]);
    let cgroup = Cgroup {
        v1: vec![
            ("pids".into(), pids.path().into()),
            ("cpu,cpuacct".into(), cpu.path().into()),
            ("blkio".into(), blkio.path().into()),
        ],
        v2: Some(unified.path().into()),
    };
    let metrics: cgroups_v1::Metrics = any::unpack(&cgroup.stats().unwrap()).unwrap();
    assert_eq!((metrics.pids.current, metrics.pids.limit), (5, 0));
    let usage = &metrics.cpu.usage;
    assert_eq!((usage.total, usage.user, usage.kernel), (123, 20_000_000, 30_000_000));
    assert_eq!(usage.per_cpu, [100, 23]);
    assert_eq!(metrics.cpu.throttling.throttled_time, 5);
    let bytes = &metrics.blkio.io_service_bytes_recursive;
    assert_eq!(bytes.len(), 2);
    assert_eq!((bytes[0].op.as_str(), bytes[0].major, bytes[0].value), ("Read", 250, 4096));
    assert_eq!((metrics.hugetlb[0].usage, metrics.hugetlb[0].failcnt), (2_097_152, 9));
    assert!(metrics.memory.is_none());
}

fn hierarchy(root: &str, point: &str, kind: &str, options: &str) -> Entry {
    Entry { root: root.into(), point: point.into(), kind: kind.into(), options: options.into() }
}

fn located(proc_cgroup: &str, hierarchies: &[Entry]) -> Cgroup {
    Cgroup::locate(proc_cgroup.lines().filter_map(Membership::parse), hierarchies)
}

#[test]
fn groups_are_located_on_each_kind_of_machine() {
    let unified = hierarchy("/", "/sys/fs/cgroup", "cgroup2", "rw,nsdelegate");
    let cgroup = located("0::/user/c:1\n", std::slice::from_ref(&unified));
    assert_eq!(cgroup.v2.as_deref(), Some(Path::new("/sys/fs/cgroup/user/c:1")));
    assert!(!cgroup.is_v1());

    // Inside a container, the mount shows a part of the hierarchy only.
    let nested = [
        hierarchy("/outer", "/cg/cpu", "cgroup", "rw,cpu,cpuacct"),
        hierarchy("/outer", "/cg/systemd", "cgroup", "rw,name=systemd"),
        unified,
    ];
    let text = "3:cpuacct,cpu:/outer/c\n2:name=systemd:/outer\n1:memory:/unseen\n0::/\n";
    let cgroup = located(text, &nested);
    assert_eq!(cgroup.controller("cpu"), Some(Path::new("/cg/cpu/c")));
    assert_eq!(cgroup.controller("memory"), None);
    assert_eq!(cgroup.v2.as_deref(), Some(Path::new("/sys/fs/cgroup/")));
    assert!(cgroup.is_v1());
}

#[test]
fn partitions_name_devices() {
    let entry =
        v1::device_name("major minor  #blocks  name\n\n 8  0  100 sda\n 8  1  50 sda1\n", 8, 1);
    assert_eq!(entry, "/dev/sda1");
}
