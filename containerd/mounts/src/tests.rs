//! Real mounts, in a mount namespace of the test's own: nothing can be left.

use std::{
    fs::{self, File, Permissions},
    io,
    os::{
        fd::AsRawFd,
        unix::fs::{MetadataExt, PermissionsExt, chown, symlink},
    },
    path::Path,
    thread,
};

use caps::{CapSet, Capability};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::statvfs::{FsFlags, statvfs},
};
use shim_protocol::ErrorKind;
use tempfile::TempDir;

use crate::{Mount, mount::MAX_DATA_BYTES, mount_all, unmount_all, with_mounted};

/// True for root; else says that the test is skipped.
fn is_root(test: &str) -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("{test}: skipped, needs root");
    }
    root
}

/// Runs `test` in a mount namespace that dies with its thread.
fn isolated(name: &str, test: impl FnOnce(&Path) + Send) {
    if !is_root(name) {
        return;
    }
    let dir = TempDir::new().unwrap();
    thread::scope(|scope| {
        scope
            .spawn(|| {
                unshare(CloneFlags::CLONE_NEWNS).unwrap();
                let none = None::<&str>;
                mount(none, "/", none, MsFlags::MS_PRIVATE | MsFlags::MS_REC, none).unwrap();
                // Overlay cannot have its layers on an overlay; a test folder may be one.
                mount(Some("tmpfs"), dir.path(), Some("tmpfs"), MsFlags::empty(), none).unwrap();
                test(dir.path());
            })
            .join()
            .unwrap();
    });
}

fn a_mount(kind: &str, source: &Path, target: &str, options: &[&str]) -> Mount {
    Mount {
        kind: kind.into(),
        source: source.to_str().unwrap().into(),
        target: target.into(),
        options: options.iter().map(|option| (*option).into()).collect(),
    }
}

fn folder(path: &Path) -> &Path {
    fs::create_dir_all(path).unwrap();
    path
}

fn mounts_at(path: &Path) -> usize {
    // As thread: /proc/self is the process, whose namespace is another.
    let info = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    let point = path.to_str().unwrap();
    info.lines().filter(|line| line.split(' ').nth(4) == Some(point)).count()
}

#[test]
fn who_may_not_mount_is_told_so_at_once() {
    let dir = TempDir::new().unwrap();
    let (source, rootfs) = (dir.path().join("source"), dir.path().join("rootfs"));
    let request = [a_mount("bind", folder(&source), "", &["bind"])];
    thread::scope(|scope| {
        // Capabilities are a thread's own.
        let refused = scope.spawn(|| {
            caps::drop(None, CapSet::Effective, Capability::CAP_SYS_ADMIN).unwrap();
            mount_all(&request, &rootfs).unwrap_err()
        });
        let error = refused.join().unwrap();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        assert!(error.to_string().contains("CAP_SYS_ADMIN"), "{error}");
    });
    assert!(!rootfs.exists());
}

#[test]
fn overlay_with_flags_and_undo() {
    isolated("overlay_with_flags_and_undo", |dir| {
        let rootfs = dir.join("rootfs");
        fs::write(folder(&dir.join("lower")).join("file"), "below").unwrap();
        let (upper, work) = (dir.join("upper"), dir.join("work"));
        let (upper, work) = (folder(&upper), folder(&work));
        let data = [
            format!("lowerdir={}", dir.join("lower").display()),
            format!("upperdir={}", upper.display()),
            format!("workdir={}", work.display()),
        ];
        let options: Vec<&str> = data.iter().map(String::as_str).chain(["nodev"]).collect();
        mount_all(&[a_mount("overlay", Path::new("overlay"), "", &options)], &rootfs).unwrap();
        assert_eq!(fs::read_to_string(rootfs.join("file")).unwrap(), "below");
        assert!(statvfs(&rootfs).unwrap().flags().contains(FsFlags::ST_NODEV));
        fs::write(rootfs.join("new"), "above").unwrap();
        unmount_all(&rootfs).unwrap();
        unmount_all(&rootfs).unwrap();
        assert_eq!(fs::read_to_string(upper.join("new")).unwrap(), "above");
        assert_eq!(fs::read_dir(&rootfs).unwrap().count(), 0);
    });
}

