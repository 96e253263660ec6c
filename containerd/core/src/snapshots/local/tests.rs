//! What is particular to our own snapshotters.

use std::{fs, os::unix::fs::MetadataExt};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use shim_protocol::ErrorKind;

use super::*;
use crate::{
    snapshots::{
        GID_MAPPING_LABEL, UID_MAPPING_LABEL,
        testing::{config, overlays},
    },
    testing::{World, labels},
};

async fn open(root: &Path, layout: Layout) -> Local {
    Local::open(config(root, layout), World::new().db).await.unwrap()
}

async fn layer(local: &Local, name: &str, parent: &str) {
    local.prepare("tmp", parent, Labels::new()).await.unwrap();
    local.commit(name, "tmp", "", Labels::new()).await.unwrap();
}

#[tokio::test]
async fn overlays_are_mounted_as_containerd_does() {
    let folder = tempfile::tempdir().unwrap();
    let local = open(folder.path(), overlays()).await;
    let at = |path: &str| format!("{}/snapshots/{path}", folder.path().display());
    let one = |mounts: Vec<Mount>| <[Mount; 1]>::try_from(mounts).unwrap();

    let [mount] = one(local.prepare("a", "", Labels::new()).await.unwrap());
    assert_eq!((mount.kind.as_str(), mount.source), ("bind", at("1/fs")));
    assert_eq!(mount.options, ["rw", "rbind"]);
    local.commit("one", "a", "", Labels::new()).await.unwrap();
    let [mount] = one(local.view("v0", "", Labels::new()).await.unwrap());
    assert_eq!((mount.source, mount.options), (at("2/fs"), vec!["ro".into(), "rbind".into()]));
    let [mount] = one(local.view("v1", "one", Labels::new()).await.unwrap());
    assert_eq!((mount.source, mount.options), (at("1/fs"), vec!["ro".into(), "rbind".into()]));

    let [mount] = one(local.prepare("b", "one", Labels::new()).await.unwrap());
    assert_eq!((mount.kind.as_str(), mount.source.as_str()), ("overlay", "overlay"));
    let expected = [
        format!("workdir={}", at("4/work")),
        format!("upperdir={}", at("4/fs")),
        format!("lowerdir={}", at("1/fs")),
        "index=off".into(),
    ];
    assert_eq!(mount.options, expected);
    local.commit("two", "b", "", Labels::new()).await.unwrap();
    let [mount] = one(local.view("v2", "two", Labels::new()).await.unwrap());
    let lower = format!("lowerdir={}:{}", at("4/fs"), at("1/fs"));
    assert_eq!(mount.options, [lower, "index=off".into()]);
    let mode = |path: &str| fs::metadata(at(path)).unwrap().mode() & 0o7777;
    assert_eq!((mode("4"), mode("4/fs"), mode("4/work")), (0o700, 0o755, 0o711));
    assert!(!fs::exists(at("5/work")).unwrap());
}

#[tokio::test]
async fn options_and_labels_of_overlays_by_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let options = OverlayConfig {
        mount_options: vec!["volatile".into(), "index=on".into()],
        upperdir_label: true,
        slow_chown: true,
    };
    let local = open(folder.path(), Layout::Overlay(options)).await;
    layer(&local, "one", "").await;
    let mounts = local.prepare("a", "one", Labels::new()).await.unwrap();
    assert_eq!(mounts[0].options[3..], ["volatile", "index=on"]);
    let upper = folder.path().join("snapshots/2/fs");
    let info = local.stat("a").await.unwrap();
    assert_eq!(info.labels, labels(&[(UPPER_LABEL, upper.to_str().unwrap())]));
    assert_eq!(local.list(&[]).await.unwrap()[0], info);
    assert_eq!(local.update("a", Labels::new(), &[]).await.unwrap().labels, info.labels);
    assert!(!local.capabilities().contains(&"only-remap-ids"));
    assert!(local.capabilities().contains(&"rebase"));
}

#[tokio::test]
async fn ids_are_mapped_by_labels() {
    let folder = tempfile::tempdir().unwrap();
    let local = open(folder.path(), overlays()).await;
    layer(&local, "one", "").await;
    let mapping =
        labels(&[(UID_MAPPING_LABEL, "0:1000:65536"), (GID_MAPPING_LABEL, "0:2000:65536")]);
    let owner = |id: u64| {
        let found = fs::metadata(folder.path().join(format!("snapshots/{id}/fs"))).unwrap();
        (found.uid(), found.gid())
    };
    for (id, (key, parent)) in [("a", ""), ("b", "one")].into_iter().enumerate() {
        let mounts = local.prepare(key, parent, mapping.clone()).await.unwrap();
        assert_eq!(mounts[0].options[..2], ["uidmap=0:1000:65536", "gidmap=0:2000:65536"]);
        assert_eq!(owner(id as u64 + 2), (1000, 2000));
    }
    // A child's folder has the owner of its parent's.
    local.commit("mapped", "b", "", Labels::new()).await.unwrap();
    local.prepare("c", "mapped", Labels::new()).await.unwrap();
    assert_eq!(owner(4), (1000, 2000));

    let half = labels(&[(UID_MAPPING_LABEL, "0:1000:65536")]);
    let refused = local.prepare("d", "one", half).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidArgument);
    assert!(!folder.path().join("snapshots/.new-5").exists());
}

#[tokio::test]
async fn btrfs_needs_btrfs() {
    let folder = tempfile::tempdir().unwrap();
    let refused = Local::open(config(folder.path(), Layout::Btrfs), World::new().db).await;
    let Err(error) = refused else { panic!("it is on btrfs") };
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
}

/// Something is mounted there, and nobody can remove it.
#[tokio::test]
async fn what_cannot_be_removed_is_left_to_a_cleanup() {
    let folder = tempfile::tempdir().unwrap();
    let settings = LocalConfig { sync_remove: true, ..config(folder.path(), overlays()) };
    let local = Local::open(settings, World::new().db).await.unwrap();
    local.prepare("a", "", Labels::new()).await.unwrap();
    let at = folder.path().join("snapshots/1/fs");
    if mount(Some("tmpfs"), &at, Some("tmpfs"), MsFlags::empty(), None::<&str>).is_err() {
        return;
    }
    assert!(!local.take_unswept());
    let refused = local.remove("a").await;
    let again = local.cleanup().await;
    umount2(&folder.path().join("snapshots/.rm-1/fs"), MntFlags::MNT_DETACH).unwrap();
    refused.unwrap_err();
    again.unwrap();
    assert!(local.take_unswept() && !local.take_unswept());
    local.cleanup().await.unwrap();
    assert_eq!(fs::read_dir(folder.path().join("snapshots")).unwrap().count(), 0);
    assert!(!local.take_unswept());
}

#[tokio::test]
async fn removed_files_are_gone_at_once_if_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let settings = LocalConfig { sync_remove: true, ..config(folder.path(), overlays()) };
    let local = Local::open(settings, World::new().db).await.unwrap();
    let mounts = local.prepare("a", "", Labels::new()).await.unwrap();
    fs::write(format!("{}/file", mounts[0].source), "x").unwrap();
    local.remove("a").await.unwrap();
    assert_eq!(fs::read_dir(folder.path().join("snapshots")).unwrap().count(), 0);
}
