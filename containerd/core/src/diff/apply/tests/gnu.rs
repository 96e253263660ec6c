//! What GNU tar writes, in all its formats, and what the crate reads.

use std::{
    fs::File,
    os::unix::fs::{FileExt, MetadataExt},
    process::Command,
};

use super::*;
use crate::diff::tar::{Entry, Reader};

/// An archive of `folder` by tar.
fn tar(folder: &Path, arguments: &[&str]) -> Vec<u8> {
    let mut command = Command::new("tar");
    command.args(arguments).args(["--sort=name", "-C"]).arg(folder).args(["-cf", "-", "."]);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// A file with data at some places only.
fn make_sparse(path: &Path, pieces: &[(u64, &str)], size: u64) {
    let file = File::create(path).unwrap();
    file.set_len(size).unwrap();
    for (offset, text) in pieces {
        file.write_all_at(text.as_bytes(), *offset).unwrap();
    }
}

#[test]
fn all_formats_say_the_same() {
    let source = Bed::new();
    let root = source.path("lower");
    let deep = root.join("d".repeat(60)).join("e".repeat(60));
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("f".repeat(99)), "deep").unwrap();
    fs::write(root.join("plain"), "x".repeat(5000)).unwrap();
    fs::hard_link(root.join("plain"), root.join("same")).unwrap();
    std::os::unix::fs::symlink("t".repeat(99), root.join("link")).unwrap();
    std::os::unix::fs::chown(root.join("plain"), Some(70_000), Some(2_000_000)).unwrap();
    for format in ["ustar", "gnu", "pax"] {
        let bed = Bed::new();
        let archive = tar(&root, &["--format", format]);
        unpack_bytes(archive, &bed.path("upper"), None).unwrap();
        assert_eq!(bed.names(), names_below(&root), "{format}");
        assert_eq!(bed.text("same"), "x".repeat(5000));
        let (old, new) = (root.join("plain"), bed.path("upper/plain"));
        let (old, new) = (fs::metadata(old).unwrap(), fs::metadata(new).unwrap());
        assert_eq!((new.uid(), new.gid(), new.nlink()), (70_000, 2_000_000, 2));
        assert_eq!(old.mtime(), new.mtime());
        if format == "pax" {
            assert_eq!(old.mtime_nsec(), new.mtime_nsec());
        }
    }
}

#[test]
fn holes_stay_holes_in_all_formats() {
    let source = Bed::new();
    let root = source.path("lower");
    let text = |number: u64| format!("piece {number}");
    let many: Vec<String> = (0..60).map(text).collect();
    let many: Vec<(u64, &str)> =
        many.iter().enumerate().map(|(n, text)| (n as u64 * 100_000, text.as_str())).collect();
    make_sparse(&root.join("many"), &many, 60 * 100_000);
    make_sparse(&root.join("few"), &[(0, "start"), (9 << 20, "end")], (9 << 20) + 3);
    make_sparse(&root.join("tail"), &[(0, "start")], 50 << 20);
    make_sparse(&root.join("none"), &[], 50 << 20);
    for arguments in [
        &["--sparse", "--format=gnu"][..],
        &["--sparse", "--format=pax", "--sparse-version=0.0"],
        &["--sparse", "--format=pax", "--sparse-version=0.1"],
        &["--sparse", "--format=pax", "--sparse-version=1.0"],
    ] {
        let bed = Bed::new();
        let archive = tar(&root, arguments);
        assert!(archive.len() < 4 << 20);
        unpack_bytes(archive, &bed.path("upper"), None).unwrap();
        assert_eq!(bed.names(), ["few", "many", "none", "tail"], "{arguments:?}");
        for name in ["few", "many", "none", "tail"] {
            let (old, new) = (root.join(name), bed.path("upper").join(name));
            let same = Command::new("cmp").arg(&old).arg(&new).status().unwrap();
            assert!(same.success(), "{arguments:?} {name}");
            assert!(fs::metadata(&new).unwrap().blocks() < 2000, "{arguments:?} {name}");
        }
    }
}

#[test]
fn attributes_of_tar_are_read() {
    let source = Bed::new();
    let root = source.path("lower");
    fs::write(root.join("f"), "").unwrap();
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::lsetxattr(root.join("f"), "user.a", b"1\n2=3", flags).unwrap();
    let bed = Bed::new();
    let archive = tar(&root, &["--format=pax", "--xattrs", "--xattrs-include=*"]);
    unpack_bytes(archive, &bed.path("upper"), None).unwrap();
    let mut value = [0; 10];
    let length = rustix::fs::lgetxattr(bed.path("upper/f"), "user.a", &mut value).unwrap();
    assert_eq!(&value[..length], b"1\n2=3");
}

#[test]
fn the_crate_reads_the_same() {
    let source = Bed::new();
    let root = source.path("lower");
    fs::create_dir_all(root.join("a/b")).unwrap();
    fs::write(root.join("a/b/f"), "text").unwrap();
    fs::write(root.join("n".repeat(120)), "x".repeat(1000)).unwrap();
    std::os::unix::fs::symlink("s".repeat(130), root.join("l")).unwrap();
    for format in ["v7", "oldgnu", "ustar", "gnu", "pax"] {
        let long = fs::symlink_metadata(root.join("l")).is_ok();
        if matches!(format, "v7" | "ustar") && long {
            continue;
        }
        let bytes = tar(&root, &["--format", format]);
        let mut theirs = tar::Archive::new(bytes.as_slice());
        let mut ours = Reader::new(bytes.as_slice());
        let mut entry = Entry::default();
        for other in theirs.entries().unwrap() {
            let mut other = other.unwrap();
            assert!(ours.next(&mut entry).unwrap());
            assert_eq!(entry.name, &*other.path_bytes());
            let link = other.link_name_bytes();
            assert_eq!(entry.link, link.as_deref().unwrap_or_default());
            assert_eq!(entry.mode, other.header().mode().unwrap());
            assert_eq!(entry.size, other.size());
            let (mut mine, mut text) = (Vec::new(), Vec::new());
            loop {
                let piece = ours.data().unwrap().to_owned();
                if piece.is_empty() {
                    break;
                }
                mine.extend_from_slice(&piece);
                ours.consume(piece.len());
            }
            io::Read::read_to_end(&mut other, &mut text).unwrap();
            assert_eq!(mine, text);
        }
        assert!(!ours.next(&mut entry).unwrap());
    }
}
