//! Shims that end before the daemon has taken what they had to tell. Needs root.
#![allow(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod common;

use std::fs;

use common::{World, exec, id};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

for_each_shim!(an_exec_that_was_deleted_before_its_shim_died, an_exec_of_a_task_that_was_deleted,);

/// A container whose exec has ended with 3, when nobody listened any more.
async fn with_ended_exec(world: &mut World) -> std::sync::Arc<runtime_v2::Task> {
    let task = world.manager.create(world.request("a", "sleep 1000")).await.unwrap();
    task.start(None).await.unwrap();
    world.endpoint.shutdown().await.unwrap();
    fs::remove_file(world.folder.path().join("d.sock.ttrpc")).unwrap();
    task.exec(exec("e", "exit 3")).await.unwrap();
    task.start(Some(&id("e"))).await.unwrap();
    assert_eq!(task.wait(Some(&id("e"))).await.unwrap().status, 3);
    task
}

fn exits(world: &World) -> Vec<(String, u32)> {
    world.log.of("/tasks/exit").into_iter().map(|e| (e.process, e.status)).collect()
}

async fn an_exec_that_was_deleted_before_its_shim_died(mut world: World) -> World {
    let task = with_ended_exec(&mut world).await;
    task.delete_exec(&id("e")).await.unwrap();
    kill(Pid::from_raw(world.shim_of("a")), Signal::SIGKILL).unwrap();
    world.gone("a").await;
    assert_eq!(exits(&world), [("e".into(), 3), ("a".into(), 137)]);
    world
}

async fn an_exec_of_a_task_that_was_deleted(mut world: World) -> World {
    let task = with_ended_exec(&mut world).await;
    task.kill(None, 9, false).await.unwrap();
    task.wait(None).await.unwrap();
    task.delete().await.unwrap();
    assert_eq!(exits(&world), [("e".into(), 3), ("a".into(), 137)]);
    world
}
