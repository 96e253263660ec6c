//! What killed daemons, failing disks and other daemons do to snapshots.

use super::super::testing::{Btrfs, config};
use super::*;
use crate::metadata::testing::Random;

/// What a daemon leaves that is killed at the named points of its sequences.
#[tokio::test]
async fn what_a_killed_daemon_left_is_put_right() {
    let mut store = Store::new().await;
    store.layer("base", "").await;
    store.prepare("a", "base").await.unwrap();
    store.prepare("b", "base").await.unwrap();
    assert_eq!(store.folders(), ["1", "2", "3"]);

    // snapshots.prepare.made: a folder, and no record; or half a folder.
    fs::create_dir_all(store.path("7/fs")).unwrap();
    fs::create_dir_all(store.path(".new-8/fs")).unwrap();
    // snapshots.remove.recorded and snapshots.remove.moved.
    let row = |key: &'static str| {
        let change = store.world.db.write(move |change| {
            let entry = record::find(change, &ns(), NAME, key)?;
            record::remove(change, &ns(), NAME, key)?;
            local::record::remove(change, NAME, &entry.name)
        });
        async move { change.await.unwrap().id }
    };
    let id = row("a").await;
    assert!(store.path(&id.to_string()).exists());
    let id = row("b").await.to_string();
    fs::rename(store.path(&id), store.path(&format!(".rm-{id}"))).unwrap();
    // None of ours.
    fs::write(store.path("README"), "").unwrap();

    assert_eq!(store.reopen().await, Recovered { removed: 0, lost: 0 });
    assert_eq!(store.folders(), ["1", "README"]);
    store.assert_clean().await;
    // What is made now meets nothing.
    store.prepare("a", "base").await.unwrap();
    assert_eq!(store.folders(), ["1", "9", "README"]);
}

/// The records of namespaces and snapshotter change together: there is never
/// one without the other, wherever power is lost.
#[tokio::test]
async fn no_loss_of_power_leaves_half_a_snapshot() {
    let mut random = Random::new(7);
    for operations in (0..60).step_by(3) {
        let store = Store::new().await;
        store.layer("base", "").await;
        store.world.disk.power_off_after(operations);
        // As far as it comes.
        drop(store.prepare("a", "base").await);
        drop(store.commit("top", "a").await);
        drop(store.prepare("b", "top").await);
        drop(store.snapshots.remove(&ns(), NAME, "b", None).await);
        drop(store.snapshots.remove(&ns(), NAME, "top", None).await);
        store.snapshots.shutdown().await;
        store.world.db.shutdown().await;

        let disk = store.world.disk.after_power_loss(&mut random);
        let db = disk.open().unwrap();
        let opened = snapshots(&db, &store.world.announcer, store.folder.path(), overlays());
        let again = opened.await.unwrap();
        assert_eq!(again.recover().await.unwrap(), Recovered::default(), "{operations}");
        for check in again.check().await.unwrap() {
            assert!(check.is_clean(), "{operations}: {check:?}");
        }
        // The same again succeeds.
        for key in ["b", "a", "top"] {
            drop(again.remove(&ns(), NAME, key, None).await);
        }
        again.prepare(&ns(), NAME, new("a", "base"), None).await.unwrap();
    }
}

#[tokio::test]
async fn what_another_daemon_may_know_is_never_removed() {
    let mut store = Store::new().await;
    store.layer("base", "").await;
    // As containerd leaves it.
    fs::write(store.folder.path().join("metadata.db"), "").unwrap();
    for name in ["4", "11", "new-123", "rm-5", ".rm-6"] {
        fs::create_dir_all(store.path(name)).unwrap();
    }
    store.reopen().await;
    assert_eq!(store.folders(), ["1", "11", "4", "new-123", "rm-5"]);
    let mounts = store.prepare("a", "").await.unwrap();
    assert_eq!(mounts[0].source, store.path("12/fs").to_string_lossy());
    store.snapshots.remove(&ns(), NAME, "a", None).await.unwrap();
    store.snapshots.cleanup(NAME).await.unwrap();
    store.snapshots.shutdown().await;
    assert_eq!(store.folders(), ["1", "11", "4", "new-123", "rm-5"]);
}

