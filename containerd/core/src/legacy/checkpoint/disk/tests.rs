use std::{os::unix::fs::symlink, time::Duration};

use super::{super::folder_of, *};

fn place(all: &Path, name: &str) -> Place {
    make(all).unwrap();
    Place::new(all.to_owned(), &Id::new("checkpoint name", name).unwrap())
}

fn checkpoint(name: &str) -> Checkpoint {
    Checkpoint {
        name: name.into(),
        created: SystemTime::UNIX_EPOCH + Duration::from_nanos(1_449_270_554_915_868_934),
        exit: true,
        tcp: false,
        unix_sockets: true,
        shell: false,
    }
}

#[test]
fn made_listed_and_removed() {
    let bundle = tempfile::tempdir().unwrap();
    let folder = folder_of(bundle.path());
    assert_eq!(list(&folder).unwrap(), []);
    for name in ["b", "a"] {
        let made = place(&folder, name).begin(&checkpoint(name), Tasks::Ended).unwrap();
        assert!(made.join(CONFIG).exists());
        place(&folder, name).finish().unwrap();
    }
    let again = place(&folder, "a").begin(&checkpoint("a"), Tasks::Ended).unwrap_err();
    assert_eq!(again.kind(), ErrorKind::AlreadyExists);
    assert_eq!(list(&folder).unwrap(), [checkpoint("a"), checkpoint("b")]);
    place(&folder, "a").remove(Tasks::Ended).unwrap();
    assert!(place(&folder, "a").remove(Tasks::Ended).unwrap_err().is_not_found());
    assert_eq!(list(&folder).unwrap(), [checkpoint("b")]);
}

#[test]
fn what_is_not_whole_is_not_seen_and_is_swept_away() {
    let bundle = tempfile::tempdir().unwrap();
    let folder = folder_of(bundle.path());
    let names = || {
        let entries = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<_> = entries.map(|name| name.into_string().unwrap()).collect();
        names.sort();
        names
    };
    let leave = || {
        for hidden in [".a.new", ".b.removed", ".mine", ".c d.new"] {
            fs::create_dir_all(folder.join(hidden).join("inner")).unwrap();
        }
    };
    leave();
    assert_eq!(list(&folder).unwrap(), []);
    // Not every shim locks what it writes to.
    place(&folder, "c").begin(&checkpoint("c"), Tasks::Live).unwrap();
    assert_eq!(names(), [".a.new", ".c d.new", ".c.new", ".mine"]);
    let refused = place(&folder, "a").begin(&checkpoint("a"), Tasks::Live).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unavailable);
    leave();
    place(&folder, "a").begin(&checkpoint("a"), Tasks::Ended).unwrap();
    assert_eq!(names(), [".a.new", ".c d.new", ".mine"]);
    assert!(!folder.join(".a.new/inner").exists());
    assert_eq!(list(&folder).unwrap(), []);
    place(&folder, "a").finish().unwrap();
    leave();
    place(&folder, "a").remove(Tasks::Ended).unwrap();
    assert_eq!(names(), [".c d.new", ".mine"]);
    place(&folder, "a").discard().unwrap();
}

/// By a shim, for a daemon that is no more.
#[test]
fn what_is_still_written_to_stays() {
    let bundle = tempfile::tempdir().unwrap();
    let folder = folder_of(bundle.path());
    let a = place(&folder, "a");
    let new = a.begin(&checkpoint("a"), Tasks::Ended).unwrap();
    let held = images::lock(&new).unwrap().unwrap();
    let refused = a.begin(&checkpoint("a"), Tasks::Ended).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unavailable);
    assert!(refused.to_string().contains(".a.new"), "{refused}");
    place(&folder, "b").begin(&checkpoint("b"), Tasks::Ended).unwrap();
    assert!(new.join(CONFIG).exists());
    drop(held);
    assert_eq!(a.begin(&checkpoint("a"), Tasks::Ended).unwrap(), new);
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
}

#[test]
fn one_whose_configuration_is_torn_hides_no_other() {
    let bundle = tempfile::tempdir().unwrap();
    let folder = folder_of(bundle.path());
    fs::create_dir_all(folder.join("torn")).unwrap();
    fs::write(folder.join("torn").join(CONFIG), "{\"created\":\"20").unwrap();
    place(&folder, "b").begin(&checkpoint("b"), Tasks::Ended).unwrap();
    place(&folder, "b").finish().unwrap();
    assert_eq!(list(&folder).unwrap(), [checkpoint("b")]);
    place(&folder, "torn").remove(Tasks::Ended).unwrap();
    assert!(!folder.join("torn").exists());
}

#[test]
fn one_without_a_configuration_has_the_time_of_its_folder() {
    let bundle = tempfile::tempdir().unwrap();
    let folder = folder_of(bundle.path());
    fs::create_dir_all(folder.join("old")).unwrap();
    let modified = fs::metadata(folder.join("old")).unwrap().modified().unwrap();
    let listed = list(&folder).unwrap();
    assert_eq!((listed[0].name.as_str(), listed[0].created), ("old", modified));
    assert!(!listed[0].exit && !listed[0].unix_sockets);
}

#[test]
fn go_times_with_an_offset_are_read() {
    let bundle = tempfile::tempdir().unwrap();
    let folder = folder_of(bundle.path());
    fs::create_dir_all(folder.join("a")).unwrap();
    let text = r#"{"created":"2015-12-04T15:09:14.915868934-08:00","name":"a","tcp":true}"#;
    fs::write(folder.join("a/config.json"), text).unwrap();
    let listed = list(&folder).unwrap();
    assert_eq!(listed[0].created, checkpoint("a").created);
    assert!(listed[0].tcp);
}

#[test]
fn links_lead_nowhere() {
    let bundle = tempfile::tempdir().unwrap();
    let precious = bundle.path().join("precious");
    fs::create_dir(&precious).unwrap();
    fs::write(precious.join("file"), "").unwrap();
    let folder = folder_of(bundle.path());
    fs::create_dir_all(folder.join("a")).unwrap();
    symlink(&precious, folder.join("link")).unwrap();
    symlink(&precious, folder.join("a/link")).unwrap();
    assert!(place(&folder, "link").remove(Tasks::Ended).unwrap_err().is_not_found());
    assert_eq!(list(&folder).unwrap().len(), 1);
    place(&folder, "a").remove(Tasks::Ended).unwrap();
    assert!(precious.join("file").exists());
}
