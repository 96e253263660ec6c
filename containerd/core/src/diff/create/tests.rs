//! Trees that are changed at random, and layers that make one of the other.

mod tree;

use std::{fs, path::PathBuf};

use tempfile::TempDir;
use tokio::sync::mpsc;

use self::tree::{Random, Tree, change, fill};
use super::*;
use crate::diff::apply::tests::unpack_bytes;

/// Folders of an overlay's layers.
struct Bed(TempDir);

impl Bed {
    fn new() -> Self {
        let bed = Self(tempfile::tempdir().unwrap());
        for name in ["lower", "upper", "work", "merged", "stacked", "empty"] {
            fs::create_dir(bed.path(name)).unwrap();
        }
        bed
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn overlay(&self, upper: &str) -> Mount {
        let path = |name| self.path(name).display().to_string();
        let options = vec![
            "index=off".into(),
            format!("workdir={}", path("work")),
            format!("upperdir={}", path(upper)),
            format!("lowerdir={}", path("lower")),
        ];
        Mount { kind: "overlay".into(), source: "overlay".into(), options, ..Default::default() }
    }

    fn bind(&self, name: &str) -> Mount {
        let source = self.path(name).display().to_string();
        Mount {
            kind: "bind".into(),
            source,
            options: vec!["rbind".into(), "ro".into()],
            ..Default::default()
        }
    }

    /// Does `work` with an overlay at a path.
    fn mounted<T: Send>(&self, upper: &str, work: impl FnOnce(PathBuf) -> T + Send) -> T {
        use std::os::fd::AsRawFd;
        let mount = self.overlay(upper);
        mounted::with(&[mount], |root| {
            Ok(work(PathBuf::from(format!("/proc/self/fd/{}", root.as_raw_fd()))))
        })
        .unwrap()
    }

    fn job(&self, left: Vec<Mount>, right: Vec<Mount>) -> Job {
        let place = |mounts: Vec<Mount>| match mounts.is_empty() {
            true => None,
            false => Some(Place::of(mounts).unwrap()),
        };
        Job {
            left: place(left),
            right: place(right),
            compression: Compression::None,
            latest: None,
            cancel: Cancel::default(),
        }
    }
}

/// The layer, if the way leads there.
fn made(job: Job, direct: bool) -> Option<Vec<u8>> {
    let (sender, mut pieces) = mpsc::channel(4);
    let work = std::thread::spawn(move || job.run(direct, sender));
    let mut layer = Vec::new();
    while let Some(piece) = pieces.blocking_recv() {
        layer.extend(piece);
    }
    match work.join().unwrap().unwrap() {
        Made::Layer(digest) => {
            let found = Digest::of(Default::default(), &layer);
            // It is of what comes before the compression.
            assert!(layer.starts_with(&[0x1f, 0x8b]) || digest == found);
            Some(layer)
        }
        Made::Again => None,
    }
}

#[test]
fn a_layer_makes_one_tree_of_the_other() {
    for seed in 1..=12 {
        let bed = Bed::new();
        let mut random = Random::new(seed);
        fill(&bed.path("lower"), &mut random, 40);
        bed.mounted("upper", |root| {
            for _ in 0..60 {
                change(&root, &mut random);
            }
        });
        let (left, right) = (vec![bed.bind("lower")], vec![bed.overlay("upper")]);
        let layer = made(bed.job(left.clone(), right.clone()), true).unwrap();
        let longer = made(bed.job(left, right), false).unwrap();
        assert!(layer == longer, "seed {seed}: the two ways lead to different layers");

        let expected = bed.mounted("upper", |root| Tree::read(&root));
        Tree::copy(&bed.path("lower"), &bed.path("merged"));
        unpack_bytes(layer.clone(), &bed.path("merged"), None).unwrap();
        expected.must_be(&Tree::read(&bed.path("merged")), &format!("seed {seed}, merged"));

        let lower = [bed.path("lower")];
        unpack_bytes(layer, &bed.path("stacked"), Some(&lower)).unwrap();
        let stacked = bed.mounted("stacked", |root| Tree::read(&root));
        expected.must_be(&stacked, &format!("seed {seed}, stacked"));
    }
}

#[test]
fn a_whole_tree_is_a_layer_too() {
    let bed = Bed::new();
    fill(&bed.path("lower"), &mut Random::new(7), 200);
    let expected = Tree::read(&bed.path("lower"));
    for left in [vec![], vec![bed.bind("empty")]] {
        let layer = made(bed.job(left, vec![bed.bind("lower")]), true).unwrap();
        let target = tempfile::tempdir().unwrap();
        unpack_bytes(layer, target.path(), None).unwrap();
        expected.must_be(&Tree::read(target.path()), "all of it");
    }
    // Nothing has changed: nothing but the end.
    let same = made(bed.job(vec![bed.bind("lower")], vec![bed.bind("lower")]), true).unwrap();
    assert_eq!(same, [0; 1024]);
}

#[test]
fn a_layer_is_compressed_and_its_times_bounded() {
    let bed = Bed::new();
    fs::write(bed.path("upper/f"), "text").unwrap();
    let plain =
        Job { latest: Some(5), ..bed.job(vec![bed.bind("lower")], vec![bed.overlay("upper")]) };
    let layer = made(plain.clone(), true).unwrap();
    unpack_bytes(layer.clone(), &bed.path("merged"), None).unwrap();
    use std::os::unix::fs::MetadataExt;
    assert_eq!(fs::metadata(bed.path("merged/f")).unwrap().mtime(), 5);

    let gzip = Job { compression: Compression::Gzip, ..plain.clone() };
    let (one, other) = (made(gzip.clone(), true).unwrap(), made(gzip, true).unwrap());
    assert_eq!(one, other);
    // No time is in its header (RFC 1952, 2.3).
    assert_eq!(one[4..8], [0; 4]);
    let mut text = Vec::new();
    io::Read::read_to_end(&mut flate2::read::GzDecoder::new(one.as_slice()), &mut text).unwrap();
    assert_eq!(text, layer);
}

#[test]
fn holes_are_not_read() {
    let bed = Bed::new();
    let file = fs::File::create(bed.path("upper/f")).unwrap();
    file.set_len(64 << 20).unwrap();
    std::os::unix::fs::FileExt::write_at(&file, b"end", (64 << 20) - 3).unwrap();
    let layer = made(bed.job(vec![], vec![bed.bind("upper")]), true).unwrap();
    assert_eq!(layer.len(), 512 + (64 << 20) + 1024);
    assert_eq!(&layer[512 + (64 << 20) - 4..][..4], b"\0end");
}

#[test]
fn what_a_layer_does_not_show_is_found_by_mounting() {
    let bed = Bed::new();
    fs::create_dir(bed.path("lower/before")).unwrap();
    fs::write(bed.path("lower/before/f"), "text").unwrap();
    let mut mount = bed.overlay("upper");
    mount.options.push("redirect_dir=on".into());
    mounted::with(&[mount], |root| {
        rustix::fs::renameat(&root, "before", &root, "after").unwrap();
        Ok(())
    })
    .unwrap();
    let job = bed.job(vec![bed.bind("lower")], vec![bed.overlay("upper")]);
    assert_eq!(made(job.clone(), true), None);
    let layer = made(job, false).unwrap();
    Tree::copy(&bed.path("lower"), &bed.path("merged"));
    unpack_bytes(layer, &bed.path("merged"), None).unwrap();
    assert_eq!(fs::read_to_string(bed.path("merged/after/f")).unwrap(), "text");
    assert!(!bed.path("merged/before").exists());
}
