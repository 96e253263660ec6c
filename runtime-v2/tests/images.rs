//! What checkpoints and restores leave in a task's work folder, and who waits for
//! whom. Needs root, but no CRIU.
#![allow(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod common;

use std::{
    fs::{self, File},
    path::PathBuf,
    time::Duration,
};

use common::{PATIENCE, World, id, names_in, ours};

for_each_shim!(
    a_delete_waits_for_a_checkpoint,
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
    let refused = async {
        while let Ok(another) = task.checkpoint_folder().await {
            another.remove().await.unwrap();
        }
    };
    tokio::time::timeout(PATIENCE, refused).await.expect("it is not being deleted");
    assert!(!task.runs().await.is_ok_and(|runs| runs));
    assert!(!folder.is_empty().await.unwrap(), "it is still being read");
    assert!(world.shims().contains(&shim) && !deleting.is_finished());
    folder.remove().await.unwrap();
    deleting.await.unwrap().unwrap();
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
