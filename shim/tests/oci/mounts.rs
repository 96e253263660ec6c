//! Filesystems.

use std::fs;

use serde_json::json;

use crate::harness::Bed;

#[test]
fn mounts_are_as_asked_for() {
    let script = "(echo x >/ro/f) 2>/dev/null || echo read-only; cat /ro/f; echo y >/rw/f; \
                  stat -c %a /small; grep ' /small ' /proc/mounts | grep -o size=64k; cat /one";
    let Some(bed) = Bed::new("mounts", script) else { return };
    for (folder, content) in [("ro", "r\n"), ("rw", "w\n")] {
        fs::create_dir(bed.path(folder)).unwrap();
        fs::write(bed.path(folder).join("f"), content).unwrap();
    }
    let bind = |bed: Bed, source: &str, point: &str, options: &[&str]| {
        let source = bed.path(source);
        bed.add(
            "/mounts",
            json!({"destination": point, "type": "bind", "source": source, "options": options}),
        )
    };
    let bed = bind(bed, "ro", "/ro", &["rbind", "ro", "rprivate"]);
    let bed = bind(bed, "rw", "/rw", &["bind"]);
    let bed = bind(bed, "ro/f", "/one", &["bind", "ro"]);
    let bed = bed.add(
        "/mounts",
        json!({"destination": "/small", "type": "tmpfs", "source": "tmpfs", "options": ["size=64k", "mode=1700"]}),
    );
    assert_eq!(bed.output(), "read-only\nr\n1700\nsize=64k\nr\n");
    assert_eq!(fs::read_to_string(bed.path("rw/f")).unwrap(), "y\n");
}

/// A link in the image must not lead a mount out of it.
#[test]
fn a_mount_stays_inside() {
    let Some(bed) = Bed::new("inside", "ls /etc/out") else { return };
    let outside = bed.path("outside");
    fs::create_dir(&outside).unwrap();
    std::os::unix::fs::symlink(&outside, bed.path("rootfs/etc")).unwrap();
    // Seen from inside, the link leads here.
    let inside = bed.path("rootfs").join(outside.strip_prefix("/").unwrap());
    fs::create_dir_all(&inside).unwrap();
    let bed =
        bed.add("/mounts", json!({"destination": "/etc/out", "type": "tmpfs", "source": "tmpfs"}));
    bed.output();
    assert!(inside.join("out").exists());
    assert_eq!(fs::read_dir(outside).unwrap().count(), 0);
}

#[test]
fn propagation_is_that_of_each_mount() {
    let script = "grep -E ' /(shared|slave|private) ' /proc/self/mountinfo | \
                  sed 's/ - .*//' | awk '{print $5, $7, $8}'";
    let Some(bed) = Bed::new("propagation", script) else { return };
    let mut bed = bed;
    for kind in ["shared", "slave", "private"] {
        fs::create_dir(bed.path(kind)).unwrap();
        let source = bed.path(kind);
        bed = bed.add(
            "/mounts",
            json!({"destination": format!("/{kind}"), "type": "bind", "source": source, "options": ["rbind", format!("r{kind}")]}),
        );
    }
    let output = bed.set("/linux/rootfsPropagation", json!("rslave")).output();
    let lines: Vec<_> = output.lines().map(str::trim).collect();
    assert!(lines[0].starts_with("/shared shared:"), "{output}");
    assert!(!lines[1].contains("shared:"), "{output}");
    assert_eq!(lines[2], "/private", "{output}");
}

#[test]
fn paths_are_masked_and_read_only() {
    let script = "cat /proc/kcore | wc -c; ls /proc/acpi 2>/dev/null | wc -l; \
                  (echo 1 >/proc/sys/kernel/panic) 2>&1 | grep -o 'Read-only file system'; \
                  (echo 1 >/x) 2>&1 | grep -o 'Read-only file system'";
    let Some(bed) = Bed::new("masked", script) else { return };
    let bed = bed
        .set("/linux/maskedPaths", json!(["/proc/kcore", "/proc/acpi", "/proc/none"]))
        .set("/linux/readonlyPaths", json!(["/proc/sys", "/proc/none"]))
        .set("/root/readonly", json!(true));
    assert_eq!(bed.output(), "0\n0\nRead-only file system\nRead-only file system\n");
}

#[test]
fn kernel_parameters_are_set() {
    let script = "cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax";
    let Some(bed) = Bed::new("sysctl", script) else { return };
    let sysctl = json!({"net.ipv4.ip_forward": "1", "kernel.msgmax": "12345"});
    assert_eq!(bed.set("/linux/sysctl", sysctl).output(), "1\n12345\n");
}