#[test]
fn more_layers_than_a_page_of_options_holds() {
    isolated("more_layers_than_a_page_of_options_holds", |dir| {
        const LAYERS: usize = 128;
        let snapshots = dir.join("x".repeat(100)).join("snapshots");
        let lower: Vec<String> = (0..LAYERS)
            .map(|n| {
                let layer = snapshots.join(format!("{n}/fs"));
                fs::write(folder(&layer).join(format!("file-{n}")), "").unwrap();
                layer.to_str().unwrap().into()
            })
            .collect();
        let options = format!("lowerdir={}", lower.join(":"));
        assert!(options.len() > 3 * MAX_DATA_BYTES);
        let before = std::env::current_dir().unwrap();
        let rootfs = dir.join("rootfs");
        mount_all(&[a_mount("overlay", Path::new("overlay"), "", &[&options])], &rootfs).unwrap();
        assert_eq!(fs::read_dir(&rootfs).unwrap().count(), LAYERS);
        assert_eq!(std::env::current_dir().unwrap(), before);
        unmount_all(&rootfs).unwrap();

        let other = a_mount("tmpfs", Path::new("tmpfs"), "", &[&options]);
        let error = mount_all(&[other], &rootfs).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error:?}");
    });
}

#[test]
fn a_bind_mount_is_read_only_and_private() {
    isolated("a_bind_mount_is_read_only_and_private", |dir| {
        let (source, rootfs) = (dir.join("source"), dir.join("rootfs"));
        let bind = a_mount("bind", folder(&source), "", &["rbind", "ro", "nosuid", "rprivate"]);
        mount_all(&[bind], &rootfs).unwrap();
        let flags = statvfs(&rootfs).unwrap().flags();
        assert!(flags.contains(FsFlags::ST_RDONLY | FsFlags::ST_NOSUID));
        assert!(fs::write(rootfs.join("file"), "").is_err());
        assert!(fs::write(source.join("file"), "").is_ok());
        unmount_all(&rootfs).unwrap();
    });
}

#[test]
fn a_link_in_the_image_does_not_lead_out() {
    isolated("a_link_in_the_image_does_not_lead_out", |dir| {
        let (outside, rootfs) = (dir.join("outside"), dir.join("rootfs"));
        folder(&outside);
        let image = dir.join("image");
        folder(&image.join("inside"));
        symlink("/inside", image.join("link")).unwrap();
        symlink("../../outside", image.join("escape")).unwrap();
        let tmpfs = |target| a_mount("tmpfs", Path::new("tmpfs"), target, &[]);
        let bind = a_mount("bind", &image, "", &["rbind"]);
        mount_all(&[bind.clone(), tmpfs("/link")], &rootfs).unwrap();
        assert_eq!(mounts_at(&rootfs.join("inside")), 1);
        unmount_all(&rootfs).unwrap();
        assert_eq!(mounts_at(&rootfs.join("inside")), 0);

        // "outside" does not exist below the rootfs.
        assert!(mount_all(&[bind, tmpfs("escape")], &rootfs).is_err());
        assert_eq!((mounts_at(&outside), mounts_at(&rootfs)), (0, 0));
    });
}

#[test]
fn each_failing_step_undoes_those_before() {
    isolated("each_failing_step_undoes_those_before", |dir| {
        let rootfs = dir.join("rootfs");
        let good = a_mount("tmpfs", Path::new("tmpfs"), "", &[]);
        let bad = a_mount("no-such-filesystem", Path::new("x"), "", &[]);
        for count in 0..3 {
            let mut mounts = vec![good.clone(); count];
            mounts.push(bad.clone());
            let error = mount_all(&mounts, &rootfs).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error:?}");
            assert_eq!(mounts_at(&rootfs), 0);
        }
    });
}

#[test]
fn unmounting_a_twin_leaves_the_original() {
    isolated("unmounting_a_twin_leaves_the_original", |dir| {
        let (source, rootfs) = (dir.join("source"), dir.join("rootfs"));
        let none = None::<&str>;
        let tmpfs = |path: &Path| {
            mount(Some("tmpfs"), folder(path), Some("tmpfs"), MsFlags::empty(), none).unwrap();
        };
        tmpfs(&source);
        mount(none, &source, none, MsFlags::MS_SHARED, none).unwrap();
        tmpfs(&source.join("sub"));
        mount_all(&[a_mount("bind", &source, "", &["rbind"])], &rootfs).unwrap();
        assert_eq!(mounts_at(&rootfs.join("sub")), 1);
        unmount_all(&rootfs).unwrap();
        assert_eq!(mounts_at(&rootfs.join("sub")), 0);
        assert_eq!(mounts_at(&source.join("sub")), 1);
    });
}

