//! The suite, for each snapshotter and each way to it.

use std::sync::Arc;

use super::super::{
    suite::Rig,
    testing::{Btrfs, InNamespace, config, remote},
};
use super::*;

/// A snapshotter by itself.
async fn local(layout: Layout, rebases: bool) -> Rig {
    let (world, folder) = (World::new(), tempfile::tempdir().unwrap());
    let local = Local::open(config(folder.path(), layout), world.db.clone()).await.unwrap();
    Rig { snapshotter: Arc::new(local), rebases, keep: Box::new(folder) }
}

async fn overlay() -> Option<Rig> {
    Some(local(overlays(), true).await)
}

async fn native() -> Option<Rig> {
    Some(local(Layout::Native, false).await)
}

async fn btrfs() -> Option<Rig> {
    let (world, image) = (World::new(), Btrfs::make()?);
    let root = image.path().join("root");
    let local = Local::open(config(&root, Layout::Btrfs), world.db.clone()).await.unwrap();
    Some(Rig { snapshotter: Arc::new(local), rebases: false, keep: Box::new(image) })
}

/// As a namespace sees it.
async fn namespaced() -> Option<Rig> {
    let Store { world, folder, snapshots } = Store::new().await;
    let snapshotter = Arc::new(InNamespace { snapshots, namespace: ns() });
    Some(Rig { snapshotter, rebases: true, keep: Box::new((world.db, folder)) })
}

/// As a namespace sees what is not ours.
async fn namespaced_remote() -> Option<Rig> {
    let (world, folder) = (World::new(), tempfile::tempdir().unwrap());
    let local = Local::open(config(folder.path(), overlays()), world.db.clone()).await.unwrap();
    let announcer = world.announcer.clone();
    let snapshots = Snapshots::open(world.db.clone(), announcer, remote(local)).await.unwrap();
    let snapshotter = Arc::new(InNamespace { snapshots, namespace: ns() });
    Some(Rig { snapshotter, rebases: true, keep: Box::new(folder) })
}

crate::snapshot_suite!(of_overlay, super::overlay);
crate::snapshot_suite!(of_native, super::native);
crate::snapshot_suite!(of_btrfs, super::btrfs);
crate::snapshot_suite!(of_namespace, super::namespaced);
crate::snapshot_suite!(of_remote, super::namespaced_remote);