#[test]
fn without_pivot_root() {
    let Some(bed) = Bed::new("no-pivot", "ls / | grep -c bin") else { return };
    bed.create();
    bed.ok(&["delete", &bed.id]);
    let output = bed.command(&["run", "--no-pivot", &bed.id]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "1\n");
}

/// Else a container could lift its own limits.
#[test]
fn control_groups_are_read_only_if_asked_for() {
    let script = "grep -E ' /sys/fs/cgroup' /proc/self/mountinfo | cut -d ' ' -f 6 | cut -d , -f 1 | sort -u";
    let Some(bed) = Bed::new("cgroup-ro", script) else { return };
    let mut bed = bed.add(
        "/mounts",
        json!({"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro"]}),
    );
    let groups = |options: &[&str]| json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": options});
    let mounts = bed.config["mounts"].clone();
    for kinds in [&["pid", "mount", "uts"][..], &["pid", "mount", "uts", "cgroup"]] {
        let namespaces: Vec<_> = kinds.iter().map(|kind| json!({"type": kind})).collect();
        bed.config["linux"]["namespaces"] = json!(namespaces);
        for (options, seen) in [(&["ro", "nosuid"][..], "ro\n"), (&["rw"], "rw\n")] {
            bed.config["mounts"] = mounts.clone();
            bed = bed.add("/mounts", groups(options));
            assert_eq!(bed.output(), seen, "{kinds:?}");
        }
    }
}

#[test]
fn devices_are_in_a_read_only_folder_if_asked_for() {
    let script =
        "(echo x >/dev/new) 2>&1 | grep -o 'Read-only file system'; echo x >/dev/null && echo null";
    let Some(bed) = Bed::new("dev-ro", script) else { return };
    let bed = bed.set("/mounts/1/options", json!(["mode=755", "ro"]));
    assert_eq!(bed.output(), "Read-only file system\nnull\n");
}

/// Links and devices are made in the image's `/dev`, wherever that is.
#[test]
fn a_link_in_place_of_dev_stays_inside() {
    let Some(bed) = Bed::new("dev-link", "ls -l /dev/ | grep -c -E ' (fd|ptmx|null)( |$)'") else {
        return;
    };
    let outside = bed.path("outside");
    fs::create_dir(&outside).unwrap();
    std::os::unix::fs::symlink(&outside, bed.path("rootfs/dev")).unwrap();
    let proc = bed.config["mounts"][0].clone();
    // Without a mount of its own: what is made there is made in the image.
    let bed = bed.set("/mounts", json!([proc]));
    assert_eq!(bed.output(), "3\n");
    assert_eq!(fs::read_dir(outside).unwrap().count(), 0);
    // And once more, where all of it is already.
    assert_eq!(bed.output(), "3\n");
}

/// A `/dev` of the host is complete, and not the container's to change.
#[test]
fn devices_of_the_host_are_left_as_they_are() {
    let Some(bed) = Bed::new("dev-bind", "cat /dev/ptmx; echo x >/dev/null && ls /dev") else {
        return;
    };
    let host = bed.path("host-dev");
    fs::create_dir(&host).unwrap();
    fs::write(host.join("ptmx"), "of the host\n").unwrap();
    let (kind, mode) =
        (nix::sys::stat::SFlag::S_IFCHR, nix::sys::stat::Mode::from_bits_truncate(0o666));
    nix::sys::stat::mknod(&host.join("null"), kind, mode, nix::sys::stat::makedev(1, 3)).unwrap();
    let mount =
        json!({"destination": "/dev/", "type": "bind", "source": host, "options": ["rbind", "rw"]});
    let proc = bed.config["mounts"][0].clone();
    let bed = bed.set("/mounts", json!([proc, mount]));
    assert_eq!(bed.output(), "of the host\nnull\nptmx\n");
}