#[test]
fn a_busy_mount_goes_too() {
    isolated("a_busy_mount_goes_too", |dir| {
        let rootfs = dir.join("rootfs");
        mount_all(&[a_mount("tmpfs", Path::new("tmpfs"), "", &[])], &rootfs).unwrap();
        fs::write(rootfs.join("file"), "held").unwrap();
        let held = File::open(rootfs.join("file")).unwrap();
        unmount_all(&rootfs).unwrap();
        assert_eq!(mounts_at(&rootfs), 0);
        assert_eq!(io::read_to_string(held).unwrap(), "held");
    });
}

#[test]
fn the_rootfs_is_no_link_and_may_be_missing() {
    isolated("the_rootfs_is_no_link_and_may_be_missing", |dir| {
        let (real, link) = (dir.join("real"), dir.join("link"));
        symlink(folder(&real), &link).unwrap();
        let tmpfs = a_mount("tmpfs", Path::new("tmpfs"), "", &[]);
        assert!(mount_all(&[tmpfs], &link).is_err());
        assert_eq!(mounts_at(&real), 0);
        assert_eq!(unmount_all(&link).unwrap_err().kind(), ErrorKind::FailedPrecondition);
        unmount_all(&dir.join("missing")).unwrap();
        mount_all(&[], &dir.join("made")).unwrap();
        let mode = fs::metadata(dir.join("made")).unwrap().permissions();
        assert_eq!(mode.mode() & 0o777, Permissions::from_mode(0o711).mode());
    });
}

#[test]
fn what_is_mounted_for_a_while_nobody_else_sees() {
    if !is_root("what_is_mounted_for_a_while_nobody_else_sees") {
        return;
    }
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("file"), "inside").unwrap();
    let bind = a_mount("bind", dir.path(), "", &["rbind", "ro"]);
    let read = with_mounted(std::slice::from_ref(&bind), |folder| {
        let file = format!("/proc/thread-self/fd/{}/file", folder.as_raw_fd());
        assert!(fs::write(&file, "").is_err());
        Ok(fs::read_to_string(file).unwrap())
    });
    assert_eq!(read.unwrap(), "inside");
    assert!(Path::new("/sys/kernel").exists());

    let missing = a_mount("bind", &dir.path().join("missing"), "", &["rbind"]);
    let error = with_mounted(&[bind, missing], |_| Ok(())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
}

#[test]
fn files_belong_to_whom_they_are_mapped() {
    isolated("files_belong_to_whom_they_are_mapped", |dir| {
        let owner = |path: &Path| {
            let metadata = fs::metadata(path).unwrap();
            (metadata.uid(), metadata.gid())
        };
        let (rootfs, snapshots) = (dir.join("rootfs"), dir.join("snapshots"));
        for layer in ["1", "2"] {
            let layer = snapshots.join(layer);
            fs::write(folder(&layer.join("fs")).join(layer.file_name().unwrap()), "").unwrap();
        }
        chown(snapshots.join("1/fs/1"), Some(7), Some(8)).unwrap();
        folder(&snapshots.join("3/fs"));
        folder(&snapshots.join("3/work"));
        let path = |name: &str| snapshots.join(name).display().to_string();
        let options = [
            format!("workdir={}", path("3/work")),
            format!("upperdir={}", path("3/fs")),
            format!("lowerdir={}:{}", path("2/fs"), path("1/fs")),
            "uidmap=0:1000:100".into(),
            "gidmap=0:2000:100".into(),
        ];
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let overlay = a_mount("overlay", Path::new("overlay"), "", &options);
        mount_all(&[overlay], &rootfs).unwrap();
        assert_eq!(owner(&rootfs.join("1")), (1007, 2008));
        assert_eq!(owner(&rootfs.join("2")), (1000, 2000));
        fs::write(rootfs.join("3"), "").unwrap();
        assert_eq!(mounts_at(&rootfs), 1);
        unmount_all(&rootfs).unwrap();
        assert!(snapshots.join("3/fs/3").exists());
        assert_eq!(owner(&snapshots.join("1/fs/1")), (7, 8));

        let options = ["rbind", "ro", "uidmap=0:1000:100", "gidmap=0:2000:100"];
        mount_all(&[a_mount("bind", &snapshots.join("1/fs"), "", &options)], &rootfs).unwrap();
        assert_eq!(owner(&rootfs.join("1")), (1007, 2008));
        assert!(fs::write(rootfs.join("4"), "").is_err());
        assert_eq!(mounts_at(&rootfs), 1);
        unmount_all(&rootfs).unwrap();

        let half = a_mount("bind", &snapshots, "", &["rbind", "uidmap=0:1000:100"]);
        assert_eq!(mount_all(&[half], &rootfs).unwrap_err().kind(), ErrorKind::InvalidArgument);
        assert_eq!(mounts_at(&rootfs), 0);
    });
}
