//! The shim's binary as a daemon sees it: start protocol, shutdown, events
//! that wait, cleanup. The OCI runtime is a script whose containers sleep.
//! Needs root, for the default folder of sockets.

#![allow(clippy::unwrap_used)] // A test may panic, and so may its helpers.

mod harness;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Stdio},
};

use nix::{sys::stat::Mode, unistd::mkfifo};
use protobuf::{EnumOrUnknown, Message};
use shim_protocol::proto::{
    task_types::Status,
    task_v2::{DeleteRequest, DeleteResponse, KillRequest, StateRequest},
};
use ttrpc::Code;

use harness::{Bench, Recorder, SHIM, context, eventually, good_address};

#[tokio::test]
async fn one_shim_for_each_container_or_group() {
    let bench = Bench::new();
    bench.bundle("a", None);
    let address = good_address(&bench.start("a"));
    let shim = bench.connect(&address).await;
    let mode = fs::metadata(&shim.socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let again = bench.start("a");
    assert!(!again.status.success() && again.stdout.is_empty());
    assert!(String::from_utf8_lossy(&again.stderr).contains(&address));
    let member = bench.bundle("b", Some("a"));
    assert_eq!(good_address(&bench.start("b")), address);
    assert_eq!(fs::read_to_string(member.join("address")).unwrap(), address);
    // A stale socket is in nobody's way.
    shim.kill().await;
    assert!(shim.socket.exists());
    let shim = bench.shim("a").await;
    shim.shutdown().await;
    eventually("end of the shim", || !shim.is_alive()).await;
    assert!(!shim.socket.exists());
}

#[tokio::test]
async fn older_daemons_get_the_answer_they_understand() {
    let bench = Bench::new();
    bench.bundle("a", None);
    for (version, start) in [(None, "unix:///"), (Some("2"), r#"{"version":2,"#)] {
        let mut command = bench.command("a", "start");
        // Nothing and options alone, both without a socket folder.
        command.stdin(Stdio::null());
        if let Some(version) = version {
            command.env("MAX_SHIM_VERSION", version);
        }
        let output = command.output().unwrap();
        let answer = String::from_utf8(output.stdout).unwrap();
        assert!(answer.starts_with(start), "{answer}");
        assert!(output.stderr.is_empty());
        let address = fs::read_to_string(bench.dir.path().join("a/address")).unwrap();
        assert!(answer.contains(&address));
        let shim = bench.connect(&address).await;
        shim.shutdown().await;
        eventually("end of the shim", || !shim.is_alive()).await;
    }
}

#[tokio::test]
async fn what_is_wrong_is_named_and_leaves_nothing() {
    let bench = Bench::new();
    let bundle = bench.bundle("a", None);
    fs::write(bundle.join("config.json"), "{").unwrap();
    let output = bench.start("a");
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("config.json"));
    let output = Command::new(SHIM).args(["-namespace", "ns", "-id", "../a", "start"]).output();
    assert!(String::from_utf8_lossy(&output.unwrap().stderr).contains("../a"));
    assert_eq!(fs::read_dir(bench.dir.path().join("s")).map_or(0, Iterator::count), 0);
}

#[tokio::test]
async fn codes_of_refusals() {
    let bench = Bench::new();
    bench.bundle("a", None);
    let shim = bench.shim("a").await;
    let code = |error| match error {
        ttrpc::Error::RpcStatus(status) => status.code(),
        other => panic!("{other}"),
    };
    let state = |id: &str| StateRequest { id: id.into(), ..Default::default() };
    let error = shim.tasks.state(context(), &state("a")).await.unwrap_err();
    assert_eq!(code(error), Code::NOT_FOUND);
    shim.create(&bench, "a").await;
    let running = shim.tasks.state(context(), &state("a")).await.unwrap();
    assert_eq!(running.status, EnumOrUnknown::new(Status::RUNNING));
    let delete = DeleteRequest { id: "a".into(), ..Default::default() };
    let error = shim.tasks.delete(context(), &delete).await.unwrap_err();
    assert_eq!(code(error), Code::FAILED_PRECONDITION);
    assert_eq!(shim.end("a", 9).await, 137);
    let kill = KillRequest { id: "a".into(), signal: 9, ..Default::default() };
    let error = shim.tasks.kill(context(), &kill).await.unwrap_err();
    assert_eq!(code(error), Code::NOT_FOUND);
    // A shim with a container stays.
    shim.shutdown().await;
    assert_eq!(shim.wait("a").await, 137);
}

#[tokio::test]
async fn events_wait_for_the_daemon_even_after_the_end() {
    let bench = Bench::new();
    let bundle = bench.bundle("a", None);
    let shim = bench.shim("a").await;
    shim.whole_life(&bench, "a").await;
    fs::remove_dir_all(bundle).unwrap();
    assert!(shim.is_alive());
    let (recorder, _server) = Recorder::listen(&bench.events()).await;
    let topics = recorder.wait_for(4).await;
    assert_eq!(topics, ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"]);
    eventually("end of the shim", || !shim.is_alive()).await;
}

#[tokio::test]
async fn a_group_lives_as_long_as_one_of_it() {
    let bench = Bench::new();
    let first = bench.bundle("a", None);
    bench.bundle("b", Some("a"));
    let (recorder, _server) = Recorder::listen(&bench.events()).await;
    let shim = bench.shim("a").await;
    assert_eq!(good_address(&bench.start("b")), format!("unix://{}", shim.socket.display()));
    shim.create(&bench, "a").await;
    shim.create(&bench, "b").await;
    assert_eq!(shim.end("a", 9).await, 137);
    shim.delete("a").await;
    // The shim's own folder goes, and the other container does not mind.
    fs::remove_dir_all(first).unwrap();
    shim.shutdown().await;
    assert_eq!(shim.end("b", 15).await, 143);
    shim.delete("b").await;
    shim.shutdown().await;
    eventually("end of the shim", || !shim.is_alive()).await;
    assert!(!shim.socket.exists());
    let topics = recorder.wait_for(8).await;
    let count = |topic| topics.iter().filter(|seen| *seen == topic).count();
    assert_eq!((count("/tasks/exit"), count("/tasks/delete")), (2, 2));
}

#[tokio::test]
async fn a_shim_ends_when_its_daemon_cannot_come_back() {
    let bench = Bench::new();
    let bundle = bench.bundle("a", None);
    let shim = bench.shim("a").await;
    shim.whole_life(&bench, "a").await;
    assert!(shim.is_alive());
    fs::remove_dir_all(bundle).unwrap();
    fs::remove_dir(bench.events().parent().unwrap()).unwrap();
    eventually("end of the shim", || !shim.is_alive()).await;
}

#[tokio::test]
async fn delete_cleans_up_where_nothing_was_made() {
    let bench = Bench::new();
    let bundle = bench.bundle("a", None);
    fs::write(bundle.join("options.json"), r#"{"binary_name":"/no/such/runtime"}"#).unwrap();
    let output = bench.command("a", "delete").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let response = DeleteResponse::parse_from_bytes(&output.stdout).unwrap();
    assert_eq!((response.pid, response.exit_status), (0, 137));
}

#[tokio::test]
async fn delete_cleans_up_whatever_lies_in_the_bundle() {
    let notes = ["options.json", "address", "exits/init", "init.pid"];
    let write = |path: &Path| fs::write(path, [0xff, b'{']).unwrap();
    let folder = |path: &Path| fs::create_dir(path).unwrap();
    let fifo = |path: &Path| mkfifo(path, Mode::S_IRWXU).unwrap();
    for make in [&write as &dyn Fn(&Path), &folder, &fifo] {
        let bench = Bench::new();
        let bundle = bench.bundle("a", None);
        fs::create_dir(bundle.join("exits")).unwrap();
        notes.iter().for_each(|note| make(&bundle.join(note)));
        fs::write(bundle.join("runtime"), "/no/such/runtime").unwrap();
        let output = bench.command("a", "delete").output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{errors}");
        assert!(errors.contains("options.json") && errors.contains("exits/init"), "{errors}");
        let response = DeleteResponse::parse_from_bytes(&output.stdout).unwrap();
        assert_eq!((response.pid, response.exit_status), (0, 137));
    }
}

#[tokio::test]
async fn delete_cleans_up_after_a_dead_shim() {
    for (ended_before, status) in [(true, 143), (false, 137)] {
        let bench = Bench::new();
        let bundle = bench.bundle("a", None);
        let shim = bench.shim("a").await;
        shim.create(&bench, "a").await;
        let pid: u32 = fs::read_to_string(bundle.join("init.pid")).unwrap().parse().unwrap();
        if ended_before {
            shim.end("a", 15).await;
        }
        shim.kill().await;
        for _ in 0..2 {
            let output = bench.command("a", "delete").output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let response = DeleteResponse::parse_from_bytes(&output.stdout).unwrap();
            assert_eq!((response.pid, response.exit_status), (pid, status));
            assert!(response.exited_at.is_some());
            assert!(!shim.socket.exists());
        }
    }
}
