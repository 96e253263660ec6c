//! The commands, in and out of order.

use serde_json::{Value, json};

use crate::harness::Bed;

#[test]
fn states_follow_the_commands() {
    let Some(bed) = Bed::new("states", "sleep 1000") else { return };
    let words = bed.refused(&["state", &bed.id]);
    assert!(words.contains("container oci-states"), "{words}");
    bed.create();
    assert_eq!(bed.state()["status"], "created");
    let words = bed.refused(&["create", &bed.id]);
    assert!(words.contains(&format!("container {}", bed.id)), "{words}");
    bed.ok(&["start", &bed.id]);
    assert_eq!(bed.state()["status"], "running");
    assert!(bed.refused(&["start", &bed.id]).contains("it is running"));
    assert!(bed.refused(&["resume", &bed.id]).contains("it is running"));
    assert!(bed.refused(&["delete", &bed.id]).contains("it is running"));
    bed.ok(&["pause", &bed.id]);
    assert_eq!(bed.state()["status"], "paused");
    assert!(bed.refused(&["exec", &bed.id, "true"]).contains("Paused"));
    bed.ok(&["resume", &bed.id]);
    assert_eq!(bed.exec("echo again"), "again\n");
    let pids: Vec<u64> =
        serde_json::from_str(&bed.ok(&["ps", "--format", "json", &bed.id])).unwrap();
    assert_eq!(pids, [bed.pid()]);
    let all: Value = serde_json::from_str(&bed.ok(&["list", "--format", "json"])).unwrap();
    assert_eq!(all[0]["id"], json!(bed.id));
    bed.ok(&["kill", &bed.id, "TERM"]);
    // Init of a pid namespace takes only what it handles.
    bed.ok(&["kill", &bed.id, "9"]);
    bed.until("the end", || bed.state()["status"] == "stopped");
    assert!(bed.refused(&["kill", &bed.id, "9"]).contains("has ended"));
    bed.ok(&["delete", &bed.id]);
    assert!(bed.refused(&["delete", &bed.id]).contains(&bed.id));
    bed.ok(&["delete", "--force", &bed.id]);
}

/// A frozen container cannot even die, unless it is thawed.
#[test]
fn a_paused_container_can_be_killed() {
    let Some(bed) = Bed::new("frozen", "sleep 1000") else { return };
    bed.start();
    bed.ok(&["pause", &bed.id]);
    bed.ok(&["kill", &bed.id, "KILL"]);
    bed.until("the end", || bed.state()["status"] == "stopped");
}

/// One that waits to be started can be paused, and still waits afterwards.
#[test]
fn pausing_before_the_start() {
    let Some(bed) = Bed::new("frozen-early", "sleep 1000") else { return };
    bed.create();
    bed.ok(&["pause", &bed.id]);
    assert_eq!(bed.state()["status"], "paused");
    assert!(bed.refused(&["start", &bed.id]).contains("it is paused"));
    bed.ok(&["resume", &bed.id]);
    assert_eq!(bed.state()["status"], "created");
    bed.ok(&["start", &bed.id]);
    assert_eq!(bed.state()["status"], "running");
}

/// Who is killed between the two steps of a start has started nothing.
#[test]
fn a_start_that_is_broken_off() {
    let Some(bed) = Bed::new("knock", "sleep 1000") else { return };
    bed.create();
    let door = bed.path("state").join(&bed.id).join("notify.sock");
    for _ in 0..3 {
        drop(std::os::unix::net::UnixStream::connect(&door).unwrap());
    }
    assert_eq!(bed.state()["status"], "created");
    // Or the word was said, and the socket is still there.
    std::fs::hard_link(&door, bed.path("kept")).unwrap();
    bed.ok(&["start", &bed.id]);
    std::fs::rename(bed.path("kept"), &door).unwrap();
    bed.until("nobody there", || bed.state()["status"] == "running");
    assert!(bed.refused(&["start", &bed.id]).contains("it is running"));
}

/// Without a pid namespace the rest survives init, until it is removed.
#[test]
fn what_outlives_init_goes_with_the_container() {
    let Some(bed) = Bed::new("leftovers", "sleep 1000 & echo $! >/left; exit 0") else { return };
    let kinds = json!([{"type": "ipc"}, {"type": "uts"}, {"type": "mount"}]);
    let bed = bed.set("/linux/namespaces", kinds);
    bed.start();
    bed.until("the end", || bed.state()["status"] == "stopped");
    let left = std::fs::read_to_string(bed.path("rootfs/left")).unwrap();
    let alive = || std::path::Path::new("/proc").join(left.trim()).join("exe").read_link().is_ok();
    assert!(alive());
    bed.ok(&["delete", &bed.id]);
    assert!(!alive());
}

/// The log is how those who drive runtimes learn why one failed.
#[test]
fn a_failure_is_in_the_log() {
    let Some(bed) = Bed::new("log", "true") else { return };
    let log = bed.path("log").display().to_string();
    bed.refused(&["--log", &log, "--log-format", "json", "start", &bed.id]);
    let line: Value = serde_json::from_slice(&std::fs::read(log).unwrap()).unwrap();
    assert_eq!(line["level"], "error");
    assert_eq!(line["msg"], json!(format!("container {}", bed.id)));
}

#[test]
fn features_are_those_of_the_specification() {
    let Some(bed) = Bed::new("features", "true") else { return };
    let features: Value = serde_json::from_str(&bed.ok(&["features"])).unwrap();
    assert_eq!(features["linux"]["seccomp"]["enabled"], true);
    assert!(features["ociVersionMax"].as_str().unwrap().starts_with("1."));
}
