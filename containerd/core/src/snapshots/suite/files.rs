//! What is in snapshots when they are mounted.

use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown};

use super::*;

pub async fn layers_build_upon_each_other(rig: &Rig) {
    rig.layer("one", "", |root| {
        fs::write(root.join("foo"), "foo").unwrap();
        fs::create_dir_all(root.join("a/b/c")).unwrap();
    })
    .await;
    let one = rig.look("one", tree).await;
    assert_eq!(one.keys().collect::<Vec<_>>(), ["a", "a/b", "a/b/c", "foo"]);
    let mounts = rig.snapshotter.prepare("next", "one", Labels::new()).await.unwrap();
    let first = mounted(&mounts, |root| {
        let first = tree(root);
        fs::write(root.join("bar"), "bar").unwrap();
        fs::write(root.join("foo"), "changed").unwrap();
        fs::remove_dir_all(root.join("a/b")).unwrap();
        first
    });
    assert_eq!(first, one);
    // What was written stays, mounted again or not.
    let again = mounted(&rig.snapshotter.mounts("next").await.unwrap(), tree);
    rig.snapshotter.commit("two", "next", "", Labels::new()).await.unwrap();
    let two = rig.look("two", tree).await;
    assert_eq!(two, again);
    assert_eq!(two.keys().collect::<Vec<_>>(), ["a", "bar", "foo"]);
    assert_eq!((two["foo"].3.as_str(), two["bar"].3.as_str()), ("changed", "bar"));
    assert_eq!(rig.look("one", tree).await, one);
}

pub async fn removed_files_stay_removed(rig: &Rig) {
    rig.layer("one", "", |root| {
        fs::write(root.join("kept"), "").unwrap();
        fs::write(root.join("removed"), "").unwrap();
        fs::create_dir(root.join("folder")).unwrap();
        fs::write(root.join("folder/inside"), "").unwrap();
    })
    .await;
    rig.layer("two", "one", |root| {
        fs::remove_file(root.join("removed")).unwrap();
        fs::remove_dir_all(root.join("folder")).unwrap();
    })
    .await;
    rig.layer("three", "two", |root| fs::write(root.join("more"), "").unwrap()).await;
    let three = rig.look("three", tree).await;
    assert_eq!(three.keys().collect::<Vec<_>>(), ["kept", "more"]);
}

pub async fn folders_are_replaced(rig: &Rig) {
    rig.layer("one", "", |root| {
        fs::create_dir_all(root.join("folder/deep")).unwrap();
        fs::write(root.join("folder/old"), "").unwrap();
        fs::write(root.join("file"), "").unwrap();
    })
    .await;
    rig.layer("two", "one", |root| {
        fs::remove_dir_all(root.join("folder")).unwrap();
        fs::create_dir(root.join("folder")).unwrap();
        fs::write(root.join("folder/new"), "").unwrap();
        fs::remove_file(root.join("file")).unwrap();
        fs::create_dir(root.join("file")).unwrap();
    })
    .await;
    let two = rig.look("two", tree).await;
    assert_eq!(two.keys().collect::<Vec<_>>(), ["file", "folder", "folder/new"]);
    assert_eq!(two["file"].0 & libc_dir(), libc_dir());
}

/// The type of a folder in a mode (stat(2)).
fn libc_dir() -> u32 {
    0o40_000
}

pub async fn owners_and_modes_are_kept(rig: &Rig) {
    rig.layer("one", "", |root| {
        for folder in ["changed", "same"] {
            fs::create_dir(root.join(folder)).unwrap();
            lchown(root.join(folder), Some(100), Some(200)).unwrap();
        }
        fs::write(root.join("file"), "text").unwrap();
        fs::set_permissions(root.join("file"), PermissionsExt::from_mode(0o4755)).unwrap();
    })
    .await;
    rig.layer("two", "one", |root| {
        lchown(root.join("changed"), Some(1), Some(2)).unwrap();
        fs::set_permissions(root.join("changed"), PermissionsExt::from_mode(0o1777)).unwrap();
        lchown(root.join("file"), Some(3), Some(4)).unwrap();
    })
    .await;
    let two = rig.look("two", tree).await;
    assert_eq!((two["changed"].0 & 0o7777, two["changed"].1, two["changed"].2), (0o1777, 1, 2));
    assert_eq!((two["same"].1, two["same"].2), (100, 200));
    assert_eq!((two["file"].1, two["file"].2, two["file"].3.as_str()), (3, 4, "text"));
    let one = rig.look("one", tree).await;
    assert_eq!((one["changed"].1, one["file"].1), (100, 0));
    assert_eq!(one["file"].0 & 0o7777, 0o4755);
}

