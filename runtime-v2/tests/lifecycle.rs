//! The life of a container, with each shim that is installed. Needs root.
#![allow(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod common;

use common::{World, exec, id, spec};
use runtime_v2::Status;
use shim_protocol::ErrorKind;

for_each_shim!(
    create_start_exit_delete,
    exec_kill_and_signals,
    pause_stats_and_pids,
    group,
    a_handle_of_a_task_that_is_gone_means_no_other,
);

async fn create_start_exit_delete(world: World) -> World {
    let task = world.manager.create(world.request("a", "exit 7")).await.unwrap();
    assert!(task.pid() > 0);
    assert_eq!(task.state(None).await.unwrap().status, Status::Created);
    let again = world.manager.create(world.request("a", "exit 7")).await;
    assert_eq!(again.err().unwrap().kind(), ErrorKind::AlreadyExists);
    assert_eq!(world.manager.namespaces(), std::slice::from_ref(&world.namespace));

    assert_eq!(task.start(None).await.unwrap(), task.pid());
    let exit = task.wait(None).await.unwrap();
    assert_eq!(exit.status, 7);
    let state = task.state(None).await.unwrap();
    assert_eq!((state.status, state.exit), (Status::Stopped, Some(exit)));
    assert_eq!(world.log.exit_of("a").await.status, 7);

    let gone = task.delete().await.unwrap();
    assert_eq!((gone.pid, gone.exit), (task.pid(), exit));
    assert!(world.manager.get(&world.namespace, &id("a")).is_err_and(|e| e.is_not_found()));
    assert!(task.state(None).await.is_err_and(|e| e.is_not_found()));
    assert!(task.delete().await.is_err_and(|e| e.is_not_found()));
    let topics: Vec<_> = world.log.all().into_iter().map(|event| event.topic).collect();
    assert_eq!(topics, ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"]);

    // The id is free at once.
    let task = world.manager.create(world.request("a", "true")).await.unwrap();
    task.delete().await.unwrap();
    world
}

async fn exec_kill_and_signals(world: World) -> World {
    let task = world.manager.create(world.request("a", "sleep 1000")).await.unwrap();
    let too_early = task.delete_exec(&id("e")).await.unwrap_err();
    assert_eq!(too_early.kind(), ErrorKind::NotFound);
    task.start(None).await.unwrap();
    let again = task.start(None).await.unwrap_err();
    assert_eq!(again.kind(), ErrorKind::FailedPrecondition, "{again:?}");
    let running = task.delete().await.unwrap_err();
    assert_eq!(running.kind(), ErrorKind::FailedPrecondition, "{running:?}");

    let (e, f) = (id("e"), id("f"));
    task.exec(exec("e", "exit 3")).await.unwrap();
    let twice = task.exec(exec("e", "exit 3")).await.unwrap_err();
    assert_eq!(twice.kind(), ErrorKind::AlreadyExists);
    let pid = task.start(Some(&e)).await.unwrap();
    assert!(pid > 0 && pid != task.pid());
    assert_eq!(task.wait(Some(&e)).await.unwrap().status, 3);
    assert_eq!(task.delete_exec(&e).await.unwrap().exit.status, 3);
    assert!(task.state(Some(&e)).await.is_err_and(|e| e.is_not_found()));

    task.exec(exec("f", "sleep 1000")).await.unwrap();
    task.start(Some(&f)).await.unwrap();
    let running = task.delete_exec(&f).await.unwrap_err();
    assert_eq!(running.kind(), ErrorKind::FailedPrecondition, "{running:?}");
    task.kill(Some(&f), 9, false).await.unwrap();
    assert_eq!(task.wait(Some(&f)).await.unwrap().status, 137);
    task.delete_exec(&f).await.unwrap();

    task.kill(None, 9, false).await.unwrap();
    assert_eq!(task.wait(None).await.unwrap().status, 137);
    let ended = task.kill(None, 9, false).await.unwrap_err();
    assert_eq!(ended.kind(), ErrorKind::NotFound, "{ended:?}");
    task.delete().await.unwrap();
    let exits: Vec<_> =
        world.log.of("/tasks/exit").into_iter().map(|e| (e.process, e.status)).collect();
    assert_eq!(exits, [("e".into(), 3), ("f".into(), 137), ("a".into(), 137)]);
    world
}

async fn pause_stats_and_pids(world: World) -> World {
    let task = world.manager.create(world.request("a", "sleep 1000 & wait")).await.unwrap();
    task.start(None).await.unwrap();
    task.pause().await.unwrap();
    assert_eq!(task.state(None).await.unwrap().status, Status::Paused);
    task.resume().await.unwrap();
    assert_eq!(task.state(None).await.unwrap().status, Status::Running);
    let stats = task.stats().await.unwrap();
    assert!(stats.type_url.ends_with(".Metrics"), "{}", stats.type_url);
    assert!(!stats.value.is_empty());
    let pids = task.pids().await.unwrap();
    assert!(pids.iter().any(|process| process.pid == task.pid()), "{pids:?}");
    task.kill(None, 9, true).await.unwrap();
    task.wait(None).await.unwrap();
    task.delete().await.unwrap();
    world
}

/// Containers that name the same group share a shim.
async fn group(world: World) -> World {
    let group = [("io.containerd.runc.v2.group", "g")];
    let request = |container: &str| {
        let mut request = world.request(container, "");
        request.spec = spec(&world.cgroup(container), &["sleep", "1000"], &group);
        request
    };
    let a = world.manager.create(request("a")).await.unwrap();
    let b = world.manager.create(request("b")).await.unwrap();
    for task in [&a, &b] {
        task.start(None).await.unwrap();
    }
    assert_eq!(world.shims().len(), 1);
    a.kill(None, 9, false).await.unwrap();
    a.wait(None).await.unwrap();
    a.delete().await.unwrap();
    assert_eq!(b.state(None).await.unwrap().status, Status::Running);
    assert_eq!(world.shims().len(), 1);
    b.kill(None, 9, false).await.unwrap();
    b.wait(None).await.unwrap();
    b.delete().await.unwrap();
    world
}

async fn a_handle_of_a_task_that_is_gone_means_no_other(world: World) -> World {
    let old = world.manager.create(world.request("a", "true")).await.unwrap();
    old.delete().await.unwrap();
    let new = world.manager.create(world.request("a", "true")).await.unwrap();
    assert!(old.delete().await.unwrap_err().is_not_found());
    assert_eq!(new.state(None).await.unwrap().pid, new.pid());
    new.delete().await.unwrap();
    world
}
