//! Tasks over Debian's shim and runc. Needs root.
#![allow(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod common;

use std::{path::Path, time::Duration};

use common::{World, id, process, topics, until};
use containerd_core::{
    Any,
    tasks::{ExecProcess, NewCheckpoint, Status, Stdio},
};
use containerd_images::{Descriptor, Digest, media_type};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use shim_protocol::{ErrorKind, any};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_from_create_to_delete() {
    if common::skip() {
        return;
    }
    let world = World::new();
    let daemon = world.boot().await;
    let (tasks, a) = (&daemon.tasks, world.target("a"));
    let mut events = daemon.subscribe(None);

    let none = tasks.create(world.create("a")).await.unwrap_err();
    assert_eq!(none.kind(), ErrorKind::NotFound, "no such container");
    let record = world.container("a", Path::new("rootfs"), "sleep 1000");
    daemon.containers.create(&world.namespace, record).await.unwrap();
    let mut wrong = world.create("a");
    wrong.runtime_path = "io.example.nowhere.v1".into();
    assert!(tasks.create(wrong).await.is_err());
    let mut restore = world.create("a");
    let nothing = Digest::of(Default::default(), b"");
    restore.checkpoint = Some(Descriptor::new(media_type::OCI_LAYER, nothing.clone(), 0));
    let other = tasks.create(restore.clone()).await.unwrap_err();
    assert_eq!(other.kind(), ErrorKind::InvalidArgument);
    restore.checkpoint = Some(Descriptor::new(media_type::CHECKPOINT, nothing, 0));
    let absent = tasks.create(restore).await.unwrap_err();
    assert_eq!(absent.kind(), ErrorKind::NotFound);

    let pid = tasks.create(world.create("a")).await.unwrap();
    let again = tasks.create(world.create("a")).await.unwrap_err();
    assert_eq!(again.kind(), ErrorKind::AlreadyExists);
    assert_eq!(tasks.get(&a).await.unwrap().status, Status::Created);
    assert_eq!(tasks.start(&a).await.unwrap(), pid);
    let listed = tasks.list(&world.namespace).await;
    assert_eq!(listed.len(), 1);
    assert_eq!((listed[0].pid, listed[0].status), (pid, Status::Running));
    assert_eq!(tasks.delete(&a).await.unwrap_err().kind(), ErrorKind::FailedPrecondition);

    tasks.pause(&a).await.unwrap();
    assert_eq!(tasks.get(&a).await.unwrap().status, Status::Paused);
    tasks.resume(&a).await.unwrap();
    let metrics = tasks.metrics(&world.namespace, &["id==a".to_owned()]).await.unwrap();
    assert_eq!((metrics.len(), &metrics[0].container), (1, &id("a")));
    let others = tasks.metrics(&world.namespace, &["id==b".to_owned()]).await.unwrap();
    assert_eq!(others, []);
    assert!(tasks.list_pids(&a).await.unwrap().iter().any(|process| process.pid == pid));
    let value = Vec::new();
    let options = Some(Any { type_url: "other".into(), value });
    let foreign = NewCheckpoint { options, ..Default::default() };
    let error = tasks.checkpoint(&a, foreign).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);

    let e = world.exec("a", "e");
    let spec = serde_json::to_vec(&process("exit 3")).unwrap();
    let request = ExecProcess {
        exec_id: id("e"),
        spec: Any { type_url: any::OCI_PROCESS_URL.into(), value: spec },
        stdio: Stdio::default(),
    };
    tasks.exec(&a, request).await.unwrap();
    tasks.start(&e).await.unwrap();
    assert_eq!(tasks.wait(&e).await.unwrap().status, 3);
    assert_eq!(tasks.delete_process(&e).await.unwrap().exit.status, 3);

    tasks.kill(&a, 9, false).await.unwrap();
    let exit = tasks.wait(&a).await.unwrap();
    assert_eq!(exit.status, 137);
    assert_eq!(tasks.wait(&a).await.unwrap(), exit, "at once, and the same");
    assert_eq!(tasks.delete(&a).await.unwrap().exit, exit);
    assert_eq!(tasks.get(&a).await.unwrap_err().kind(), ErrorKind::NotFound);

    let heard = until(&mut events, "/tasks/delete").await;
    assert_eq!(
        topics(&heard),
        [
            "/containers/create",
            "/tasks/create",
            "/tasks/start",
            "/tasks/paused",
            "/tasks/resumed",
            "/tasks/exec-added",
            "/tasks/exec-started",
            "/tasks/exit",
            "/tasks/exit",
            "/tasks/delete",
        ]
    );
    daemon.stop().await;
    world.ends_empty();
}