#[tokio::test]
async fn what_the_disk_lost_is_told() {
    let mut store = Store::new().await;
    store.layer("base", "").await;
    store.prepare("a", "base").await.unwrap();
    fs::remove_dir_all(store.path("1")).unwrap();
    fs::create_dir_all(store.path("99/fs")).unwrap();
    let check = store.snapshots.check().await.unwrap().remove(0);
    assert_eq!(check.disk.lost.len(), 1);
    assert!(check.disk.lost[0].ends_with("/base"), "{check:?}");
    assert_eq!(check.disk.strays, [store.path("99")]);

    // A record that the snapshotter does not know, and one with another parent.
    let name = store.world.db.read(|db| record::find(db, &ns(), NAME, "a")).await.unwrap().name;
    let change = store.world.db.write(move |change| {
        local::record::remove(change, NAME, &name)?;
        let mut base = record::find(change, &ns(), NAME, "base")?;
        base.parent = "a".into();
        record::put(change, &ns(), &mut base)
    });
    change.await.unwrap();
    let check = store.snapshots.check().await.unwrap().remove(0);
    assert_eq!(check.lost, [("ns".to_owned(), "a".to_owned())]);
    assert_eq!(check.orphans, [("ns".to_owned(), "base".to_owned())]);
    assert_eq!(store.reopen().await, Recovered { removed: 0, lost: 1 });
    // It can be got rid of.
    forget_parent(&store).await;
    store.snapshots.remove(&ns(), NAME, "a", None).await.unwrap();
    assert_eq!(store.keys().await, ["base"]);
}

async fn forget_parent(store: &Store) {
    let change = store.world.db.write(|change| {
        let mut base = record::find(change, &ns(), NAME, "base")?;
        base.parent.clear();
        record::put(change, &ns(), &mut base)
    });
    change.await.unwrap();
}

#[tokio::test]
async fn a_commit_that_is_not_recorded_leaves_an_active_snapshot() {
    let Some(image) = Btrfs::make() else { return };
    let (world, root) = (World::new(), image.path().join("root"));
    let open = || Local::open(config(&root, Layout::Btrfs), world.db.clone());
    let local = open().await.unwrap();
    local.prepare("a", "", Labels::new()).await.unwrap();
    // snapshots.commit.fixed: moved, and not recorded.
    fs::rename(root.join("active/1"), root.join("snapshots/1")).unwrap();
    let local = {
        drop(local);
        open().await.unwrap()
    };
    assert!(root.join("active/1").is_dir() && !root.join("snapshots/1").exists());
    local.mounts("a").await.unwrap();
    // A disk that refuses the record.
    world.disk.power_off_after(0);
    local.commit("base", "a", "", Labels::new()).await.unwrap_err();
    assert!(root.join("active/1").is_dir() || root.join("snapshots/1").is_dir());
}

/// The folder is where the record does not say until it does.
#[tokio::test]
async fn what_is_being_committed_is_neither_garbage_nor_committed_again() {
    let Some(image) = Btrfs::make() else { return };
    let (world, root) = (World::new(), image.path().join("root"));
    let local = Local::open(config(&root, Layout::Btrfs), world.db.clone()).await.unwrap();
    local.prepare("a", "", Labels::new()).await.unwrap();
    let fix = |name: &str| local::Fix {
        name: name.into(),
        key: "a".into(),
        parent: String::new(),
        labels: Labels::new(),
        usage: Usage::default(),
    };
    let fixed = local.fix(fix("one")).await.unwrap();
    assert!(root.join("snapshots/1").is_dir() && !root.join("active/1").exists());
    local.cleanup().await.unwrap();
    assert!(root.join("snapshots/1").is_dir());
    assert_eq!(kind(local.fix(fix("two")).await), Some(ErrorKind::FailedPrecondition));

    // Refused: it is as it was, and can be committed.
    let refused = local.settle_fix(fixed, Err(Error::unavailable("no record"))).await;
    assert_eq!(kind(refused), Some(ErrorKind::Unavailable));
    assert!(root.join("active/1").is_dir() && !root.join("snapshots/1").exists());
    local.commit("two", "a", "", Labels::new()).await.unwrap();
    local.cleanup().await.unwrap();
    assert!(root.join("snapshots/1").is_dir());
    assert_eq!(kind(local.fix(fix("one")).await), Some(ErrorKind::NotFound));
}