/// A tmpfs is as open as the folder that it is mounted on, and may begin with
/// what is there, also if that came by an earlier mount.
#[test]
fn a_tmpfs_takes_after_its_folder() {
    let script = "stat -c %a /kept /said /new; cat /kept/copied /bound/in/f; echo x >/bound/in/f";
    let Some(bed) = Bed::new("tmpfs", script) else { return };
    for folder in ["kept", "said"] {
        let path = bed.path("rootfs").join(folder);
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o1705)).unwrap();
    }
    fs::write(bed.path("rootfs/kept/copied"), "copied\n").unwrap();
    fs::create_dir_all(bed.path("outer/in")).unwrap();
    fs::write(bed.path("outer/in/f"), "of the mount\n").unwrap();
    let outer = bed.path("outer");
    let tmpfs = |point: &str, options: &[&str]| json!({"destination": point, "type": "tmpfs", "source": "tmpfs", "options": options});
    let bed = bed
        .add("/mounts", tmpfs("/kept", &["tmpcopyup"]))
        .add("/mounts", tmpfs("/said", &["mode=0750"]))
        .add("/mounts", tmpfs("/new", &[]))
        .add(
            "/mounts",
            json!({"destination": "/bound", "type": "bind", "source": outer, "options": ["bind"]}),
        )
        .add("/mounts", tmpfs("/bound/in", &["tmpcopyup"]));
    assert_eq!(bed.output(), "1705\n750\n1777\ncopied\nof the mount\n");
    assert_eq!(fs::read_to_string(bed.path("outer/in/f")).unwrap(), "of the mount\n");
}

/// Nothing pretends to be what the kernel says of processes.
#[test]
fn proc_is_what_it_says() {
    for (destination, refused) in [
        ("/proc", true),
        ("/proc/self/attr", true),
        ("/proc/sys", true),
        ("/nowhere/../proc/sys", true),
        ("/through/sys", true),
        ("/proc/cpuinfo", false),
    ] {
        let Some(bed) = Bed::new("over-proc", "cat /proc/cpuinfo") else { return };
        std::os::unix::fs::symlink("/proc", bed.path("rootfs/through")).unwrap();
        fs::create_dir(bed.path("folder")).unwrap();
        fs::write(bed.path("file"), "mine\n").unwrap();
        let source = bed.path(if refused { "folder" } else { "file" });
        let mount = json!({"destination": destination, "type": "bind", "source": source, "options": ["bind"]});
        let bed = bed.add("/mounts", mount);
        match refused {
            true => {
                let said = bed.refusal();
                assert!(said.contains("mount over /proc"), "{destination}: {said}");
            }
            false => assert_eq!(bed.output(), "mine\n"),
        }
    }
    let Some(bed) = Bed::new("proc-link", "true") else { return };
    std::os::unix::fs::symlink("/bin", bed.path("rootfs/proc")).unwrap();
    let said = bed.refusal();
    assert!(said.contains("proc must be mounted on an ordinary folder"), "{said}");
}

#[test]
fn options_for_all_mounts_below() {
    let script =
        "for f in deep/in flat/in; do (echo x >/$f/f) 2>&1 | grep -o 'Read-only' || echo $f; done";
    let Some(bed) = Bed::new("recursive", script) else { return };
    // A mount below the source, where only the container's maker sees it.
    let source = bed.path("source");
    fs::create_dir_all(source.join("in")).unwrap();
    let tmpfs = Some("tmpfs");
    nix::mount::mount(tmpfs, &source.join("in"), tmpfs, nix::mount::MsFlags::empty(), None::<&str>)
        .unwrap();
    let bind = |point: &str, option: &str| json!({"destination": point, "type": "bind", "source": source, "options": ["rbind", option]});
    let bed = bed.add("/mounts", bind("/deep", "rro")).add("/mounts", bind("/flat", "ro"));
    let output = bed.run();
    nix::mount::umount(&source.join("in")).unwrap();
    assert_eq!(crate::harness::text(&output.stdout), "Read-only\nflat/in\n");
}

/// Sources are opened by whoever makes the container: its root may get to less.
#[test]
fn a_source_that_the_containers_root_does_not_get_to() {
    let Some(bed) = Bed::new("user-source", "cat /data/f") else { return };
    let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65_536}]);
    let source = bed.path("private/data");
    fs::create_dir_all(&source).unwrap();
    fs::write(source.join("f"), "seen\n").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode;
    fs::set_permissions(bed.path("private"), mode(0o700)).unwrap();
    for folder in [bed.path(""), bed.path("rootfs")] {
        fs::set_permissions(&folder, mode(0o755)).unwrap();
        nix::unistd::chown(&folder, Some(100_000.into()), Some(100_000.into())).unwrap();
    }
    let bed = bed
        .add("/linux/namespaces", json!({"type": "user"}))
        .set("/linux/uidMappings", map.clone())
        .set("/linux/gidMappings", map)
        .add(
            "/mounts",
            json!({"destination": "/data", "type": "bind", "source": source, "options": ["rbind"]}),
        );
    assert_eq!(bed.output(), "seen\n");
}
