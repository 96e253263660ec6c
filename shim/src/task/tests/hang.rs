//! OCI runtimes that hang: the end of a container is announced all the same.

use std::{path::PathBuf, sync::Arc, time::Duration};

use super::*;
use crate::{
    runtime::binary::{BinaryRuntime, Config},
    sys::wait,
};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/runtime.sh");

/// Another process writes it.
async fn written(file: PathBuf) -> String {
    loop {
        match fs::read_to_string(&file) {
            Ok(text) => return text,
            Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
        }
    }
}

#[test]
fn a_runtime_that_hangs_in_an_exec_is_ended_after_init() {
    testing::run(async |reaper| {
        let mut bench = Bench::new(Arc::clone(&reaper));
        let config = Config {
            binary: SCRIPT.into(),
            root: bench.bundle.path().join("root"),
            work: bench.bundle.path().into(),
            systemd_cgroup: false,
        };
        bench.use_runtime(Arc::new(BinaryRuntime::new(config, reaper)));
        fs::write(bench.bundle.path().join("hang-exec"), "").unwrap();
        let container = bench.running().await;
        let e = id("e");
        container.add_exec(&e, exec("true")).unwrap();
        let start = tokio::spawn({
            let (container, e) = (Arc::clone(&container), e.clone());
            async move { container.start(Some(&e)).await }
        });
        let runtime = written(bench.bundle.path().join("hanging")).await.parse().unwrap();
        container.kill(None, KILL, false).await.unwrap();
        written(bench.bundle.path().join("exits/init")).await;
        assert!(wait::is_child(runtime));
        // From here on nothing happens but that patience ends.
        tokio::time::pause();
        assert_eq!(container.wait(None).await.unwrap().status, 137);
        let error = start.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DeadlineExceeded);
        while wait::is_child(runtime) {
            tokio::task::yield_now().await;
        }
        assert_eq!(bench.events(), ["create", "start", "exec-added", "exit c 137"]);
        assert_eq!(container.snapshot(Some(&e)).unwrap().state, State::Prepared);
    });
}

#[test]
fn a_start_that_hangs_does_not_keep_back_the_end() {
    testing::run(async |reaper| {
        tokio::time::pause();
        let bench = Bench::new(reaper);
        bench.stub.hang(&["start"]);
        let container = bench.tasks.create(bench.request()).await.unwrap();
        let start = tokio::spawn({
            let container = Arc::clone(&container);
            async move { container.start(None).await }
        });
        while !bench.stub.calls.lock().unwrap().contains(&"start") {
            tokio::task::yield_now().await;
        }
        container.kill(None, KILL, false).await.unwrap();
        assert_eq!(container.wait(None).await.unwrap().status, 137);
        let error = start.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DeadlineExceeded);
        assert_eq!(bench.events(), ["create", "start", "exit c 137"]);
    });
}

#[test]
fn execs_are_ended_without_a_runtime_that_hangs() {
    testing::run(async |reaper| {
        let bench = Bench::new(reaper);
        // No pid namespace of its own, and frozen: all has to be ended.
        fs::write(bench.bundle.path().join("config.json"), "{}").unwrap();
        let container = bench.running().await;
        let e = id("e");
        container.add_exec(&e, exec("exec sleep 1000")).unwrap();
        container.start(Some(&e)).await.unwrap();
        container.pause().await.unwrap();
        bench.stub.hang(&["resume", "kill"]);
        bench.stub.calls();
        tokio::time::pause();
        process::kill(container.pid(), KILL).unwrap();
        assert_eq!(container.wait(None).await.unwrap().status, 137);
        assert_eq!(bench.stub.calls(), ["resume", "kill"]);
        let events = bench.events();
        assert_eq!(events[events.len() - 2..], ["exit e 137", "exit c 137"]);
    });
}

#[test]
fn a_deletion_that_hangs_may_be_tried_again() {
    testing::run(async |reaper| {
        let bench = Bench::new(reaper);
        let container = bench.running().await;
        container.kill(None, KILL, false).await.unwrap();
        container.wait(None).await.unwrap();
        tokio::time::pause();
        bench.stub.hang(&["delete"]);
        let error = bench.tasks.delete("c", None).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DeadlineExceeded);
        assert_eq!(container.snapshot(None).unwrap().state, State::Stopped);
        bench.stub.hang(&[]);
        bench.tasks.delete("c", None).await.unwrap();
    });
}
