//! Bundles of which a daemon cannot tell what became. Needs root.
#![allow(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod common;

use std::{fs, os::unix::fs::symlink, time::Duration};

use common::{World, id, spec};
use runtime_v2::{Recovered, Timeouts};
use shim_protocol::ErrorKind;

for_each_shim!(the_shim_of_what_is_left_outlives_the_others_in_its_group);

/// Notes that say where a shim listens.
const NOTES: [&str; 2] = ["bootstrap.json", "address"];

async fn the_shim_of_what_is_left_outlives_the_others_in_its_group(mut world: World) -> World {
    let limit = Duration::from_millis(500);
    world.set_timeouts(Timeouts { shutdown: limit, ..Timeouts::default() }).await;
    for container in ["a", "b"] {
        let mut request = world.request(container, "");
        let group = [("io.kubernetes.cri.sandbox-id", "a")];
        request.spec = spec(&world.cgroup(container), &["sleep", "1000"], &group);
        world.manager.create(request).await.unwrap().start(None).await.unwrap();
    }
    let shims = world.shims();
    let at = |name: &str| world.bundle("b").join(name);
    let notes: Vec<_> = NOTES.map(|name| (at(name), fs::read(at(name)).ok())).into();
    let recovered = world
        .restart(async |_| {
            for (path, _) in &notes {
                let _ = fs::remove_file(path);
                symlink(path, path).unwrap();
            }
        })
        .await;
    assert_eq!(recovered, Recovered { live: 1, left: 1, ..Default::default() });
    let unknown = world.manager.get_when_made(&world.namespace, &id("b")).await;
    assert_eq!(unknown.err().unwrap().kind(), ErrorKind::Unavailable);
    end(&world, "a").await;
    assert_eq!(world.shims(), shims);
    assert!(world.log.all().iter().all(|event| event.container != "b"));

    let recovered = world
        .restart(async |_| {
            for (path, content) in &notes {
                fs::remove_file(path).unwrap();
                if let Some(content) = content {
                    fs::write(path, content).unwrap();
                }
            }
        })
        .await;
    assert_eq!(recovered, Recovered { live: 1, ..Default::default() });
    end(&world, "b").await;
    world
}

async fn end(world: &World, container: &str) {
    let task = world.manager.get(&world.namespace, &id(container)).unwrap();
    task.kill(None, 9, false).await.unwrap();
    task.wait(None).await.unwrap();
    task.delete().await.unwrap();
}
