//! Containers over a stub of an OCI runtime.

use std::{fs, sync::Arc, time::Duration};

use containerd_mounts::Mount;
use shim_protocol::{ErrorKind, exits};
use tokio::sync::oneshot;

use self::stub::{Bench, KILL, exec, id};
use super::{Create, ExecSpec, state::State};
use crate::{cgroup::OomWatcher, io::Stdio, sys::process, testing};

mod checkpoint;
mod hang;
mod stub;

#[test]
fn a_whole_life() {
    testing::run(async |reaper| {
        let bench = Bench::new(reaper);
        let container = bench.running().await;
        let pid = container.pid();
        assert_eq!(container.snapshot(None).unwrap().state, State::Running);
        assert_eq!(container.processes().await.unwrap(), [(pid, None)]);
        container.kill(None, KILL, false).await.unwrap();
        assert_eq!(container.wait(None).await.unwrap().status, 137);
        // At once, and as often as one likes.
        assert_eq!(container.wait(None).await.unwrap().status, 137);
        let record = exits::read(bench.bundle.path(), None).unwrap().unwrap();
        assert_eq!((record.pid, record.status), (pid, 137));
        let (deleted, exit) = bench.tasks.delete("c", None).await.unwrap();
        assert_eq!((deleted, exit.unwrap().status), (pid, 137));
        assert_eq!(bench.events(), ["create", "start", "exit c 137", "delete"]);
        assert!(bench.tasks.get("c").err().unwrap().is_not_found());
    });
}

#[test]
fn wrong_order_is_refused_by_kind() {
    testing::run(async |reaper| {
        let bench = Bench::new(reaper);
        let container = bench.running().await;
        let error = bench.tasks.create(bench.request()).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        let error = container.start(None).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
        let error = bench.tasks.delete("c", None).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
        assert!(!bench.tasks.shutdown());
        container.kill(None, KILL, false).await.unwrap();
        container.wait(None).await.unwrap();
        assert!(container.kill(None, KILL, false).await.unwrap_err().is_not_found());
        let error = container.add_exec(&id("e"), exec("true")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
        bench.tasks.delete("c", None).await.unwrap();
        assert!(bench.tasks.shutdown());
        // From here on nobody would notice its end.
        let error = bench.tasks.create(bench.request()).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
    });
}

#[test]
fn a_failed_create_leaves_nothing() {
    testing::run(async |reaper| {
        let bench = Bench::new(reaper);
        bench.stub.break_verb(Some("create"));
        let error = bench.tasks.create(bench.request()).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Unknown);
        let config = bench.bundle.path().join("config.json");
        let good = fs::read(&config).unwrap();
        fs::write(&config, "{").unwrap();
        let error = bench.tasks.create(bench.request()).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(bench.tasks.get("c").err().unwrap().is_not_found());
        assert!(bench.events().is_empty());
        fs::write(&config, good).unwrap();
        bench.stub.break_verb(None);
        let container = bench.running().await;
        container.kill(None, KILL, false).await.unwrap();
        container.wait(None).await.unwrap();
    });
}

#[test]
fn a_created_container_is_killed_to_be_deleted() {
    testing::run(async |reaper| {
        let bench = Bench::new(reaper);
        let container = bench.tasks.create(bench.request()).await.unwrap();
        bench.stub.break_verb(Some("start"));
        assert_eq!(container.start(None).await.unwrap_err().kind(), ErrorKind::Unknown);
        assert_eq!(container.snapshot(None).unwrap().state, State::Created);
        let (_, exit) = bench.tasks.delete("c", None).await.unwrap();
        assert_eq!(exit.unwrap().status, 137);
        assert_eq!(bench.events(), ["create", "start", "exit c 137", "delete"]);
    });
}

