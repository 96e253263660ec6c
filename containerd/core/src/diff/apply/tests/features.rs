//! What is in archives is on disk afterwards.

use std::os::unix::{
    ffi::OsStrExt,
    fs::{FileTypeExt, MetadataExt, symlink},
};

use rustix::fs::{XattrFlags, lgetxattr, lsetxattr};

use super::{archive::Head, *};

#[test]
fn files_folders_and_links() {
    let bed = Bed::new();
    let archive = Archive::new()
        .folder("./")
        .folder("a/")
        .entry(&Head { size: 2, mode: 0o4751, owner: (12, 34), ..Head::new(b'0', "a/f") }, b"hi")
        .symlink("a/l", "../../../etc")
        .hard_link("a/h", "a/f")
        .file("implied/deep/f", "x")
        .entry(&Head { owner: (5, 6), mode: 0o1777, ..Head::new(b'5', "t") }, b"")
        .entry(&Head { mode: 0o2755, ..Head::new(b'5', "g") }, b"")
        .file("g/in", "")
        .folder("g/below");
    bed.merge(&archive).unwrap();
    assert_eq!(
        bed.names(),
        [
            "a/",
            "a/f",
            "a/h",
            "a/l",
            "g/",
            "g/below/",
            "g/in",
            "implied/",
            "implied/deep/",
            "implied/deep/f",
            "t/"
        ]
    );
    let meta = |name: &str| fs::symlink_metadata(bed.path("upper").join(name)).unwrap();
    let file = meta("a/f");
    // The link's header is about the same file, and comes later.
    assert_eq!((file.mode(), file.uid(), file.gid()), (0o100644, 0, 0));
    assert_eq!((file.nlink(), file.mtime()), (2, 1_700_000_000));
    assert_eq!(meta("a/h").ino(), file.ino());
    assert_eq!(fs::read_link(bed.path("upper/a/l")).unwrap(), Path::new("../../../etc"));
    assert_eq!(meta("a").mtime(), 1_700_000_000);
    assert_eq!((meta("t").mode(), meta("t").uid(), meta("t").gid()), (0o41777, 5, 6));
    assert_eq!(meta("g").mode(), 0o42755);
    assert_eq!((meta("g/in").mode(), meta("g/below").mode()), (0o100644, 0o40755));
    assert_eq!(meta("implied/deep").mode(), 0o40755);
    assert_eq!(bed.text("implied/deep/f"), "x");
}

#[test]
fn bits_of_the_mode_survive_a_change_of_owner() {
    let bed = Bed::new();
    let head = Head { size: 2, mode: 0o6711, owner: (12, 34), ..Head::new(b'0', "f") };
    bed.merge(&Archive::new().entry(&head, b"hi")).unwrap();
    let file = fs::metadata(bed.path("upper/f")).unwrap();
    assert_eq!((file.mode(), file.uid(), file.gid()), (0o106711, 12, 34));
}

#[test]
fn times_have_nanoseconds_and_folders_keep_theirs() {
    let bed = Bed::new();
    let archive = Archive::new()
        .pax(&[("mtime", b"1234567890.123456789"), ("atime", b"1334567890.5")])
        .folder("d")
        .pax(&[("mtime", b"1234567891.000000001")])
        .file("d/f", "x")
        .pax(&[("mtime", b"-5.5")])
        .file("d/old", "")
        .symlink("d/l", "f")
        .file("e/f", "")
        .file("d/late", "");
    bed.merge(&archive).unwrap();
    let times = |name: &str| {
        let meta = fs::symlink_metadata(bed.path("upper").join(name)).unwrap();
        (meta.mtime(), meta.mtime_nsec(), meta.atime(), meta.atime_nsec())
    };
    assert_eq!(times("d"), (1_234_567_890, 123_456_789, 1_334_567_890, 500_000_000));
    assert_eq!(times("d/f"), (1_234_567_891, 1, 1_234_567_891, 1));
    assert_eq!(times("d/old"), (0, 0, 0, 0));
    assert_eq!(times("d/l").0, 1_700_000_000);
}