/// Its folder is where no record says.
#[tokio::test]
async fn what_is_removed_while_it_is_committed_leaves_no_folder() {
    let Some(image) = Btrfs::make() else { return };
    let (world, root) = (World::new(), image.path().join("root"));
    let settings = LocalConfig { sync_remove: true, ..config(&root, Layout::Btrfs) };
    let local = Local::open(settings, world.db.clone()).await.unwrap();
    let left = || {
        let areas = ["active", "view", "snapshots"].map(|area| fs::read_dir(root.join(area)));
        areas.into_iter().map(|area| area.unwrap().count()).sum::<usize>()
    };
    let fix = local::Fix {
        name: "one".into(),
        key: "a".into(),
        parent: String::new(),
        labels: Labels::new(),
        usage: Usage::default(),
    };
    local.prepare("a", "", Labels::new()).await.unwrap();
    let fixed = local.fix(fix.clone()).await.unwrap();
    local.remove("a").await.unwrap();
    assert_eq!(left(), 0);
    let refused = local.settle_fix(fixed, Err(Error::not_found("a"))).await;
    assert_eq!(kind(refused), Some(ErrorKind::NotFound));
    assert_eq!(left(), 0);

    // The record is gone, and the folder has been looked for in vain.
    local.prepare("a", "", Labels::new()).await.unwrap();
    let fixed = local.fix(fix).await.unwrap();
    world.db.write(|change| local::record::remove(change, NAME, "a")).await.unwrap();
    local.settle_fix(fixed, Err(Error::not_found("a"))).await.unwrap_err();
    assert_eq!(left(), 0);
}

#[tokio::test]
async fn what_is_being_committed_is_there_for_those_who_ask() {
    let Some(image) = Btrfs::make() else { return };
    let (world, root) = (World::new(), image.path().join("root"));
    let local = Local::open(config(&root, Layout::Btrfs), world.db.clone()).await.unwrap();
    local.prepare("a", "", Labels::new()).await.unwrap();
    let fix = local::Fix {
        name: "one".into(),
        key: "a".into(),
        parent: String::new(),
        labels: Labels::new(),
        usage: Usage::default(),
    };
    let fixed = local.fix(fix).await.unwrap();
    assert_eq!(kind(local.mounts("a").await), Some(ErrorKind::FailedPrecondition));
    assert_eq!(kind(local.usage("a").await), Some(ErrorKind::FailedPrecondition));
    local.settle_fix(fixed, Err(Error::unavailable("no record"))).await.unwrap_err();
    local.mounts("a").await.unwrap();
    local.usage("a").await.unwrap();
}

/// As when the disk is full: the folder has moved, and more cannot be done.
#[tokio::test]
async fn a_commit_that_fails_halfway_is_taken_back() {
    let Some(image) = Btrfs::make() else { return };
    let (world, root) = (World::new(), image.path().join("root"));
    let local = Local::open(config(&root, Layout::Btrfs), world.db.clone()).await.unwrap();
    local.prepare("a", "", Labels::new()).await.unwrap();
    // One that cannot be made read-only, as it is no subvolume.
    let folder = root.join("active/1");
    let status = std::process::Command::new("btrfs")
        .args(["-q", "subvolume", "delete"])
        .arg(&folder)
        .status();
    assert!(status.unwrap().success());
    fs::create_dir(&folder).unwrap();
    local.commit("one", "a", "", Labels::new()).await.unwrap_err();
    assert!(folder.is_dir() && !root.join("snapshots/1").exists());
    assert_eq!(local.stat("a").await.unwrap().kind, Kind::Active);
}

#[tokio::test]
async fn a_volume_with_others_in_it_is_removed() {
    let Some(image) = Btrfs::make() else { return };
    let (world, root) = (World::new(), image.path().join("root"));
    let layout = LocalConfig { sync_remove: true, ..config(&root, Layout::Btrfs) };
    let local = Local::open(layout, world.db.clone()).await.unwrap();
    local.prepare("a", "", Labels::new()).await.unwrap();
    fs::create_dir(root.join("active/1/folder")).unwrap();
    let inner = root.join("active/1/folder/inner");
    let made = std::process::Command::new("btrfs")
        .args(["-q", "subvolume", "create"])
        .arg(&inner)
        .status()
        .unwrap();
    assert!(made.success());
    fs::write(inner.join("file"), "").unwrap();
    local.remove("a").await.unwrap();
    assert_eq!(fs::read_dir(root.join("active")).unwrap().count(), 0);
}
