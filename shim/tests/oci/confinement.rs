//! Users, capabilities, and what keeps a process from the host.

use std::{fs, process::Stdio};

use serde_json::json;

use crate::harness::{Bed, skip};

#[test]
fn who_it_is() {
    let script = "id -u; id -g; id -G; umask; echo $HOME; pwd; hostname";
    let Some(bed) = Bed::new("who", script) else { return };
    let bed = bed
        .set("/process/user", json!({"uid": 7, "gid": 8, "additionalGids": [9, 10], "umask": 0o27}))
        .set("/process/cwd", json!("/made/on/the/way"));
    fs::create_dir(bed.path("rootfs/etc")).unwrap();
    fs::write(bed.path("rootfs/etc/passwd"), "root:x:0:0::/root:\nu:x:7:8::/home/u:\n").unwrap();
    assert_eq!(bed.output(), "7\n8\n8 9 10\n0027\n/home/u\n/made/on/the/way\nbox\n");
}

/// Wherever it is: in the image, in a mount, where the image cannot be written.
#[test]
fn a_working_directory_is_made() {
    for (cwd, read_only) in [("/made/here", false), ("/made/here", true), ("/dev/in/a/mount", true)]
    {
        let Some(bed) = Bed::new("cwd", "pwd; stat -c '%u %a' .") else { return };
        let bed = bed
            .set("/process/user", json!({"uid": 7, "gid": 8}))
            .set("/process/cwd", json!(cwd))
            .set("/root/readonly", json!(read_only));
        assert_eq!(bed.output(), format!("{cwd}\n0 755\n"));
    }
}

/// Links of the kernel could lead to a folder of the host that is still open
/// (CVE-2024-21626).
#[test]
fn a_working_directory_is_inside() {
    for number in 3..20 {
        let Some(bed) = Bed::new("cwd-link", "pwd") else { return };
        let said = bed.set("/process/cwd", json!(format!("/proc/self/fd/{number}/x"))).refusal();
        assert!(said.contains("process.cwd"), "{said}");
    }
    let Some(bed) = Bed::new("cwd-exec", "sleep 1000") else { return };
    bed.start();
    for cwd in ["/proc/self/fd/3", "/proc/1/root", "/nosuch"] {
        let said = bed.refused(&["exec", "--cwd", cwd, &bed.id, "pwd"]);
        let words = format!("chdir to cwd ({cwd:?}) set in config.json failed: ");
        assert!(said.contains(&words), "{said}");
    }
}

/// Programs open them by their names, and not all of them as root.
#[test]
fn streams_belong_to_the_user() {
    let script = "echo out >/dev/stdout; echo err >/dev/stderr";
    let Some(bed) = Bed::new("streams", script) else { return };
    let bed = bed.set("/process/user", json!({"uid": 7, "gid": 8}));
    let owner = || std::os::unix::fs::MetadataExt::uid(&fs::metadata("/dev/null").unwrap());
    let before = owner();
    let output = bed.run();
    assert_eq!(crate::harness::text(&output.stdout), "out\n");
    assert_eq!(crate::harness::text(&output.stderr), "err\n");
    // The device that all share stays whose it is.
    assert_eq!(owner(), before);
}

#[test]
fn capabilities_are_those_that_were_asked_for() {
    let Some(bed) = Bed::new("caps", "grep -E '^(Cap|NoNewPrivs)' /proc/self/status") else {
        return;
    };
    let none = "0000000000000000";
    let expect = |[inheritable, permitted, effective, bounding, ambient]: [&str; 5], nnp| {
        format!(
            "CapInh:\t{inheritable}\nCapPrm:\t{permitted}\nCapEff:\t{effective}\n\
             CapBnd:\t{bounding}\nCapAmb:\t{ambient}\nNoNewPrivs:\t{nnp}\n"
        )
    };
    // None at all, even for root.
    assert_eq!(bed.output(), expect([none; 5], 0));
    let some = json!(["CAP_KILL", "CAP_NET_RAW"]);
    let bed = bed
        .set("/process/capabilities/bounding", some.clone())
        .set("/process/capabilities/effective", some.clone())
        .set("/process/capabilities/permitted", some.clone());
    let held = "0000000000002020";
    assert_eq!(bed.output(), expect([none, held, held, held, none], 0));
    // Who is not root keeps what is ambient.
    let bed = bed
        .set("/process/user/uid", json!(5))
        .set("/process/noNewPrivileges", json!(true))
        .set("/process/capabilities/inheritable", some.clone())
        .set("/process/capabilities/ambient", some);
    assert_eq!(bed.output(), expect([held, held, held, held, held], 1));
}