#[test]
fn a_failed_delete_may_be_tried_again() {
    testing::run(async |reaper| {
        let bench = Bench::new(reaper);
        let container = bench.running().await;
        container.kill(None, KILL, false).await.unwrap();
        container.wait(None).await.unwrap();
        bench.stub.break_verb(Some("delete"));
        assert_eq!(bench.tasks.delete("c", None).await.unwrap_err().kind(), ErrorKind::Unknown);
        assert_eq!(container.snapshot(None).unwrap().state, State::Stopped);
        bench.stub.break_verb(None);
        bench.tasks.delete("c", None).await.unwrap();
        assert_eq!(bench.events().iter().filter(|event| *event == "delete").count(), 1);
    });
}

#[test]
fn execs_from_start_to_deletion() {
    testing::run(async |reaper| {
        let bench = Bench::new(reaper);
        let container = bench.running().await;
        let e = id("e");
        container.add_exec(&e, exec("exit 3")).unwrap();
        let error = container.add_exec(&e, exec("exit 3")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        let error = container.kill(Some(&e), KILL, false).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
        let pid = container.start(Some(&e)).await.unwrap();
        assert_eq!(container.wait(Some(&e)).await.unwrap().status, 3);
        assert!(container.kill(Some(&e), KILL, false).await.unwrap_err().is_not_found());
        assert!(exits::read(bench.bundle.path(), Some(&e)).unwrap().is_some());
        let (deleted, exit) = bench.tasks.delete("c", Some(&e)).await.unwrap();
        assert_eq!((deleted, exit.unwrap().status), (pid, 3));
        assert_eq!(exits::read(bench.bundle.path(), Some(&e)).unwrap(), None);
        assert!(container.wait(Some(&e)).await.unwrap_err().is_not_found());
        assert_eq!(bench.events(), ["create", "start", "exec-added", "exec-started", "exit e 3"]);
        container.kill(None, KILL, false).await.unwrap();
        container.wait(None).await.unwrap();
    });
}

#[test]
fn an_exec_that_is_no_process_is_invalid() {
    testing::run(async |reaper| {
        let bench = Bench::new(reaper);
        let container = bench.running().await;
        for process in ["", "[]", "{"] {
            let spec = ExecSpec { process: process.into(), stdio: Stdio::default() };
            let error = container.add_exec(&id("e"), spec).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        }
        container.kill(None, KILL, false).await.unwrap();
        container.wait(None).await.unwrap();
    });
}

#[test]
fn init_is_announced_after_its_execs() {
    testing::run(async |reaper| {
        let bench = Bench::new(reaper);
        let container = bench.running().await;
        let e = id("e");
        container.add_exec(&e, exec("exec sleep 1000")).unwrap();
        container.start(Some(&e)).await.unwrap();
        container.kill(None, KILL, false).await.unwrap();
        let mut init = container.life().subscribe(None).unwrap();
        // The record tells that init was reaped, while its exit is kept back.
        while exits::read(bench.bundle.path(), None).unwrap().is_none() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(init.borrow_and_update().is_none());
        let error = container.add_exec(&id("late"), exec("true")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
        container.kill(Some(&e), KILL, false).await.unwrap();
        container.wait(None).await.unwrap();
        let events = bench.events();
        assert_eq!(events[events.len() - 2..], ["exit e 137", "exit c 137"]);
    });
}

#[test]
fn an_exec_that_starts_while_the_container_dies_is_ended() {
    testing::run(async |reaper| {
        let bench = Bench::new(reaper);
        // No pid namespace of its own: the kernel does not end it.
        fs::write(bench.bundle.path().join("config.json"), "{}").unwrap();
        let container = bench.running().await;
        let e = id("e");
        container.add_exec(&e, exec("exec sleep 1000")).unwrap();
        let (open, gate) = oneshot::channel();
        *bench.stub.gate.lock().unwrap() = Some(gate);
        let start = tokio::spawn({
            let (container, e) = (Arc::clone(&container), e.clone());
            async move { container.start(Some(&e)).await }
        });
        while !bench.stub.calls.lock().unwrap().contains(&"exec") {
            tokio::task::yield_now().await;
        }
        bench.stub.calls();
        container.kill(None, KILL, false).await.unwrap();
        // The second kill is for what is left of the container, and finds nothing.
        while bench.stub.calls.lock().unwrap().len() < 2 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        open.send(()).unwrap();
        start.await.unwrap().unwrap();
        container.wait(None).await.unwrap();
        let events = bench.events();
        assert_eq!(events[2..], ["exec-added", "exec-started", "exit e 137", "exit c 137"]);
    });
}

#[test]
fn want_of_memory_is_announced_before_the_end_it_brings() {
    testing::run(async |reaper| {
        let bench = Bench::new(reaper);
        let group = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(group.path().join(name), text).unwrap();
        write("memory.events", "oom_kill 0\n");
        write("cgroup.events", "populated 1\n");
        let container = bench.running().await;
        // Nobody waits for this one: what it has to tell is asked for.
        *container.oom() = Some(Arc::new(OomWatcher::v2(group.path()).unwrap()));
        write("memory.events", "oom_kill 1\n");
        process::kill(container.pid(), KILL).unwrap();
        container.wait(None).await.unwrap();
        assert_eq!(bench.events(), ["create", "start", "oom", "exit c 137"]);
    });
}

#[test]
fn a_terminal_that_never_comes_ends_what_was_started() {
    testing::run(async |reaper| {
        tokio::time::pause();
        let bench = Bench::new(reaper);
        let stdio = Stdio { terminal: true, ..Default::default() };
        let request = Create { restore: Some("/image".into()), stdio, ..bench.request() };
        let container = bench.tasks.create(request).await.unwrap();
        let error = container.start(None).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DeadlineExceeded);
        assert_eq!(bench.stub.calls(), ["can_checkpoint", "restore", "delete"]);
        assert_eq!(container.snapshot(None).unwrap().state, State::Prepared);
    });
}

#[test]
fn processes_that_end_at_once_keep_the_order() {
    testing::run(async |reaper| {
        let bench = Bench::new(reaper);
        let container = bench.running().await;
        bench.events();
        for number in 0..50 {
            let e = id(&format!("e{number}"));
            container.add_exec(&e, exec("exit 1")).unwrap();
            container.start(Some(&e)).await.unwrap();
            container.wait(Some(&e)).await.unwrap();
            bench.tasks.delete("c", Some(&e)).await.unwrap();
            assert_eq!(bench.events(), ["exec-added", "exec-started", &format!("exit {e} 1")]);
        }
        container.kill(None, KILL, false).await.unwrap();
        container.wait(None).await.unwrap();
    });
}

#[test]
fn freezing_and_thawing() {
    testing::run(async |reaper| {
        let bench = Bench::new(reaper);
        let container = bench.running().await;
        bench.stub.break_verb(Some("pause"));
        container.pause().await.unwrap_err();
        assert_eq!(container.snapshot(None).unwrap().state, State::Running);
        bench.stub.break_verb(None);
        container.pause().await.unwrap();
        assert_eq!(container.pause().await.unwrap_err().kind(), ErrorKind::FailedPrecondition);
        assert_eq!(container.snapshot(None).unwrap().state, State::Paused);
        // The end of a frozen container thaws what is left of it.
        bench.stub.calls();
        container.kill(None, KILL, false).await.unwrap();
        container.wait(None).await.unwrap();
        assert_eq!(bench.stub.calls(), ["kill", "resume", "kill"]);
        assert_eq!(bench.events(), ["create", "start", "paused", "exit c 137"]);
    });
}

#[test]
fn owned_work_survives_its_caller() {
    testing::run(async |reaper| {
        let bench = Bench::new(reaper);
        let (tasks, request) = (Arc::clone(&bench.tasks), bench.request());
        let work = async move { tasks.create(request).await.map(drop) };
        let mut caller = Box::pin(bench.tasks.own(work));
        assert!(futures::poll!(caller.as_mut()).is_pending());
        drop(caller);
        bench.tasks.context.background.close();
        while bench.tasks.get("c").is_err() {
            tokio::task::yield_now().await;
        }
        bench.tasks.delete("c", None).await.unwrap();
        assert_eq!(bench.events().last().map(String::as_str), Some("delete"));
    });
}
