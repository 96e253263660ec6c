//! What cannot be done is said so, by name, and leaves nothing.

use serde_json::{Value, json};

use crate::harness::{Bed, install};

/// What is refused, and the name it is refused by.
fn unable() -> Vec<(&'static str, Value, &'static str)> {
    vec![
        ("/process/selinuxLabel", json!("a:b:c"), "process.selinuxLabel"),
        ("/process/execCPUAffinity", json!({"initial": "0"}), "process.execCPUAffinity"),
        ("/linux/mountLabel", json!("a:b:c"), "linux.mountLabel"),
        ("/linux/intelRdt", json!({"closID": "a"}), "linux.intelRdt"),
        ("/linux/netDevices", json!({"eth0": {}}), "linux.netDevices"),
        ("/linux/namespaces", json!([{"type": "pid"}]), "linux.namespaces without mount"),
    ]
}

#[test]
fn what_is_not_possible_names_its_field_and_the_remedy() {
    for (pointer, value, field) in unable() {
        let Some(bed) = Bed::new("unable", "true") else { return };
        let words = bed.set(pointer, value).refusal();
        assert!(words.contains(field), "{field}: {words}");
        assert!(words.contains("--runc-binary runc"), "{field}: {words}");
    }
}

#[test]
fn nonsense_is_refused_by_name() {
    for (pointer, value, field) in [
        ("/ociVersion", json!("2.0.0"), "ociVersion"),
        ("/process/args", json!([]), "process.args"),
        ("/process/cwd", json!("here"), "process.cwd"),
        (
            "/process/rlimits",
            json!([{"type": "RLIMIT_NOFILE", "soft": 9, "hard": 8}]),
            "process.rlimits",
        ),
        ("/process/oomScoreAdj", json!(100_000), "process.oomScoreAdj"),
        ("/process/terminal", json!(true), "process.terminal"),
        ("/root/path", json!("nowhere"), "root.path"),
        ("/linux/cgroupsPath", json!("/a/../../b"), "linux.cgroupsPath"),
        ("/linux/namespaces/0/path", json!("/proc/self/none"), "linux.namespaces"),
        (
            "/linux/resources/devices",
            json!([{"allow": true, "access": "z"}]),
            "linux.resources.devices",
        ),
        ("/linux/resources/cpu", json!({"cpus": "4000"}), "cpuset.cpus"),
        ("/linux/resources/unified", json!({"../../x.y": "1"}), "linux.resources.unified"),
        (
            "/linux/seccomp",
            json!({"defaultAction": "SCMP_ACT_NOTIFY"}),
            "linux.seccomp.defaultAction",
        ),
    ] {
        let Some(bed) = Bed::new("nonsense", "true") else { return };
        let group = bed.config["linux"]["cgroupsPath"].clone();
        let mut bed = bed.set(pointer, value);
        let output = bed.run();
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && words.contains(field), "{field}: {words}");
        bed.config["linux"]["cgroupsPath"] = group;
        assert!(bed.groups().is_empty() && bed.ok(&["list", "--quiet"]).is_empty(), "{field}");
    }
}

/// Clients read these words.
#[test]
fn a_missing_program_is_said_so_as_runc_does() {
    for (program, words) in [
        ("nosuch", "exec: \"nosuch\": executable file not found in $PATH"),
        ("/no/such", "exec: \"/no/such\": stat /no/such: no such file or directory"),
        ("/dev", "exec: \"/dev\": permission denied"),
    ] {
        let Some(bed) = Bed::new("missing", "true") else { return };
        let said = bed.set("/process/args", json!([program])).refusal();
        assert!(said.contains(words), "{said}");
    }
    let Some(bed) = Bed::new("missing-exec", "sleep 1000") else { return };
    bed.start();
    let said = bed.refused(&["exec", &bed.id, "nosuch"]);
    assert!(said.contains("exec: \"nosuch\": executable file not found in $PATH"), "{said}");
    // Found, but no program.
    std::fs::write(bed.path("draft"), "neither ELF nor script").unwrap();
    install(&bed.path("draft"), &bed.path("rootfs/bin/text"));
    let said = bed.refused(&["exec", &bed.id, "text"]);
    assert!(said.contains("exec /bin/text: exec format error"), "{said}");
    // The first process becomes its program when nobody waits for it any more, so
    // it says so itself.
    let Some(late) = Bed::new("missing-late", "true") else { return };
    install(&bed.path("rootfs/bin/text"), &late.path("rootfs/bin/text"));
    let output = late.set("/process/args", json!(["text"])).run();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(
        (output.status.code(), said.trim()),
        (Some(255), "exec /bin/text: exec format error")
    );
}

#[test]
fn commands_that_are_not_possible() {
    let Some(bed) = Bed::new("commands", "true") else { return };
    for words in [&["checkpoint", "a"][..], &["restore", "a"]] {
        let said = bed.refused(words);
        assert!(said.contains("--runc-binary runc"), "{said}");
    }
    assert!(bed.refused(&["fly"]).contains("unknown command \"fly\""));
    assert!(bed.refused(&["kill", "a", "SIGNONE"]).contains("SIGNONE"));
}