pub async fn files_move_and_have_two_names(rig: &Rig) {
    rig.layer("one", "", |root| {
        fs::create_dir(root.join("dir1")).unwrap();
        fs::write(root.join("dir1/f1"), "Hello").unwrap();
        fs::create_dir(root.join("dir2")).unwrap();
        fs::write(root.join("dir2/f2"), "...").unwrap();
    })
    .await;
    rig.layer("two", "one", |root| {
        fs::create_dir(root.join("dir3")).unwrap();
        fs::rename(root.join("dir1/f1"), root.join("dir3/f1")).unwrap();
        fs::remove_dir(root.join("dir1")).unwrap();
        fs::hard_link(root.join("dir2/f2"), root.join("dir3/f2")).unwrap();
        fs::remove_file(root.join("dir2/f2")).unwrap();
        fs::hard_link(root.join("dir3/f2"), root.join("dir3/f3")).unwrap();
    })
    .await;
    rig.layer("three", "two", |root| fs::write(root.join("dir3/f1"), "changed").unwrap()).await;
    let (three, is_one) = rig
        .look("three", |root| {
            let inode = |path: &str| fs::metadata(root.join(path)).unwrap().ino();
            (tree(root), inode("dir3/f2") == inode("dir3/f3"))
        })
        .await;
    assert_eq!(three.keys().collect::<Vec<_>>(), ["dir2", "dir3", "dir3/f1", "dir3/f2", "dir3/f3"]);
    assert_eq!((three["dir3/f1"].3.as_str(), three["dir3/f2"].3.as_str()), ("changed", "..."));
    assert!(is_one);
}

pub async fn views_are_read_only(rig: &Rig) {
    rig.layer("one", "", |root| fs::write(root.join("file"), "").unwrap()).await;
    rig.layer("two", "one", |root| fs::write(root.join("more"), "").unwrap()).await;
    for parent in ["", "one", "two"] {
        let mounts = rig.snapshotter.view("view", parent, Labels::new()).await.unwrap();
        let refused = mounted(&mounts, |root| fs::write(root.join("new"), "")).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem, "{parent:?}");
        rig.snapshotter.remove("view").await.unwrap();
    }
}

pub async fn the_root_is_for_all(rig: &Rig) {
    let mode = |root: &Path| fs::metadata(root.join(".")).unwrap().mode() & 0o7777;
    let mounts = rig.snapshotter.prepare("one", "", Labels::new()).await.unwrap();
    assert_eq!(mounted(&mounts, mode), 0o755);
    rig.snapshotter.commit("base", "one", "", Labels::new()).await.unwrap();
    let mounts = rig.snapshotter.prepare("two", "base", Labels::new()).await.unwrap();
    assert_eq!(mounted(&mounts, mode), 0o755);
}

pub async fn usage_is_measured(rig: &Rig) {
    const BYTES: usize = 1 << 20;
    let s = &rig.snapshotter;
    let mounts = s.prepare("active", "", Labels::new()).await.unwrap();
    let empty = s.usage("active").await.unwrap();
    mounted(&mounts, |root| {
        // Not all the same: some filesystems would notice.
        let bytes: Vec<u8> = (0..BYTES).map(|i| (i * 31 % 251) as u8).collect();
        fs::write(root.join("a"), bytes).unwrap();
        fs::hard_link(root.join("a"), root.join("b")).unwrap();
        fs::File::open(root.join("a")).unwrap().sync_all().unwrap();
    });
    let full = s.usage("active").await.unwrap();
    assert_eq!(full.inodes, empty.inodes + 1);
    assert!(full.size >= empty.size + BYTES as u64, "{empty:?} {full:?}");
    assert!(full.size < empty.size + 2 * BYTES as u64, "{empty:?} {full:?}");
    s.commit("committed", "active", "", Labels::new()).await.unwrap();
    assert_eq!(s.usage("committed").await.unwrap(), full);
}

pub async fn cleanup_takes_only_what_is_left(rig: &Rig) {
    let s = &rig.snapshotter;
    rig.layer("base", "", |root| fs::write(root.join("file"), "kept").unwrap()).await;
    s.prepare("removed", "base", Labels::new()).await.unwrap();
    s.prepare("active", "base", Labels::new()).await.unwrap();
    s.remove("removed").await.unwrap();
    s.cleanup().await.unwrap();
    assert_eq!(rig.names(&[]).await, ["active", "base"]);
    let seen = mounted(&s.mounts("active").await.unwrap(), tree);
    assert_eq!(seen["file"].3, "kept");
}