/// A warning, as the specification has it, and no failure.
#[test]
fn capabilities_that_cannot_be_had_are_left_out() {
    let Some(bed) = Bed::new("caps-more", "grep CapBnd /proc/self/status; sleep 1000") else {
        return;
    };
    let log = bed.path("log").display().to_string();
    let sets = json!(["CAP_KILL", "CAP_FLY"]);
    let bed = bed.set("/process/capabilities", json!({"bounding": sets}));
    fs::write(bed.path("config.json"), bed.config.to_string()).unwrap();
    let mut create = bed.command(&["--log", &log, "--log-format", "json", "create", &bed.id]);
    let output = fs::File::create(bed.path("output")).unwrap();
    assert!(create.stdout(output).stderr(std::process::Stdio::null()).status().unwrap().success());
    let line: serde_json::Value = serde_json::from_slice(&fs::read(&log).unwrap()).unwrap();
    assert_eq!(line["level"], "warning");
    assert!(line["msg"].as_str().unwrap().contains("CAP_FLY"), "{line}");

    bed.ok(&["start", &bed.id]);
    let held = || fs::read_to_string(bed.path("output")).unwrap() == "CapBnd:\t0000000000000020\n";
    bed.until("the output", held);
    let added = json!({
        "args": ["/bin/grep", "CapBnd", "/proc/self/status"], "cwd": "/",
        "user": {"uid": 0, "gid": 0}, "capabilities": {"bounding": sets},
    });
    fs::write(bed.path("added.json"), added.to_string()).unwrap();
    let held = bed.ok(&["exec", "--process", "added.json", &bed.id]);
    assert_eq!(held, "CapBnd:\t0000000000000020\n");
}

/// A profile of AppArmor, on machines that have it (`hack/vm` is one).
#[test]
fn profiles_of_apparmor() {
    let enabled = fs::read_to_string("/sys/module/apparmor/parameters/enabled");
    if enabled.unwrap_or_default().trim() != "Y" {
        skip("profiles_of_apparmor", "needs a kernel with AppArmor (hack/vm has one)");
        return;
    }
    let Some(bed) = Bed::new("apparmor", "cat /proc/self/attr/current /secret; sleep 1000") else {
        return;
    };
    fs::write(bed.path("rootfs/secret"), "seen\n").unwrap();
    let profile =
        format!("profile {} flags=(attach_disconnected) {{ file, deny /secret r, }}", bed.id);
    let source = bed.path("profile");
    fs::write(&source, &profile).unwrap();
    let parser = |flag: &str| {
        let mut parser = std::process::Command::new("apparmor_parser");
        parser.arg(flag).arg("--skip-cache").arg(&source).status().unwrap()
    };
    assert!(parser("--replace").success());
    let name = json!(bed.id);
    let bed = bed.set("/process/apparmorProfile", name);
    bed.start();
    let confined = format!("{} (enforce)\n", bed.id);
    let said = || fs::read_to_string(bed.path("output")).unwrap();
    bed.until("its output", || said().contains("Permission denied"));
    assert!(said().starts_with(&confined), "{}", said());
    // What is added is so by what it says itself.
    let process = json!({
        "user": {"uid": 0, "gid": 0}, "args": ["cat", "/proc/self/attr/current"],
        "env": ["PATH=/bin"], "cwd": "/", "apparmorProfile": bed.id,
    });
    fs::write(bed.path("process.json"), process.to_string()).unwrap();
    assert_eq!(bed.ok(&["exec", "--process", "process.json", &bed.id]), confined);
    bed.ok(&["delete", "--force", &bed.id]);
    // Unknown is not unconfined.
    let bed = bed.set("/process/apparmorProfile", json!("no-such-profile"));
    let said = bed.refusal();
    assert!(said.contains("process.apparmorProfile"), "{said}");
    assert!(parser("--remove").success());
}

#[test]
fn an_added_process_is_as_confined_as_it_says() {
    let Some(bed) = Bed::new("exec-who", "sleep 1000") else { return };
    bed.start();
    let process = json!({
        "user": {"uid": 3, "gid": 4, "additionalGids": [5]},
        "args": ["sh", "-c", "id -u; id -G; echo $A $HOME; pwd; ulimit -n; grep CapEff /proc/self/status"],
        "env": ["PATH=/bin", "A=b"],
        "cwd": "/bin",
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 77, "hard": 78}],
        "oomScoreAdj": 500,
    });
    fs::write(bed.path("process.json"), process.to_string()).unwrap();
    let output = bed.ok(&["exec", "--process", "process.json", &bed.id]);
    assert_eq!(output, "3\n4 5\nb /\n/bin\n77\nCapEff:\t0000000000000000\n");
    let output = bed.ok(&[
        "exec",
        "--user",
        "1:2",
        "--cwd",
        "/dev",
        "--env",
        "B=c",
        "--cap",
        "CAP_KILL",
        &bed.id,
        "sh",
        "-c",
        "id -u; id -g; pwd; echo $B",
    ]);
    assert_eq!(output, "1\n2\n/dev\nc\n");
    // Its status is the command's.
    let output = bed.command(&["exec", &bed.id, "sh", "-c", "exit 5"]).status().unwrap();
    assert_eq!(output.code(), Some(5));
}

#[test]
fn limits_of_processes() {
    let Some(bed) = Bed::new("rlimits", "ulimit -n; ulimit -Hn; cat /proc/self/oom_score_adj")
    else {
        return;
    };
    let bed = bed
        .set("/process/rlimits", json!([{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}]))
        .set("/process/oomScoreAdj", json!(123));
    assert_eq!(bed.output(), "100\n200\n123\n");
}