/// A shim that hangs costs its own answer and delays nobody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shim_that_hangs_does_not_hang_the_list() {
    if common::skip() {
        return;
    }
    let world = World::new();
    let daemon = world.boot().await;
    let tasks = &daemon.tasks;
    for name in ["a", "b"] {
        let record = world.container(name, Path::new("rootfs"), "sleep 1000");
        daemon.containers.create(&world.namespace, record).await.unwrap();
        tasks.create(world.create(name)).await.unwrap();
        tasks.start(&world.target(name)).await.unwrap();
    }
    let shim = shim_of(tasks.get(&world.target("a")).await.unwrap().pid);
    kill(shim, Signal::SIGSTOP).unwrap();
    // Its threads stop one after the other, and one may still answer.
    let threads = || std::fs::read_dir(format!("/proc/{shim}/task")).unwrap().flatten();
    let stopped = |thread: std::fs::DirEntry| {
        let status = std::fs::read_to_string(thread.path().join("status")).unwrap();
        status.contains("State:\tT")
    };
    while !threads().all(stopped) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let listing = tokio::time::timeout(Duration::from_secs(60), tasks.list(&world.namespace));
    let states: Vec<_> = listing.await.unwrap().into_iter().map(|p| p.status).collect();
    assert_eq!(states, [Status::Unknown, Status::Running]);
    kill(shim, Signal::SIGCONT).unwrap();
    for name in ["a", "b"] {
        let target = world.target(name);
        tasks.kill(&target, 9, true).await.unwrap();
        tasks.wait(&target).await.unwrap();
        tasks.delete(&target).await.unwrap();
    }
    daemon.stop().await;
    world.ends_empty();
}

/// The shim is the parent of a container's init.
fn shim_of(pid: u32) -> Pid {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap();
    Pid::from_raw(parent.trim().parse().unwrap())
}

/// Whatever happens while the daemon is away, a subscriber that comes back
/// hears of it once, and the task is there with its exit until it is deleted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exits_while_the_daemon_is_away_are_announced_once() {
    if common::skip() {
        return;
    }
    let world = World::new();
    let mut daemon = world.boot().await;
    let mut events = daemon.subscribe(None);
    let gate = world.path().join("image/tmp/gate");
    nix::unistd::mkfifo(&gate, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let record = world.container("a", Path::new("rootfs"), "read x < /tmp/gate; exit 5");
    daemon.containers.create(&world.namespace, record).await.unwrap();
    daemon.tasks.create(world.create("a")).await.unwrap();
    let pid = daemon.tasks.start(&world.target("a")).await.unwrap();
    let mut heard = until(&mut events, "/tasks/start").await;
    daemon.stop().await;

    tokio::fs::write(&gate, "go\n").await.unwrap();
    while Path::new(&format!("/proc/{pid}")).exists() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let target = world.target("a");
    for _ in 0..2 {
        daemon = world.boot().await;
        let mut events = daemon.subscribe(heard.last().map(|event| event.timestamp));
        let state = daemon.tasks.get(&target).await.unwrap();
        assert_eq!((state.status, state.exit.unwrap().status), (Status::Stopped, 5));
        assert_eq!(daemon.tasks.wait(&target).await.unwrap().status, 5);
        daemon.events.publish(&world.namespace, "/marker", Any::default()).unwrap();
        heard.extend(until(&mut events, "/marker").await);
        daemon.stop().await;
    }
    daemon = world.boot().await;
    let mut events = daemon.subscribe(heard.last().map(|event| event.timestamp));
    daemon.tasks.delete(&target).await.unwrap();
    heard.extend(until(&mut events, "/tasks/delete").await);
    assert_eq!(
        topics(&heard),
        [
            "/containers/create",
            "/tasks/create",
            "/tasks/start",
            "/tasks/exit",
            "/marker",
            "/marker",
            "/tasks/delete",
        ]
    );
    assert_eq!(daemon.tasks.close_lost(), 0);
    daemon.stop().await;
    world.ends_empty();
}
