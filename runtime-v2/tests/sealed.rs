//! From where our shim is executed: out of reach of containers from its second
//! start on, also behind upgrades and restarts. Needs root, and our shim beside
//! the tests.
#![allow(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod common;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use common::{DEBIAN, PATIENCE, World, exec, id, install, ours, with_shim};
use nix::sys::statvfs::{FsFlags, statvfs};
use runtime_v2::{Recovered, Task};

/// Is the file that the shim of a container runs from read-only?
fn is_sealed(world: &World, container: &str) -> bool {
    let exe = format!("/proc/{}/exe", world.shim_of(container));
    statvfs(exe.as_str()).unwrap().flags().contains(FsFlags::ST_RDONLY)
}

async fn start(world: &World, container: &str) -> Arc<Task> {
    let task = world.manager.create(world.request(container, "sleep 1000")).await.unwrap();
    task.start(None).await.unwrap();
    task
}

async fn end(task: &Arc<Task>) {
    task.kill(None, 9, false).await.unwrap();
    task.wait(None).await.unwrap();
    task.delete().await.unwrap();
}

/// Starts containers until one has a shim of the kind that is waited for: what
/// a shim can do is found out beside its first start.
async fn start_sealed(world: &World, container: &str) -> Arc<Task> {
    let until = async {
        loop {
            let task = start(world, container).await;
            if is_sealed(world, container) {
                return task;
            }
            end(&task).await;
        }
    };
    tokio::time::timeout(PATIENCE, until).await.expect("the shim is never sealed")
}

/// Installs our shim in a folder of the test: over one that runs, by renaming.
fn install_shim(world: &World) -> PathBuf {
    let (path, draft) = (world.folder.path().join("shim"), world.folder.path().join("new"));
    install(&ours(), &draft);
    fs::rename(&draft, &path).unwrap();
    path
}

fn can_seal() -> bool {
    // Before Linux 5.12, and without the right to mount, it is executed by path.
    let can = containerd_mounts::sealed(Path::new("/bin/sh")).is_ok();
    if !can {
        println!("skipped: files cannot be mounted alone");
    }
    can
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_shim_is_out_of_reach_and_keeps_its_name() {
    with_shim(&ours(), async |world: World| {
        if !can_seal() {
            return world;
        }
        let first = start(&world, "a").await;
        assert!(!is_sealed(&world, "a"));
        let second = start_sealed(&world, "b").await;
        let shim = world.shim_of("b");
        let comm = fs::read_to_string(format!("/proc/{shim}/comm")).unwrap();
        assert_eq!(comm, "containerd-shim\n");
        let line = fs::read(format!("/proc/{shim}/cmdline")).unwrap();
        assert!(line.starts_with(world.shim.as_os_str().as_encoded_bytes()));
        let noted = fs::read_to_string(world.bundle("b").join("shim-binary-path")).unwrap();
        assert_eq!(Path::new(&noted), world.shim);
        second.exec(exec("e", "exit 3")).await.unwrap();
        second.start(Some(&id("e"))).await.unwrap();
        assert_eq!(second.wait(Some(&id("e"))).await.unwrap().status, 3);
        // A helper that was forked, and what it has made, are not called like it.
        let third = world.manager.create(world.request("c", "true")).await.unwrap();
        assert!(is_sealed(&world, "c"));
        third.delete().await.unwrap();
        end(&first).await;
        end(&second).await;
        world
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shims_outlive_the_daemon_and_an_upgrade_of_their_file() {
    with_shim(&ours(), async |mut world: World| {
        if !can_seal() {
            return world;
        }
        world.shim = install_shim(&world);
        let old = start_sealed(&world, "a").await;
        let pid = old.pid();
        install_shim(&world);
        // The new file is another one, of which is to be found out again.
        let new = start(&world, "b").await;
        assert!(!is_sealed(&world, "b"));
        end(&new).await;
        let new = start_sealed(&world, "b").await;
        let recovered = world.restart(async |_| {}).await;
        assert_eq!(recovered, Recovered { live: 2, ..Default::default() });
        let task = world.manager.get(&world.namespace, &id("a")).unwrap();
        assert_eq!(task.pid(), pid);
        task.exec(exec("e", "exit 4")).await.unwrap();
        task.start(Some(&id("e"))).await.unwrap();
        assert_eq!(task.wait(Some(&id("e"))).await.unwrap().status, 4);
        end(&task).await;
        // Without its file a shim is known all the same.
        fs::remove_file(&world.shim).unwrap();
        let task = world.manager.get(&world.namespace, &id("b")).unwrap();
        assert_eq!(task.pid(), new.pid());
        end(&task).await;
        world
    })
    .await;
}

/// Nobody knows where they listen, and there is no file of theirs any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sealed_shim_that_nobody_can_reach_is_ended() {
    with_shim(&ours(), async |mut world: World| {
        if !can_seal() {
            return world;
        }
        world.shim = install_shim(&world);
        start_sealed(&world, "a").await;
        let recovered = world
            .restart(async |world| {
                for note in ["address", "bootstrap.json"] {
                    let bare = "unix:///nowhere/s";
                    let text = format!(r#"{{"version":2,"address":"{bare}","protocol":"ttrpc"}}"#);
                    let text = if note == "address" { bare } else { &text };
                    fs::write(world.bundle("a").join(note), text).unwrap();
                }
                install_shim(world);
            })
            .await;
        assert_eq!(recovered, Recovered { cleaned: 1, ..Default::default() });
        assert_eq!(world.log.exit_of("a").await.status, 137);
        // Nobody was told of it.
        fs::remove_file(world.socket("a")).unwrap();
        world
    })
    .await;
}

/// Shims of others, and scripts, are executed by their path for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_shims_are_executed_by_their_path() {
    with_shim(Path::new(DEBIAN), async |world: World| {
        for _ in 0..3 {
            let task = start(&world, "a").await;
            assert!(!is_sealed(&world, "a"));
            end(&task).await;
        }
        world
    })
    .await;
    with_shim(&ours(), async |mut world: World| {
        let script = format!("exec {} \"$@\"", ours().display());
        world.shim = world.script_shim(&script).into();
        for _ in 0..3 {
            let task = start(&world, "a").await;
            assert!(!is_sealed(&world, "a"));
            end(&task).await;
        }
        world
    })
    .await;
}
