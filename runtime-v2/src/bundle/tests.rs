use std::{fs::File, os::unix::fs::MetadataExt};

use nix::mount::{MsFlags, mount};
use tempfile::TempDir;

use super::*;
use crate::Timeouts;

const SHIM: &str = "/usr/bin/shim";

fn world() -> (TempDir, Bundle) {
    let folder = tempfile::tempdir().unwrap();
    let config = ManagerConfig {
        root: folder.path().join("root"),
        state: folder.path().join("state"),
        grpc_address: String::new(),
        ttrpc_address: String::new(),
        env: Vec::new(),
        debug: false,
        timeouts: Timeouts::default(),
    };
    let id = |text| Id::new("id", text).unwrap();
    let bundle = Bundle::at(&config, &id("ns"), &id("a"));
    (folder, bundle)
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o777
}

#[test]
fn the_layout_is_the_one_that_go_shims_know() {
    let (folder, bundle) = world();
    bundle.create(b"{}", SHIM.as_ref()).unwrap();
    bundle.create_work().unwrap();
    let path = bundle.path();
    assert_eq!(path, folder.path().join("state/ns/a"));
    assert_eq!(fs::read(path.join("config.json")).unwrap(), b"{}");
    let work = folder.path().join("root/ns/a");
    assert_eq!(fs::read_link(path.join("work")).unwrap(), work);
    assert_eq!(mode(path), 0o700);
    for passable in [path.parent().unwrap(), &path.join("rootfs"), &work, work.parent().unwrap()] {
        assert_eq!(mode(passable), 0o711, "{}", passable.display());
    }
    assert!(
        bundle.create(b"{}", SHIM.as_ref()).is_err_and(|e| e.kind() == ErrorKind::AlreadyExists)
    );
    bundle.remove().unwrap();
    assert!(!path.exists() && !work.exists());
    bundle.remove().unwrap();
}

#[test]
fn fifos_among_the_notes_are_not_waited_for() {
    let (_folder, bundle) = world();
    bundle.create(b"{}", SHIM.as_ref()).unwrap();
    fs::remove_file(bundle.path().join(SHIM_BINARY)).unwrap();
    for name in [SHIM_BINARY, BOOTSTRAP, INIT_PID, "e.pid"] {
        mkfifo(&bundle.path().join(name), Mode::S_IRWXU).unwrap();
    }
    assert!(bundle.bootstrap().is_err());
    assert!(bundle.shim_binary().is_err());
    assert_eq!(bundle.init_pid(), None);
    assert_eq!(bundle.noted_execs().unwrap(), []);
    bundle.remove().unwrap();
}

#[test]
fn root_of_a_user_namespace_may_enter() {
    let (_folder, bundle) = world();
    let spec = br#"{"linux":{"gidMappings":[
        {"containerID":5,"hostID":1,"size":1},{"containerID":0,"hostID":1000,"size":5}]}}"#;
    bundle.create(spec, SHIM.as_ref()).unwrap();
    assert_eq!(mode(bundle.path()), 0o710);
    assert_eq!(fs::metadata(bundle.path()).unwrap().gid(), 1000);
}

#[test]
fn a_configuration_that_makes_no_sense_leaves_nothing() {
    let (folder, bundle) = world();
    for spec in ["", "{", "[]", r#"{"linux":{"gidMappings":[{"hostID":"x"}]}}"#] {
        let error = bundle.create(spec.as_bytes(), SHIM.as_ref()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{spec}");
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn notes_come_back() {
    let (_folder, bundle) = world();
    bundle.create(b"{}", SHIM.as_ref()).unwrap();
    assert_eq!(bundle.bootstrap().unwrap(), None);
    assert_eq!(bundle.shim_binary().unwrap(), Some(SHIM.into()));
    fs::remove_file(bundle.path().join(SHIM_BINARY)).unwrap();
    assert_eq!(bundle.shim_binary().unwrap(), None);
    let bootstrap = Bootstrap::bare("unix:///s");
    bundle.write_bootstrap(&bootstrap).unwrap();
    assert_eq!(bundle.bootstrap().unwrap(), Some(bootstrap.clone()));
    // Daemons before 1.7 left the address only.
    fs::remove_file(bundle.path().join("bootstrap.json")).unwrap();
    assert_eq!(bundle.bootstrap().unwrap(), Some(bootstrap));
    fs::write(bundle.path().join("init.pid"), "12").unwrap();
    fs::write(bundle.path().join("e.1.pid"), "13\n").unwrap();
    fs::write(bundle.path().join("broken.pid"), "x").unwrap();
    assert_eq!(bundle.init_pid(), Some(12));
    assert_eq!(bundle.noted_execs().unwrap(), [(Id::new("id", "e.1").unwrap(), 13)]);
}

#[test]
fn what_is_mounted_survives_and_what_is_in_the_root_does_too() {
    let (folder, bundle) = world();
    bundle.create(b"{}", SHIM.as_ref()).unwrap();
    let precious = folder.path().join("precious");
    fs::create_dir(&precious).unwrap();
    fs::write(precious.join("file"), "data").unwrap();
    let rootfs = bundle.path().join("rootfs");
    let bind = || {
        mount(Some(&precious), &rootfs, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
    };
    // Twice, as after a create that was tried twice.
    bind();
    bind();
    bundle.remove().unwrap();
    assert_eq!(fs::read_to_string(precious.join("file")).unwrap(), "data");

    bundle.create(b"{}", SHIM.as_ref()).unwrap();
    fs::write(rootfs.join("file"), "data").unwrap();
    let error = bundle.remove().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
    assert_eq!(fs::read_to_string(rootfs.join("file")).unwrap(), "data");
}

#[test]
fn images_that_are_left_are_removed_unless_they_are_in_use() {
    let (_folder, bundle) = world();
    assert!(bundle.left_images(true).unwrap().is_empty());
    bundle.create(b"{}", SHIM.as_ref()).unwrap();
    bundle.create_work().unwrap();
    let [left, used] = [(); 2].map(|()| bundle.make_checkpoint_folder().unwrap());
    fs::write(left.join("core-1.img"), "image").unwrap();
    let restore = bundle.make_restore_folder().unwrap();
    assert_eq!((mode(&left), mode(&restore)), (0o700, 0o700));
    bundle.remove_restore_folder().unwrap();
    bundle.remove_restore_folder().unwrap();
    assert!(!restore.exists());

    bundle.make_restore_folder().unwrap();
    let half = [".restore", ".checkpoint-gone"].map(|name| left.with_file_name(name));
    half.iter().for_each(|folder| fs::create_dir(folder).unwrap());
    fs::write(half[0].join("core-1.img"), "image").unwrap();
    let other = left.with_file_name("dump.log");
    fs::write(&other, "log").unwrap();
    // A shim that takes no lock may still write to either.
    let written = bundle.left_images(false).unwrap().remove_unneeded().unwrap();
    assert!(written.is_empty() && left.exists() && used.exists() && other.exists());
    assert!(!restore.exists() && !half.iter().any(|folder| folder.exists()));
    let lock = File::open(&used).unwrap();
    lock.lock().unwrap();
    let written = bundle.left_images(true).unwrap().remove_unneeded().unwrap();
    assert!(left.exists(), "it may be all that is left of the task");
    written.remove().unwrap();
    assert!(!left.exists() && used.exists());
    drop(lock);
    bundle.left_images(true).unwrap().remove_unneeded().unwrap().remove().unwrap();
    assert!(!used.exists() && other.exists());
    let last = bundle.make_checkpoint_folder().unwrap();
    bundle.remove().unwrap();
    assert!(!last.exists(), "it goes with the bundle");
}