#[test]
fn attributes_may_be_any_bytes() {
    let bed = Bed::new();
    let capability = [1, 0, 0, 2, 0, 4, 10, 0, 0, 0, 0, 0, b'\n', 0, 0, 0, 0, 0, 0, 0];
    let archive = Archive::new()
        .pax(&[
            ("SCHILY.xattr.user.a", b"x=\n\0y"),
            ("SCHILY.xattr.security.capability", &capability),
            ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
            ("SCHILY.xattr.user.overlay.redirect", b"/"),
            ("VENDOR.whatever", b"ignored"),
        ])
        .entry(&Head { size: 2, owner: (1, 1), mode: 0o755, ..Head::new(b'0', "f") }, b"hi")
        .pax(&[("SCHILY.xattr.user.d", b"folder")])
        .folder("d")
        .pax(&[("SCHILY.xattr.user.l", b"links have none")])
        .symlink("l", "f");
    bed.merge(&archive).unwrap();
    let get = |name: &str, key: &str| {
        let mut value = vec![0; 100];
        let length = lgetxattr(bed.path("upper").join(name), key, &mut value)?;
        value.truncate(length);
        Ok::<_, Errno>(value)
    };
    assert_eq!(get("f", "user.a").unwrap(), b"x=\n\0y");
    assert_eq!(get("f", "security.capability").unwrap(), capability);
    assert_eq!(get("d", "user.d").unwrap(), b"folder");
    for (name, key) in
        [("f", "trusted.overlay.opaque"), ("f", "user.overlay.redirect"), ("l", "user.l")]
    {
        assert!(get(name, key).is_err(), "{key}");
    }
}

#[test]
fn devices_and_fifos() {
    let bed = Bed::new();
    let archive = Archive::new()
        .entry(&Head { device: (1, 3), mode: 0o666, ..Head::new(b'3', "null") }, b"")
        .entry(&Head { device: (7, 300), mode: 0o600, ..Head::new(b'4', "loop") }, b"")
        .entry(&Head { mode: 0o622, owner: (3, 4), ..Head::new(b'6', "fifo") }, b"");
    bed.merge(&archive).unwrap();
    let meta = |name: &str| fs::symlink_metadata(bed.path("upper").join(name)).unwrap();
    assert!(meta("null").file_type().is_char_device());
    assert_eq!(
        (meta("null").rdev(), meta("null").mode() & 0o777),
        (rustix::fs::makedev(1, 3), 0o666)
    );
    assert!(meta("loop").file_type().is_block_device());
    assert_eq!(meta("loop").rdev(), rustix::fs::makedev(7, 300));
    assert!(meta("fifo").file_type().is_fifo());
    assert_eq!((meta("fifo").mode() & 0o777, meta("fifo").uid()), (0o622, 3));
}

#[test]
fn names_may_be_long_and_any_bytes() {
    let bed = Bed::new();
    let long = format!("{}/{}/f", "a".repeat(200), "b".repeat(200));
    let odd = b"\xff\xfe\n";
    let archive = Archive::new()
        .pax(&[("path", long.as_bytes())])
        .file("short", "pax")
        .entry(
            &Head { size: long.len() as u64 + 1, gnu: true, ..Head::new(b'L', "././@LongLink") },
            format!("{long}2\0").as_bytes(),
        )
        .file("short", "gnu")
        .entry(
            &Head { size: 201, gnu: true, ..Head::new(b'K', "././@LongLink") },
            "t".repeat(201).as_bytes(),
        )
        .symlink("link", "short")
        .pax(&[("linkpath", long.as_bytes())])
        .hard_link("hard", "short")
        .entry(&Head { prefix: b"pre/fix".to_vec(), ..Head::new(b'0', "name") }, b"")
        .file(odd, "odd");
    bed.merge(&archive).unwrap();
    assert_eq!(bed.text(&long), "pax");
    assert_eq!(bed.text(&format!("{long}2")), "gnu");
    assert_eq!(fs::read_link(bed.path("upper/link")).unwrap(), Path::new(&"t".repeat(201)));
    assert_eq!(bed.text("hard"), "pax");
    assert_eq!(bed.text("pre/fix/name"), "");
    let odd = bed.path("upper").join(std::ffi::OsStr::from_bytes(odd));
    assert_eq!(fs::read_to_string(odd).unwrap(), "odd");
}

