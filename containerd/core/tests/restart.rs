//! The restart monitor over Debian's shim and runc. Needs root.
#![allow(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod common;

use std::time::Duration;

use common::{Daemon, World, id, install, until};
use containerd_core::{
    containers::Container,
    restart::{COUNT_LABEL, LOG_URI_LABEL, Monitor, MonitorConfig, POLICY_LABEL, STATUS_LABEL},
    tasks::Status,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

fn monitor(daemon: &Daemon) -> Monitor {
    Monitor::start(
        MonitorConfig { interval: Duration::from_millis(200) },
        daemon.namespaces.clone(),
        daemon.containers.clone(),
        daemon.tasks.clone(),
        daemon.events.clone(),
    )
}

/// A restarted task has no mounts from a client, so its root is a folder.
async fn record(world: &World, daemon: &Daemon, script: &str, labels: &[(&str, &str)]) {
    let mut container = world.container("a", &world.path().join("image"), script);
    container.labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    daemon.containers.create(&world.namespace, container).await.unwrap();
}

async fn relabel(world: &World, daemon: &Daemon, label: &str, value: &str) {
    let mut container: Container = daemon.containers.get(&world.namespace, "a").await.unwrap();
    container.labels.insert(label.into(), value.into());
    let path = [format!("labels.{label}")];
    daemon.containers.update(&world.namespace, container, &path).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_are_restarted_as_often_as_the_policy_says() {
    if common::skip() {
        return;
    }
    let world = World::new();
    let daemon = world.boot().await;
    let mut events = daemon.subscribe(None);
    let log = world.path().join("log");
    let uri = format!("file://{}", log.display());
    let labels =
        [(STATUS_LABEL, "running"), (POLICY_LABEL, "on-failure:2"), (LOG_URI_LABEL, uri.as_str())];
    record(&world, &daemon, "echo here; exit 1", &labels).await;
    let monitor = monitor(&daemon);
    let mut request = world.create("a");
    request.rootfs.clear();
    daemon.tasks.create(request).await.unwrap();
    let target = world.target("a");
    daemon.tasks.start(&target).await.unwrap();
    for _ in 0..3 {
        until(&mut events, "/tasks/exit").await;
    }
    monitor.shutdown().await;
    assert_eq!(daemon.tasks.get(&target).await.unwrap().status, Status::Stopped);
    let container = daemon.containers.get(&world.namespace, "a").await.unwrap();
    assert_eq!(container.labels[COUNT_LABEL], "2");
    daemon.tasks.delete(&target).await.unwrap();
    // The client's own start wrote nowhere.
    assert_eq!(std::fs::read_to_string(log).unwrap(), "here\nhere\n");
    daemon.stop().await;
    world.ends_empty();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_is_kept_running_across_restarts_of_the_daemon_until_it_shall_stop() {
    if common::skip() {
        return;
    }
    let world = World::new();
    let mut daemon = world.boot().await;
    record(&world, &daemon, "sleep 1000", &[(STATUS_LABEL, "running")]).await;
    let mut events = daemon.subscribe(None);
    let watch = monitor(&daemon);
    // Nobody but the monitor creates it.
    until(&mut events, "/tasks/start").await;
    watch.shutdown().await;
    daemon.stop().await;

    daemon = world.boot().await;
    let mut events = daemon.subscribe(None);
    let target = world.target("a");
    let before = daemon.tasks.get(&target).await.unwrap();
    assert_eq!(before.status, Status::Running);
    let watch = monitor(&daemon);
    daemon.tasks.kill(&target, 9, true).await.unwrap();
    until(&mut events, "/tasks/start").await;
    let after = daemon.tasks.get(&target).await.unwrap();
    assert_eq!(after.status, Status::Running);
    assert_ne!(after.pid, before.pid);

    relabel(&world, &daemon, STATUS_LABEL, "stopped").await;
    until(&mut events, "/tasks/delete").await;
    watch.shutdown().await;
    assert!(daemon.manager.get(&world.namespace, &id("a")).is_err());
    daemon.stop().await;
    world.ends_empty();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shim_that_hangs_does_not_hold_up_the_end() {
    if common::skip() {
        return;
    }
    let world = World::new();
    let daemon = world.boot().await;
    let (shim, noted) = (world.path().join("shim"), world.path().join("pid"));
    // Its own pid in one step, then a start that never ends. One that fails is
    // tried once more.
    let script = format!(
        "#!/bin/sh\ncase \"$*\" in *start) [ ! -e {0} ] || exit 1; echo $$ > {0}.new; mv {0}.new {0}; \
         exec sleep 1000;; esac\n",
        noted.display()
    );
    let draft = world.path().join("draft");
    std::fs::write(&draft, script).unwrap();
    install(&draft, &shim);
    let mut container = world.container("a", &world.path().join("image"), "true");
    container.runtime.name = shim.to_str().unwrap().into();
    container.labels = [(STATUS_LABEL.to_owned(), "running".to_owned())].into();
    daemon.containers.create(&world.namespace, container).await.unwrap();
    let monitor = monitor(&daemon);
    while !noted.exists() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    monitor.shutdown().await;
    // The start goes on, and nobody waits for it any more but its owner.
    let pid = std::fs::read_to_string(noted).unwrap().trim().parse().unwrap();
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    daemon.stop().await;
    world.ends_empty();
}
