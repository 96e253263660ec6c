//! What checkpoints and restores leave in a task's work folder, and who waits for
//! whom. Needs root, but no CRIU.
#![allow(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod common;

use std::{
    fs::{self, File},
    path::PathBuf,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use runtime_v2::{Recovered, Status, Timeouts};
use shim_protocol::ErrorKind;

use common::{PATIENCE, World, id, names_in, ours};

for_each_shim!(
    a_delete_waits_for_a_checkpoint,
    a_delete_is_told_what_was_kept,
    a_daemon_that_ends_while_a_delete_waits_leaves_the_images,
    a_delete_does_not_wait_for_ever,
    how_it_ended_is_told_before_its_checkpoint_is_put_away,
    what_is_left_with_a_running_task_goes,
    what_is_left_of_a_task_that_has_ended_stays,
);

fn work(world: &World) -> PathBuf {
    world.folder.path().join("root").join(&world.namespace).join("a")
}

/// Names of the folders with images.
fn folders(world: &World) -> Vec<String> {
    let mut names = names_in(&work(world));
    names.retain(|name| name.contains("checkpoint-") || name.contains("restore"));
    names.sort();
    names
}

async fn until(mut is_so: impl FnMut() -> bool) {
    let wait = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.expect("it never is so");
}

async fn a_delete_waits_for_a_checkpoint(world: World) -> World {
    let task = world.manager.create(world.request("a", "true")).await.unwrap();
    let shim = world.shim_of("a");
    task.start(None).await.unwrap();
    task.wait(None).await.unwrap();
    let folder = task.checkpoint_folder().await.unwrap();
    assert!(folder.is_empty().await.unwrap());
    fs::write(folder.path().join("core-1.img"), "image").unwrap();

    let deleting = tokio::spawn({
        let task = task.clone();
        async move { task.delete().await }
    });
    // Nothing is kept from being asked, and the shim has still all that it had.
    for _ in 0..20 {
        assert_eq!(task.state(None).await.unwrap().status, Status::Stopped);
    }
    let another = task.checkpoint_folder().await.unwrap();
    assert!(!folder.is_empty().await.unwrap(), "it is still being read");
    assert!(world.shims().contains(&shim) && !deleting.is_finished());
    folder.remove().await.unwrap();
    assert!(!deleting.is_finished());
    another.remove().await.unwrap();
    deleting.await.unwrap().unwrap();
    assert!(!work(&world).exists());
    world
}

/// Who deletes must not be the end of what they could not know of.
async fn a_delete_is_told_what_was_kept(world: World) -> World {
    let task = world.manager.create(world.request("a", "true")).await.unwrap();
    task.start(None).await.unwrap();
    task.wait(None).await.unwrap();
    let folder = task.checkpoint_folder().await.unwrap();
    let path = folder.path().to_owned();
    let mut deleting = Box::pin(task.delete());
    // It gets as far as it can.
    let begun = tokio::time::timeout(Duration::from_millis(200), &mut deleting);
    assert!(begun.await.is_err());
    folder.keep();
    let error = deleting.await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    // Nor need it have waited.
    task.checkpoint_folder().await.unwrap().keep();
    let error = task.delete().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
    assert!(path.exists());
    task.delete().await.unwrap();
    assert!(!work(&world).exists());
    world
}

async fn a_daemon_that_ends_while_a_delete_waits_leaves_the_images(mut world: World) -> World {
    let task = world.manager.create(world.request("a", "true")).await.unwrap();
    task.start(None).await.unwrap();
    task.wait(None).await.unwrap();
    let folder = task.checkpoint_folder().await.unwrap();
    let deleting = tokio::spawn({
        let task = task.clone();
        async move { task.delete().await }
    });
    for _ in 0..20 {
        task.state(None).await.unwrap();
    }
    deleting.abort();
    let recovered = world.restart(async |_| {}).await;
    assert_eq!(recovered, Recovered { stopped: 1, ..Default::default() });
    assert!(folder.path().exists());
    world.manager.get(&world.namespace, &id("a")).unwrap().delete().await.unwrap();
    world
}

/// That it takes long is no reason to wait for ever, nor to delete what is there.
async fn a_delete_does_not_wait_for_ever(mut world: World) -> World {
    let task = world.manager.create(world.request("a", "sleep 1000")).await.unwrap();
    task.start(None).await.unwrap();
    world.timeouts = Timeouts { request: Duration::from_secs(3), ..Default::default() };
    world.restart(async |_| {}).await;
    let task = world.manager.get(&world.namespace, &id("a")).unwrap();
    let folder = task.checkpoint_folder().await.unwrap();
    // What runs is refused at once.
    let error = task.delete().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
    assert!(error.to_string().contains("runs"), "{error}");
    task.kill(None, 9, false).await.unwrap();
    task.wait(None).await.unwrap();
    let error = task.delete().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
    assert!(error.to_string().contains("checkpoint"), "{error}");
    folder.remove().await.unwrap();
    task.delete().await.unwrap();
    world
}

async fn how_it_ended_is_told_before_its_checkpoint_is_put_away(world: World) -> World {
    let task = world.manager.create(world.request("a", "sleep 1000")).await.unwrap();
    task.start(None).await.unwrap();
    let folder = task.checkpoint_folder().await.unwrap();
    let shim = Pid::from_raw(world.shim_of("a"));
    kill(shim, Signal::SIGKILL).unwrap();
    let exit = tokio::time::timeout(PATIENCE, task.wait(None)).await.expect("nobody says so");
    assert_eq!(exit.unwrap().status, 137);
    assert!(folder.path().exists());
    let deleting = tokio::spawn(async move { task.delete().await });
    folder.remove().await.unwrap();
    assert!(deleting.await.unwrap().unwrap_err().is_not_found());
    assert!(!work(&world).exists());
    world
}

async fn what_is_left_with_a_running_task_goes(mut world: World) -> World {
    let task = world.manager.create(world.request("a", "sleep 1000")).await.unwrap();
    task.start(None).await.unwrap();
    let names = ["restore", ".restore", ".checkpoint-half", "checkpoint-left", "checkpoint-used"];
    for name in names {
        fs::create_dir(work(&world).join(name)).unwrap();
    }
    fs::write(work(&world).join(".restore/core-1.img"), "image").unwrap();
    // As a shim does that writes to it.
    let lock = File::open(work(&world).join("checkpoint-used")).unwrap();
    lock.lock().unwrap();
    world.restart(async |_| {}).await;
    // Shims that are not ours lock nothing.
    let is_ours = world.shim == ours();
    let left = if is_ours { &names[4..] } else { &names[3..] };
    until(|| folders(&world) == left).await;
    drop(lock);
    world.restart(async |_| {}).await;
    let left = if is_ours { &[] } else { left };
    until(|| folders(&world) == left).await;

    let task = world.manager.get(&world.namespace, &id("a")).unwrap();
    task.kill(None, 9, false).await.unwrap();
    task.wait(None).await.unwrap();
    task.delete().await.unwrap();
    world
}

async fn what_is_left_of_a_task_that_has_ended_stays(mut world: World) -> World {
    let task = world.manager.create(world.request("a", "true")).await.unwrap();
    task.start(None).await.unwrap();
    task.wait(None).await.unwrap();
    fs::create_dir(work(&world).join("checkpoint-left")).unwrap();
    // The second one waits for all that the first one does.
    for _ in 0..2 {
        world.restart(async |_| {}).await;
        assert_eq!(folders(&world), ["checkpoint-left"]);
    }
    world.manager.get(&world.namespace, &id("a")).unwrap().delete().await.unwrap();
    world
}