#[test]
fn numbers_may_be_large() {
    let bed = Bed::new();
    let mut block = Head::new(b'0', "f").block();
    block[108..116].copy_from_slice(&[0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xfe]);
    block[116..124].copy_from_slice(&[0x80, 0, 0, 0, 0, 0x30, 0, 0]);
    archive::sum(&mut block);
    let archive = Archive::new()
        .raw(&block)
        .pax(&[("uid", b"4000000000"), ("gid", b"3000000000")])
        .file("g", "");
    bed.merge(&archive).unwrap();
    let owner = |name: &str| {
        let meta = fs::metadata(bed.path("upper").join(name)).unwrap();
        (meta.uid(), meta.gid())
    };
    assert_eq!(owner("f"), (u32::MAX - 1, 0x30_0000));
    assert_eq!(owner("g"), (4_000_000_000, 3_000_000_000));
}

#[test]
fn what_is_there_gives_way() {
    let bed = Bed::new();
    let upper = bed.path("upper");
    for folder in ["file", "stays", "link"] {
        fs::create_dir(upper.join(folder)).unwrap();
        fs::write(upper.join(folder).join("old"), "old").unwrap();
    }
    symlink(bed.path("outside"), upper.join("folder")).unwrap();
    fs::write(upper.join("again"), "a longer text").unwrap();
    let archive = Archive::new()
        .file("file", "new")
        .folder("folder")
        .file("folder/in", "")
        .folder("stays")
        .symlink("link", "x")
        .file("again", "short")
        .hard_link("again", "again");
    bed.merge(&archive).unwrap();
    assert_eq!(
        bed.names(),
        ["again", "file", "folder/", "folder/in", "link", "stays/", "stays/old"]
    );
    assert_eq!((bed.text("file").as_str(), bed.text("again").as_str()), ("new", "short"));
    assert_eq!(names_below(&bed.path("outside")), [""; 0]);
}

#[test]
fn whiteouts_remove_what_was_before() {
    let bed = Bed::new();
    let upper = bed.path("upper");
    for file in ["gone", "dir/a", "dir/sub/b", "opq/a", "opq/sub/b", "both"] {
        fs::create_dir_all(upper.join(file).parent().unwrap()).unwrap();
        fs::write(upper.join(file), "old").unwrap();
    }
    let archive = Archive::new()
        .file(".wh.gone", "")
        .file(".wh.dir", "")
        .file("opq/sub/new", "new")
        .file("opq/.wh..wh..opq", "")
        .file("opq/c", "new")
        .file("both", "new")
        .file(".wh.both", "")
        .file(".wh.never", "")
        .file(".wh..wh.aufs", "")
        .folder(".wh..wh.orph");
    bed.merge(&archive).unwrap();
    assert_eq!(bed.names(), ["both", "opq/", "opq/c", "opq/sub/", "opq/sub/new"]);
    assert_eq!(bed.text("both"), "new");
}

#[test]
fn an_overlay_hides_what_is_below() {
    let bed = Bed::new();
    for file in ["gone", "dir/a", "opq/a", "again/a", "both/a", "root"] {
        let path = bed.path("lower").join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "old").unwrap();
    }
    let archive = Archive::new()
        .file(".wh.gone", "")
        .file("opq/.wh..wh..opq", "")
        .file("opq/new", "")
        .file(".wh.again", "")
        .file("again/new", "")
        .folder("both")
        .file(".wh.both", "");
    bed.stack(&archive).unwrap();
    let upper = bed.path("upper");
    let gone = fs::symlink_metadata(upper.join("gone")).unwrap();
    assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
    for name in ["opq", "again", "both"] {
        let mut value = [0; 2];
        assert_eq!(
            lgetxattr(upper.join(name), "trusted.overlay.opaque", &mut value),
            Ok(1),
            "{name}"
        );
    }
    assert_eq!(bed.names(), ["again/", "again/new", "both/", "gone", "opq/", "opq/new"]);
}

