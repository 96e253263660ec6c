//! Snapshots, and the conformance of all that keep them.

mod conformance;
mod elsewhere;
mod faults;
mod namespaced;

use std::{fs, path::PathBuf};

use shim_protocol::{Error, ErrorKind, Result};
use tempfile::TempDir;

use super::{
    testing::{NAME, overlays, snapshots},
    *,
};
use crate::testing::{World, id, labels};

/// Snapshots of overlays, on disk.
struct Store {
    world: World,
    folder: TempDir,
    snapshots: Snapshots,
}

impl Store {
    async fn new() -> Self {
        let (world, folder) = (World::new(), tempfile::tempdir().unwrap());
        let snapshots =
            snapshots(&world.db, &world.announcer, folder.path(), overlays()).await.unwrap();
        Self { world, folder, snapshots }
    }

    /// As after a restart.
    async fn reopen(&mut self) -> Recovered {
        self.snapshots.shutdown().await;
        let world = &self.world;
        let opened = snapshots(&world.db, &world.announcer, self.folder.path(), overlays());
        self.snapshots = opened.await.unwrap();
        self.snapshots.recover().await.unwrap()
    }

    async fn prepare(&self, key: &str, parent: &str) -> Result<Vec<Mount>> {
        self.snapshots.prepare(&ns(), NAME, new(key, parent), None).await
    }

    async fn commit(&self, name: &str, key: &str) -> Result<()> {
        let (name, key) = (name.into(), key.into());
        let commit = Commit { name, key, ..Commit::default() };
        self.snapshots.commit(&ns(), NAME, commit, None).await
    }

    async fn layer(&self, name: &str, parent: &str) {
        self.prepare("tmp", parent).await.unwrap();
        self.commit(name, "tmp").await.unwrap();
    }

    async fn keys(&self) -> Vec<String> {
        let none: &[&str] = &[];
        let found = self.snapshots.list(&ns(), NAME, none).await.unwrap();
        found.into_iter().map(|info| info.name).collect()
    }

    /// Names in the folder of snapshots.
    fn folders(&self) -> Vec<String> {
        let at = self.folder.path().join("snapshots");
        let entries = fs::read_dir(at).unwrap();
        let mut names: Vec<_> =
            entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort_unstable();
        names
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("snapshots").join(name)
    }

    async fn assert_clean(&self) {
        for check in self.snapshots.check().await.unwrap() {
            assert!(check.is_clean(), "{check:?}");
        }
    }
}

fn ns() -> shim_protocol::Id {
    id("ns")
}

fn new(key: &str, parent: &str) -> New {
    New { key: key.into(), parent: parent.into(), labels: Labels::new() }
}

fn kind<T>(outcome: Result<T>) -> Option<ErrorKind> {
    outcome.err().as_ref().map(Error::kind)
}