#[test]
fn nothing_of_the_host_is_open() {
    let Some(bed) = Bed::new("open", "ls /proc/self/fd; sleep 1000") else { return };
    bed.start();
    // The fourth is that of the folder that is listed.
    let seen = "0\n1\n2\n3\n";
    bed.until("its output", || fs::read_to_string(bed.path("output")).unwrap().ends_with("3\n"));
    assert!(fs::read_to_string(bed.path("output")).unwrap().ends_with(seen));
    assert!(bed.exec("ls /proc/self/fd").ends_with(seen));
}

/// Whoever is inside can look at the runtime's own program while a process is
/// being added, and can have it executed by its link, but cannot write to it
/// (CVE-2019-5736).
#[test]
fn the_runtime_is_out_of_reach() {
    // Keeps hold of whatever program a process has that comes by, and tries to
    // write to it, at once and when nobody runs it any more.
    let script = r#"
        tries=0
        while [ ! -e /stop ]; do
            for process in /proc/[0-9]*; do
                case $process in /proc/1|/proc/self|/proc/$$) continue;; esac
                (exec 3</$process/exe && echo held && exec 4>/proc/self/fd/3 && echo WRITTEN) 2>>/errors
            done
        done
    "#;
    let Some(bed) = Bed::new("reach", script) else { return };
    // More than a container should ever have.
    let all = json!(["CAP_SYS_PTRACE", "CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH"]);
    let bed = bed
        .set("/process/capabilities/bounding", all.clone())
        .set("/process/capabilities/effective", all.clone())
        .set("/process/capabilities/permitted", all);
    let shim = env!("CARGO_BIN_EXE_containerd-shim");
    let before = fs::read(shim).unwrap();
    bed.start();
    for _ in 0..20 {
        bed.ok(&["exec", &bed.id, "true"]);
    }
    // By its link it is executed, and is the same file on the same mount.
    let link = "exec 3</proc/self/exe; sleep 0; (exec 4>/proc/self/fd/3) 2>&1; true";
    bed.exec(link);
    let executed = bed.command(&["exec", &bed.id, "/proc/self/exe", "-v"]).output().unwrap();
    assert!(!String::from_utf8_lossy(&executed.stdout).contains("WRITTEN"));
    fs::write(bed.path("rootfs/stop"), "").unwrap();
    bed.until("the end", || bed.state()["status"] == "stopped");
    let output = fs::read_to_string(bed.path("output")).unwrap();
    assert!(!output.contains("WRITTEN"), "{output}");
    assert!(fs::read(shim).unwrap() == before, "the program has changed");
}

/// The same from its other side: what the waiting first process is executed
/// from is a mount that only allows reading.
#[test]
fn the_program_of_a_waiting_container_cannot_be_written_to() {
    let Some(bed) = Bed::new("sealed", "true") else { return };
    bed.create();
    let link = format!("/proc/{}/exe", bed.pid());
    let held = fs::File::open(&link).unwrap();
    let program = nix::sys::statvfs::fstatvfs(&held).unwrap();
    assert!(program.flags().contains(nix::sys::statvfs::FsFlags::ST_RDONLY));
    let busy = fs::OpenOptions::new().write(true).open(&link).unwrap_err();
    assert!(
        [Some(nix::libc::ETXTBSY), Some(nix::libc::EROFS)].contains(&busy.raw_os_error()),
        "{busy}"
    );
    bed.ok(&["start", &bed.id]);
    bed.until("the end", || bed.state()["status"] == "stopped");
    let fd = std::os::fd::AsRawFd::as_raw_fd(&held);
    let again = fs::OpenOptions::new().write(true).open(format!("/proc/self/fd/{fd}")).unwrap_err();
    assert!(
        [Some(nix::libc::ETXTBSY), Some(nix::libc::EROFS)].contains(&again.raw_os_error()),
        "{again}"
    );
}

/// What is in the daemon's session keyring is nothing to a container.
#[test]
fn session_keyrings() {
    if fs::read("/proc/keys").is_err() {
        skip("session_keyrings", "needs a kernel with keys");
        return;
    }
    let Some(bed) = Bed::new("keys", "sleep 1000") else { return };
    bed.start();
    let keys = bed.exec("grep keyring /proc/keys");
    assert!(keys.contains(&format!("_ses.{}", bed.id)), "{keys}");
    let id = |keys: &str| {
        let line = keys.lines().find(|line| line.contains("_ses.oci-keys")).unwrap().to_owned();
        line.split(' ').next().unwrap().to_owned()
    };
    // All of them share one.
    assert_eq!(id(&bed.exec("cat /proc/keys")), id(&keys));
    bed.ok(&["delete", "--force", &bed.id]);
    let mut create = bed.command(&["create", "--no-new-keyring", &bed.id]);
    // A pipe would be open as long as the container.
    let created = create.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
    assert!(created.success());
    bed.ok(&["start", &bed.id]);
    // The kernel collects the old one some time after its last user.
    let name = format!("_ses.{}", bed.id);
    bed.until("no keyring", || !bed.exec("cat /proc/keys").contains(&name));
}