#[test]
fn an_opaque_root_hides_all_layers() {
    let bed = Bed::new();
    fs::create_dir_all(bed.path("lower/a/in")).unwrap();
    fs::write(bed.path("lowest/b"), "").unwrap();
    bed.stack(&Archive::new().file("a/new", "").file(".wh..wh..opq", "")).unwrap();
    let mut value = [0; 2];
    assert_eq!(lgetxattr(bed.path("upper/a"), "trusted.overlay.opaque", &mut value), Ok(1));
    assert_eq!(fs::symlink_metadata(bed.path("upper/b")).unwrap().rdev(), 0);
    assert_eq!(bed.names(), ["a/", "a/new", "b"]);
}

#[test]
fn implied_folders_are_like_those_below() {
    let bed = Bed::new();
    let deep = bed.path("lowest/a/b");
    fs::create_dir_all(&deep).unwrap();
    std::os::unix::fs::chown(&deep, Some(7), Some(8)).unwrap();
    fs::set_permissions(&deep, fs::Permissions::from_mode(0o2710)).unwrap();
    lsetxattr(&deep, "user.kept", b"v", XattrFlags::empty()).unwrap();
    lsetxattr(&deep, "trusted.private", b"v", XattrFlags::empty()).unwrap();
    filetime(&deep, 1_000_000);
    bed.stack(&Archive::new().file("a/b/f", "x").file("c/f", "")).unwrap();
    let made = fs::metadata(bed.path("upper/a/b")).unwrap();
    assert_eq!((made.mode(), made.uid(), made.gid(), made.mtime()), (0o42710, 7, 8, 1_000_000));
    let mut value = [0; 2];
    assert_eq!(lgetxattr(bed.path("upper/a/b"), "user.kept", &mut value), Ok(1));
    assert!(lgetxattr(bed.path("upper/a/b"), "trusted.private", &mut value).is_err());
    assert_eq!(fs::metadata(bed.path("upper/c")).unwrap().mode(), 0o40755);
}

#[test]
fn links_below_are_followed() {
    let bed = Bed::new();
    fs::create_dir_all(bed.path("lowest/usr/lib")).unwrap();
    symlink("usr/lib", bed.path("lower/lib")).unwrap();
    bed.stack(&Archive::new().file("lib/x/f", "x").file("lib/g", "").file("h", "")).unwrap();
    assert_eq!(bed.names(), ["h", "usr/", "usr/lib/", "usr/lib/g", "usr/lib/x/", "usr/lib/x/f"]);
}

#[test]
fn a_hard_link_to_a_file_below_brings_it_up() {
    let bed = Bed::new();
    fs::create_dir(bed.path("lowest/d")).unwrap();
    fs::write(bed.path("lowest/d/f"), "text").unwrap();
    fs::set_permissions(bed.path("lowest/d/f"), fs::Permissions::from_mode(0o640)).unwrap();
    let head = Head { link: b"d/f".to_vec(), mode: 0o640, ..Head::new(b'1', "e/h") };
    bed.stack(&Archive::new().entry(&head, b"")).unwrap();
    assert_eq!(bed.names(), ["d/", "d/f", "e/", "e/h"]);
    assert_eq!(bed.text("e/h"), "text");
    let meta = fs::metadata(bed.path("upper/d/f")).unwrap();
    assert_eq!((meta.nlink(), meta.mode()), (2, 0o100640));
    let hidden = Archive::new().file("d/.wh.f", "").hard_link("g", "d/f");
    let bed = Bed::new();
    fs::create_dir(bed.path("lowest/d")).unwrap();
    fs::write(bed.path("lowest/d/f"), "text").unwrap();
    assert_eq!(kind(bed.stack(&hidden)), Some(ErrorKind::InvalidArgument));
}

fn filetime(path: &Path, seconds: i64) {
    let time = rustix::fs::Timespec { tv_sec: seconds, tv_nsec: 0 };
    let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, rustix::fs::AtFlags::empty()).unwrap();
}

use std::os::unix::fs::PermissionsExt;
