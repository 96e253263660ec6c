//! Snapshotters for tests.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use async_trait::async_trait;
use nix::mount::{MntFlags, umount2};
use shim_protocol::{Id, Result};
use tempfile::TempDir;

use super::{
    Backend, Commit, Info, Labels, Layout, Local, LocalConfig, New, OverlayConfig, Snapshots,
    Snapshotter, Usage,
};
use crate::{Mount, announce::Announcer, metadata::Db};

/// The name of the snapshotter in tests.
pub(crate) const NAME: &str = "test";

/// Settings of a snapshotter in `root`.
pub(crate) fn config(root: &Path, layout: Layout) -> LocalConfig {
    LocalConfig {
        name: NAME.into(),
        root: root.to_owned(),
        layout,
        foreign: false,
        sync_remove: false,
    }
}

/// Overlays without further settings.
pub(crate) fn overlays() -> Layout {
    Layout::Overlay(OverlayConfig::default())
}

/// All snapshots, with one snapshotter of our own in `root`.
pub(crate) async fn snapshots(
    db: &Db,
    announcer: &Announcer,
    root: &Path,
    layout: Layout,
) -> Result<Snapshots> {
    let local = Local::open(config(root, layout), db.clone()).await?;
    let backends = BTreeMap::from([(NAME.to_owned(), Backend::Local(local))]);
    Snapshots::open(db.clone(), announcer.clone(), backends).await
}

/// What a namespace sees, as a snapshotter.
pub(crate) struct InNamespace {
    pub(crate) snapshots: Snapshots,
    pub(crate) namespace: Id,
}

#[async_trait]
impl Snapshotter for InNamespace {
    async fn stat(&self, key: &str) -> Result<Info> {
        self.snapshots.stat(&self.namespace, NAME, key).await
    }

    async fn update(&self, key: &str, labels: Labels, paths: &[String]) -> Result<Info> {
        self.snapshots.update(&self.namespace, NAME, key, labels, paths).await
    }

    async fn usage(&self, key: &str) -> Result<Usage> {
        self.snapshots.usage(&self.namespace, NAME, key).await
    }

    async fn mounts(&self, key: &str) -> Result<Vec<Mount>> {
        self.snapshots.mounts(&self.namespace, NAME, key).await
    }

    async fn prepare(&self, key: &str, parent: &str, labels: Labels) -> Result<Vec<Mount>> {
        let new = New { key: key.into(), parent: parent.into(), labels };
        self.snapshots.prepare(&self.namespace, NAME, new, None).await
    }

    async fn view(&self, key: &str, parent: &str, labels: Labels) -> Result<Vec<Mount>> {
        let new = New { key: key.into(), parent: parent.into(), labels };
        self.snapshots.view(&self.namespace, NAME, new, None).await
    }

    async fn commit(&self, name: &str, key: &str, parent: &str, labels: Labels) -> Result<()> {
        let (name, key, parent) = (name.into(), key.into(), parent.into());
        let commit = Commit { name, key, parent, labels };
        self.snapshots.commit(&self.namespace, NAME, commit, None).await
    }

    async fn remove(&self, key: &str) -> Result<()> {
        self.snapshots.remove(&self.namespace, NAME, key, None).await
    }

    async fn list(&self, filters: &[String]) -> Result<Vec<Info>> {
        self.snapshots.list(&self.namespace, NAME, filters).await
    }

    async fn cleanup(&self) -> Result<()> {
        self.snapshots.cleanup(NAME).await
    }
}

/// A snapshotter of our own as if it were another process.
pub(crate) fn remote(local: Local) -> BTreeMap<String, Backend> {
    BTreeMap::from([(NAME.to_owned(), Backend::Remote(Arc::new(local)))])
}

/// A filesystem of btrfs in a file.
pub(crate) struct Btrfs {
    mounted: PathBuf,
    _folder: TempDir,
}

impl Btrfs {
    /// None where this machine cannot make one.
    pub(crate) fn make() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let (image, mounted) = (folder.path().join("image"), folder.path().join("mounted"));
        File::create(&image).unwrap().set_len(512 << 20).unwrap();
        fs::create_dir(&mounted).unwrap();
        let run = |program: &str, args: &[&Path]| {
            let output = Command::new(program).args(args).output();
            output.is_ok_and(|output| output.status.success())
        };
        let made = run("mkfs.btrfs", &["-q".as_ref(), &image])
            && run("mount", &["-o".as_ref(), "loop".as_ref(), &image, &mounted]);
        made.then_some(Self { mounted, _folder: folder })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.mounted
    }
}

impl Drop for Btrfs {
    fn drop(&mut self) {
        // The loop device goes with its last user.
        umount2(&self.mounted, MntFlags::MNT_DETACH).unwrap();
    }
}
