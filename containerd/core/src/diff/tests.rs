//! Layers as they come from the content store, and get there.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
};

use containerd_images::media_type::{DOCKER_LAYER_GZIP, OCI_LAYER, OCI_LAYER_ZSTD};
use tempfile::TempDir;

use super::*;
use crate::{
    content::{Algorithm, ContentConfig, Sharing},
    testing::{World, id, labels},
};

struct Store {
    world: World,
    folder: TempDir,
    content: Content,
    diff: Diff,
}

impl Store {
    async fn new() -> Self {
        let (world, folder) = (World::new(), tempfile::tempdir().unwrap());
        let root = folder.path().join("content");
        fs::create_dir(&root).unwrap();
        let config = ContentConfig { root, sharing: Sharing::Shared, foreign: false };
        let content = Content::open(config, world.db.clone()).await.unwrap();
        let config = DiffConfig { sync: false };
        let diff = Diff::new(config, content.clone());
        Self { world, folder, content, diff }
    }

    /// A folder of that name.
    fn path(&self, name: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    async fn put(&self, media_type: &str, bytes: &[u8]) -> Descriptor {
        let ingestion = Ingestion { reference: "put".into(), ..Default::default() };
        let mut writer = self.content.writer(&ns(), ingestion).await.unwrap();
        writer.write(bytes.to_owned()).await.unwrap();
        let digest = writer.digest().unwrap();
        let committed = writer.commit(0, None, BTreeMap::new()).await;
        assert!(committed.is_ok() || kind(committed) == Some(ErrorKind::AlreadyExists));
        Descriptor::new(media_type, digest, bytes.len() as u64)
    }

    async fn apply(&self, layer: &Descriptor, target: &Path) -> Result<Descriptor> {
        self.diff.apply(&ns(), layer, vec![bind(target)], ApplyOptions::default()).await
    }

    async fn ingests(&self) -> usize {
        self.content.statuses::<&str>(&ns(), &[]).await.unwrap().len()
    }
}

fn ns() -> Id {
    id("ns")
}

fn kind<T>(outcome: Result<T>) -> Option<ErrorKind> {
    outcome.err().as_ref().map(Error::kind)
}

fn bind(source: &Path) -> Mount {
    let source = source.display().to_string();
    Mount { kind: "bind".into(), source, options: vec!["rbind".into()], ..Default::default() }
}

/// An archive of one file.
fn archive(name: &str, size: usize) -> Vec<u8> {
    let mut archive = tar::Writer::new(Vec::new());
    let size64 = size as u64;
    let head = tar::Head { flag: b'0', name: name.as_bytes(), size: size64, ..Default::default() };
    archive.entry(&head).unwrap();
    let text: Vec<u8> = (0..size).map(|at| u8::try_from(at * at % 251).unwrap()).collect();
    archive.data(&text).unwrap();
    archive.finish().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn a_layer_comes_out_of_its_compression() {
    let store = Store::new().await;
    let plain = archive("f", 3 << 20);
    let (one, other) = plain.split_at(1 << 20);
    let skippable = [0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3];
    let zstd = |bytes: &[u8]| zstd::encode_all(bytes, 1).unwrap();
    for (number, (media_type, bytes)) in [
        (OCI_LAYER, plain.clone()),
        (OCI_LAYER_GZIP, gzip(&plain)),
        (OCI_LAYER_GZIP, [gzip(one), gzip(other)].concat()),
        (OCI_LAYER_ZSTD, zstd(&plain)),
        (OCI_LAYER_ZSTD, [&skippable[..], &zstd(one), &skippable, &zstd(other)].concat()),
        // What it is called is not what it is.
        (DOCKER_LAYER_GZIP, zstd(&plain)),
        (DOCKER_LAYER_GZIP, plain.clone()),
        (OCI_LAYER_ZSTD, gzip(&plain)),
    ]
    .into_iter()
    .enumerate()
    {
        let (layer, target) =
            (store.put(media_type, &bytes).await, store.path(&format!("t{number}")));
        let options = ApplyOptions { sync: true, ..Default::default() };
        let progress = options.progress.clone();
        let applied = store.diff.apply(&ns(), &layer, vec![bind(&target)], options).await.unwrap();
        let digest = Digest::of(Algorithm::Sha256, &plain);
        assert_eq!(applied, Descriptor::new(OCI_LAYER, digest, plain.len() as u64));
        assert_eq!(fs::metadata(target.join("f")).unwrap().len(), 3 << 20);
        assert_eq!(progress.load(Ordering::Relaxed), bytes.len() as u64);
    }
}

#[tokio::test]
async fn a_broken_layer_is_refused() {
    let store = Store::new().await;
    let plain = archive("f", 1 << 20);
    let (gzip, zstd) = (gzip(&plain), zstd::encode_all(plain.as_slice(), 1).unwrap());
    let flipped = |bytes: &[u8]| {
        let mut bytes = bytes.to_owned();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x55;
        bytes
    };
    for (media_type, bytes, expected) in [
        (OCI_LAYER_GZIP, gzip[..gzip.len() - 5].to_owned(), ErrorKind::DataLoss),
        (OCI_LAYER_GZIP, gzip[..gzip.len() / 2].to_owned(), ErrorKind::DataLoss),
        (OCI_LAYER_ZSTD, zstd[..zstd.len() / 2].to_owned(), ErrorKind::DataLoss),
        (OCI_LAYER, plain[..plain.len() / 2].to_owned(), ErrorKind::DataLoss),
        (OCI_LAYER_GZIP, [&gzip[..], b"garbage garbage"].concat(), ErrorKind::InvalidArgument),
        (OCI_LAYER_GZIP, [&gzip[..], &[0; 100]].concat(), ErrorKind::InvalidArgument),
        (OCI_LAYER_ZSTD, [&zstd[..], b"garbage"].concat(), ErrorKind::InvalidArgument),
        (OCI_LAYER_GZIP, flipped(&gzip), ErrorKind::InvalidArgument),
        (OCI_LAYER, gzip.clone(), ErrorKind::InvalidArgument),
        (OCI_LAYER_GZIP, b"no archive at all".repeat(100), ErrorKind::InvalidArgument),
    ] {
        let layer = store.put(media_type, &bytes).await;
        let error = store.apply(&layer, &store.path("target")).await.unwrap_err();
        assert_eq!(error.kind(), expected, "{error:?}");
    }
    // The disk has other bytes than it was given.
    let layer = store.put(OCI_LAYER, &plain).await;
    let blob = store.path("content/blobs/sha256").join(layer.digest.hex());
    let mut wrong = plain.clone();
    wrong[1000] ^= 1;
    fs::remove_file(&blob).unwrap();
    fs::write(&blob, wrong).unwrap();
    assert_eq!(kind(store.apply(&layer, &store.path("target")).await), Some(ErrorKind::DataLoss));
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_before_anything_is_done() {
    let store = Store::new().await;
    let plain = archive("f", 5);
    let good = store.put(OCI_LAYER, &plain).await;
    let target = store.path("target");
    let typed = |media_type: &str| Descriptor { media_type: media_type.into(), ..good.clone() };
    for (layer, expected) in [
        (typed(""), ErrorKind::Unimplemented),
        (typed("application/vnd.oci.image.layer.v1.tar+gzip+encrypted"), ErrorKind::Unimplemented),
        (typed("application/vnd.oci.image.layer.v1.tar+zip"), ErrorKind::Unimplemented),
        (Descriptor { size: 1, ..good.clone() }, ErrorKind::InvalidArgument),
        (
            Descriptor { digest: Digest::of(Algorithm::Sha256, b"no"), ..good.clone() },
            ErrorKind::NotFound,
        ),
    ] {
        assert_eq!(kind(store.apply(&layer, &target).await), Some(expected));
    }
    let read_only = Mount { options: vec!["ro".into()], ..bind(&target) };
    let view = Mount {
        kind: "overlay".into(),
        options: vec!["lowerdir=/a:/b".into()],
        ..Default::default()
    };
    for mounts in [vec![read_only], vec![view]] {
        let outcome = store.diff.apply(&ns(), &good, mounts, ApplyOptions::default()).await;
        assert_eq!(kind(outcome), Some(ErrorKind::FailedPrecondition));
    }
    assert_eq!(fs::read_dir(&target).unwrap().count(), 0);
    // A size of none is any.
    store.apply(&Descriptor { size: 0, ..good }, &target).await.unwrap();
}

#[tokio::test]
async fn other_filesystems_are_mounted_meanwhile() {
    let store = Store::new().await;
    let layer = store.put(OCI_LAYER, &archive("a/f", 5)).await;
    let (one, other) = (store.path("one"), store.path("other"));
    fs::create_dir(one.join("below")).unwrap();
    let inner = Mount { target: "below".into(), ..bind(&other) };
    let mounts = vec![bind(&one), inner];
    store.diff.apply(&ns(), &layer, mounts.clone(), ApplyOptions::default()).await.unwrap();
    assert!(one.join("a/f").exists());
    let layer = store.put(OCI_LAYER, &archive("below/f", 5)).await;
    store.diff.apply(&ns(), &layer, mounts, ApplyOptions::default()).await.unwrap();
    assert!(other.join("f").exists() && !one.join("below/f").exists());
    // Nobody else sees what is mounted for that, and layers say whose files are.
    let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mountinfo.contains(&store.path("").display().to_string()), "{mountinfo}");
    let mut mapped = bind(&one);
    mapped.options.extend(["uidmap=0:1000:10".to_owned(), "gidmap=0:1000:10".into()]);
    let refused = store.diff.apply(&ns(), &layer, vec![mapped], ApplyOptions::default()).await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Unimplemented);
}

#[tokio::test]
async fn a_layer_is_made_once() {
    let store = Store::new().await;
    let (left, right) = (store.path("left"), store.path("right"));
    fs::write(right.join("f"), "text").unwrap();
    let lease = store.world.leases.create(&ns(), "l", BTreeMap::new()).await.unwrap();
    let new = NewLayer {
        left: vec![bind(&left)],
        right: vec![bind(&right)],
        labels: labels(&[("a", "b")]),
        lease: Some(lease.id),
        ..Default::default()
    };
    let made = store.diff.create(&ns(), new.clone()).await.unwrap();
    assert_eq!(made.media_type, OCI_LAYER_GZIP);
    let info = store.content.info(&ns(), &made.digest).await.unwrap();
    assert_eq!((info.size, info.labels.len()), (made.size, 2));
    let held = store.world.leases.resources(&ns(), "l").await.unwrap();
    assert_eq!(held.len(), 1);
    assert_eq!(
        (held[0].id.as_str(), held[0].kind.as_str()),
        (&*made.digest.to_string(), "content")
    );
    assert_eq!(store.ingests().await, 0);

    // Somebody has brought it before, who did not say what it is.
    store.content.update(&ns(), &made.digest, BTreeMap::new(), &["labels"]).await.unwrap();
    let named = NewLayer { reference: "named".into(), ..new.clone() };
    assert_eq!(store.diff.create(&ns(), named).await.unwrap(), made);
    let labels = store.content.info(&ns(), &made.digest).await.unwrap().labels;
    assert_eq!(labels.keys().collect::<Vec<_>>(), [UNCOMPRESSED_LABEL]);

    let target = store.path("target");
    let applied = store.apply(&made, &target).await.unwrap();
    assert_eq!(labels[UNCOMPRESSED_LABEL], applied.digest.to_string());
    assert_eq!(fs::read_to_string(target.join("f")).unwrap(), "text");
}

#[tokio::test]
async fn what_cannot_be_made_leaves_nothing() {
    let store = Store::new().await;
    let right = store.path("right");
    let good = NewLayer { right: vec![bind(&right)], ..Default::default() };
    for (new, expected) in [
        (NewLayer { media_type: "text/plain".into(), ..good.clone() }, ErrorKind::Unimplemented),
        (NewLayer { right: vec![], ..good.clone() }, ErrorKind::InvalidArgument),
        (
            NewLayer { right: vec![bind(&right.join("no"))], ..good.clone() },
            ErrorKind::FailedPrecondition,
        ),
        (NewLayer { lease: Some("no".into()), ..good.clone() }, ErrorKind::NotFound),
        (
            NewLayer { labels: labels(&[("a", &"b".repeat(5000))]), ..good.clone() },
            ErrorKind::InvalidArgument,
        ),
    ] {
        assert_eq!(kind(store.diff.create(&ns(), new).await), Some(expected));
        assert_eq!(store.ingests().await, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn work_that_nobody_waits_for_ends() {
    let store = Store::new().await;
    let right = store.path("right");
    // More than anybody waits for.
    fs::File::create(right.join("f")).unwrap().set_len(1 << 42).unwrap();
    let new = NewLayer { right: vec![bind(&right)], ..Default::default() };
    let (diff, waits) = (
        store.diff.clone(),
        tokio::spawn({
            let diff = store.diff.clone();
            async move { diff.create(&ns(), new).await }
        }),
    );
    while store.ingests().await == 0 {
        tokio::task::yield_now().await;
    }
    waits.abort();
    diff.shutdown().await;
    assert_eq!(store.ingests().await, 0);
}
