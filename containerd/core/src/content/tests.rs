//! Content as clients see it, and as it lies on disk.

mod elsewhere;
mod faults;
mod shared;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use shim_protocol::{Error, ErrorKind, Id, Result};
use tempfile::TempDir;

use super::*;
use crate::{
    leases::Resource,
    testing::{World, id, labels},
};

const NONE: &[&str] = &[];

/// A store in a folder of its own.
struct Store {
    world: World,
    folder: TempDir,
    content: Content,
}

impl Store {
    async fn new(sharing: Sharing) -> Self {
        let (world, folder) = (World::new(), tempfile::tempdir().unwrap());
        let content = open(&folder, &world, sharing, false).await;
        Self { world, folder, content }
    }

    /// The store as the next daemon opens it.
    async fn reopen(&mut self) {
        self.content.shutdown().await;
        self.content = open(&self.folder, &self.world, Sharing::Shared, false).await;
    }

    /// The same, in a folder that another daemon has used too.
    async fn reopen_foreign(&mut self) {
        self.content.shutdown().await;
        self.content = open(&self.folder, &self.world, Sharing::Shared, true).await;
    }

    fn blob(&self, digest: &Digest) -> PathBuf {
        self.folder.path().join("blobs").join(digest.algorithm().name()).join(digest.hex())
    }

    /// The folder of what is being written to `reference`.
    fn ingest(&self, reference: &str) -> PathBuf {
        let key = sha256(&format!("ns/1/{reference}"));
        self.folder.path().join("ingest").join(key.hex())
    }

    fn ingests(&self) -> usize {
        fs::read_dir(self.folder.path().join("ingest")).unwrap().count()
    }

    async fn open(&self, ingestion: Ingestion) -> Result<Writer> {
        self.content.writer(&ns(), ingestion).await
    }

    /// Writes `text`, and commits it.
    async fn put(&self, namespace: &Id, text: &str) -> Result<Digest> {
        let mut writer = self.content.writer(namespace, to(text)).await?;
        writer.write(text.to_owned()).await?;
        writer.commit(0, None, BTreeMap::new()).await
    }

    async fn text(&self, namespace: &Id, digest: &Digest) -> Result<String> {
        let blob = self.content.read(namespace, digest).await?;
        let mut text = vec![0; blob.size().try_into().unwrap()];
        assert_eq!(blob.read_at(0, &mut text).unwrap(), text.len());
        Ok(String::from_utf8(text).unwrap())
    }
}

async fn open(folder: &TempDir, world: &World, sharing: Sharing, foreign: bool) -> Content {
    let config = ContentConfig { root: folder.path().to_owned(), sharing, foreign };
    Content::open(config, world.db.clone()).await.unwrap()
}

fn ns() -> Id {
    id("ns")
}

fn sha256(text: &str) -> Digest {
    Digest::of(Algorithm::Sha256, text.as_bytes())
}

/// Written to a reference; nothing is known of it.
fn to(reference: &str) -> Ingestion {
    Ingestion { reference: reference.into(), ..Default::default() }
}

fn expecting(reference: &str, digest: &Digest) -> Ingestion {
    Ingestion { expected: Some(digest.clone()), ..to(reference) }
}

fn kind<T>(outcome: Result<T>) -> Option<ErrorKind> {
    outcome.err().as_ref().map(Error::kind)
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn what_is_committed_is_found_until_it_is_deleted() {
    let store = Store::new(Sharing::Shared).await;
    let mut writer = store.open(to("a")).await.unwrap();
    for piece in ["he", "", "llo"] {
        writer.write(piece).await.unwrap();
    }
    let status = writer.status().unwrap();
    assert_eq!((status.offset, status.total, status.reference.as_str()), (5, 0, "a"));
    assert_eq!(writer.digest().unwrap(), sha256("hello"));
    let kept = labels(&[("kind", "greeting"), ("gone", "")]);
    let digest = writer.commit(5, Some(sha256("hello")), kept).await.unwrap();
    assert_eq!(digest, sha256("hello"));

    let info = store.content.info(&ns(), &digest).await.unwrap();
    assert_eq!((info.size, &info.digest), (5, &digest));
    assert_eq!(info.labels, labels(&[("kind", "greeting")]));
    assert_eq!(store.text(&ns(), &digest).await.unwrap(), "hello");
    assert_eq!(store.content.list(&ns(), NONE).await.unwrap(), std::slice::from_ref(&info));
    let filters = [format!("digest=={digest}"), "labels.kind~=greet".into()];
    assert_eq!(store.content.list(&ns(), &filters).await.unwrap(), [info]);
    assert_eq!(store.content.list(&ns(), &["labels.other"]).await.unwrap(), []);
    assert_eq!(store.world.namespaces.list(NONE).await.unwrap().len(), 1);
    let refused = store.world.namespaces.delete(&ns()).await;
    assert_eq!(kind(refused), Some(ErrorKind::FailedPrecondition));

    store.content.delete(&ns(), &digest, None).await.unwrap();
    for gone in [
        kind(store.content.info(&ns(), &digest).await),
        kind(store.content.read(&ns(), &digest).await),
        kind(store.content.delete(&ns(), &digest, None).await),
        kind(store.content.update(&ns(), &digest, BTreeMap::new(), NONE).await),
    ] {
        assert_eq!(gone, Some(ErrorKind::NotFound));
    }
    assert!(!store.blob(&digest).exists());
    assert_eq!(store.ingests(), 0);
}

#[tokio::test]
async fn it_lies_where_other_daemons_look_for_it() {
    let mut store = Store::new(Sharing::Shared).await;
    let ingestion = Ingestion { total: 5, ..to("layer-1") };
    let mut writer = store.open(ingestion.clone()).await.unwrap();
    writer.write("hel").await.unwrap();
    // printf ns/1/layer-1 | sha256sum
    let key = "d97e965977cc09ebb9a5ecd95da7b35e6a9213867b3ce2063fcb4665ed56480a";
    let folder = store.folder.path().join("ingest").join(key);
    assert_eq!(names(&folder), ["data", "ref", "startedat", "total", "updatedat"]);
    let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
    assert_eq!((read("ref"), read("total")), ("ns/1/layer-1".into(), "5".into()));
    assert_eq!(read("data"), "hel");
    drop(writer);
    store.reopen().await;
    // As Go writes a time.
    fs::write(folder.join("startedat"), "2024-02-03T04:05:06.123456789+01:00").unwrap();
    let writer = store.open(ingestion).await.unwrap();
    let status = writer.status().unwrap();
    assert_eq!((status.offset, status.total), (3, 5));
    let started = status.started_at.duration_since(SystemTime::UNIX_EPOCH).unwrap();
    assert_eq!(started.as_nanos(), 1_706_929_506_123_456_789);
    drop(writer);

    let digest = store.put(&ns(), "hello").await.unwrap();
    let blob = fs::metadata(store.blob(&digest)).unwrap();
    assert_eq!(blob.permissions().mode() & 0o7777, 0o444);
}

#[tokio::test]
async fn a_write_goes_on_where_it_stopped() {
    let mut store = Store::new(Sharing::Shared).await;
    let mut writer = store.open(to("a")).await.unwrap();
    writer.write("hel").await.unwrap();
    let before = writer.status().unwrap();
    drop(writer);
    for again in [false, true] {
        if again {
            store.reopen().await;
            assert_eq!(store.content.recover().await.unwrap(), Recovered::default());
        }
        let writer = store.open(to("a")).await.unwrap();
        let status = writer.status().unwrap();
        assert_eq!((status.offset, status.started_at), (3, before.started_at));
        let seen = store.content.status(&ns(), "a").await.unwrap();
        assert_eq!((seen.offset, seen.started_at), (3, before.started_at));
        assert_eq!(store.content.statuses(&ns(), &["ref==a"]).await.unwrap(), [seen]);
        assert_eq!(store.content.statuses(&ns(), &["ref==b"]).await.unwrap(), []);
        assert_eq!(store.content.statuses(&id("other"), NONE).await.unwrap(), []);
    }
    let mut writer = store.open(to("a")).await.unwrap();
    writer.write("lo").await.unwrap();
    let digest = writer.commit(5, None, BTreeMap::new()).await.unwrap();
    assert_eq!(digest, sha256("hello"));
    assert_eq!(kind(store.content.status(&ns(), "a").await), Some(ErrorKind::NotFound));
}

#[tokio::test]
async fn a_write_may_begin_anew() {
    let store = Store::new(Sharing::Shared).await;
    let mut writer = store.open(Ingestion { total: 5, ..to("a") }).await.unwrap();
    writer.write("hel").await.unwrap();
    writer.clear().await.unwrap();
    assert_eq!(writer.status().unwrap().offset, 0);
    writer.write("x").await.unwrap();
    drop(writer);
    // Another total is another content.
    let writer = store.open(Ingestion { total: 6, ..to("a") }).await.unwrap();
    assert_eq!((writer.status().unwrap().offset, writer.status().unwrap().total), (0, 6));
    drop(writer);
    store.content.abort(&ns(), "a", None).await.unwrap();
    assert_eq!(store.ingests(), 0);
    assert_eq!(kind(store.content.abort(&ns(), "a", None).await), Some(ErrorKind::NotFound));
}

#[tokio::test]
async fn what_is_not_what_it_should_be_is_refused() {
    let store = Store::new(Sharing::Shared).await;
    let good = sha256("hello");
    let commit = async |text: &'static str, size, expected: Option<&Digest>| {
        let mut writer = store.open(to("a")).await.unwrap();
        writer.write(text).await.unwrap();
        writer.commit(size, expected.cloned(), BTreeMap::new()).await
    };
    // Too short: what is missing may still come.
    assert_eq!(kind(commit("hel", 5, Some(&good)).await), Some(ErrorKind::FailedPrecondition));
    assert_eq!(store.content.status(&ns(), "a").await.unwrap().offset, 3);
    assert_eq!(commit("lo", 5, Some(&good)).await.unwrap(), good);
    // Too long, or of another digest: nothing can mend that.
    for (text, size) in [("hello, world", 5), ("hallo", 5), ("hallo", 0)] {
        let other = sha256("hullo");
        let refused = commit(text, size, Some(&other)).await;
        assert_eq!(kind(refused), Some(ErrorKind::FailedPrecondition));
        assert_eq!(store.ingests(), 0);
    }
    let long = labels(&[("a", &"x".repeat(5000))]);
    let writer = store.open(to("b")).await.unwrap();
    assert_eq!(kind(writer.commit(0, None, long).await), Some(ErrorKind::InvalidArgument));
    for reference in ["", "a\0b", &"x".repeat(4097)] {
        assert_eq!(kind(store.open(to(reference)).await), Some(ErrorKind::InvalidArgument));
    }
    let longest = "x".repeat(4096);
    drop(store.open(to(&longest)).await.unwrap());
    let listed = store.content.statuses(&ns(), &[format!("ref=={longest}")]).await.unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(store.content.list(&ns(), NONE).await.unwrap().len(), 1);
}

#[tokio::test]
async fn what_exists_is_not_written_again() {
    let store = Store::new(Sharing::Shared).await;
    let digest = store.put(&ns(), "hello").await.unwrap();
    let known = store.open(expecting("a", &digest)).await;
    assert_eq!(kind(known), Some(ErrorKind::AlreadyExists));
    assert_eq!(kind(store.put(&ns(), "hello").await), Some(ErrorKind::AlreadyExists));
    assert_eq!(store.ingests(), 0);
    assert_eq!(store.text(&ns(), &digest).await.unwrap(), "hello");
}

#[tokio::test]
async fn other_algorithms_are_as_good() {
    let store = Store::new(Sharing::Shared).await;
    for algorithm in Algorithm::ALL {
        let digest = Digest::of(algorithm, algorithm.name().as_bytes());
        // Known before, or told with the commit only.
        for ingestion in [expecting("a", &digest), to("a")] {
            let mut writer = store.open(ingestion).await.unwrap();
            writer.write(algorithm.name()).await.unwrap();
            let committed = writer.commit(0, Some(digest.clone()), BTreeMap::new()).await.unwrap();
            assert_eq!(committed, digest);
            assert!(store.blob(&digest).exists());
            store.content.delete(&ns(), &digest, None).await.unwrap();
            assert!(!store.blob(&digest).exists());
        }
    }
}

#[tokio::test]
async fn a_reference_has_one_writer_in_a_namespace() {
    let store = Store::new(Sharing::Shared).await;
    let mut writer = store.open(to("a")).await.unwrap();
    writer.write("x").await.unwrap();
    assert_eq!(kind(store.open(to("a")).await), Some(ErrorKind::Unavailable));
    assert_eq!(kind(store.content.abort(&ns(), "a", None).await), Some(ErrorKind::Unavailable));
    // Even if there is nothing left to write.
    let digest = store.put(&ns(), "hello").await.unwrap();
    assert_eq!(kind(store.open(expecting("a", &digest)).await), Some(ErrorKind::Unavailable));
    let other = store.content.writer(&id("other"), to("a")).await.unwrap();
    assert_eq!(other.status().unwrap().offset, 0);
    // Whoever comes while the first one leaves waits for that.
    let (next, ()) = tokio::join!(store.open(to("a")), async { drop(writer) });
    assert_eq!(next.unwrap().status().unwrap().offset, 1);
}

#[tokio::test]
async fn a_lease_holds_what_is_written_with_it() {
    let store = Store::new(Sharing::Shared).await;
    let leases = &store.world.leases;
    leases.create(&ns(), "l", BTreeMap::new()).await.unwrap();
    let with = |ingestion: Ingestion| Ingestion { lease: Some("l".into()), ..ingestion };
    let resource = |kind: &str, id: &str| Resource { kind: kind.into(), id: id.into() };
    let mut writer = store.open(with(to("a"))).await.unwrap();
    assert_eq!(leases.resources(&ns(), "l").await.unwrap(), [resource("ingests", "a")]);
    writer.write("hello").await.unwrap();
    let digest = writer.commit(0, None, BTreeMap::new()).await.unwrap();
    let held = [resource("content", &digest.to_string())];
    assert_eq!(leases.resources(&ns(), "l").await.unwrap(), held);
    store.content.delete(&ns(), &digest, Some("l")).await.unwrap();
    assert_eq!(leases.resources(&ns(), "l").await.unwrap(), []);

    // Also what was there before.
    let digest = store.put(&ns(), "hello").await.unwrap();
    let exists = store.open(with(expecting("a", &digest))).await;
    assert_eq!(kind(exists), Some(ErrorKind::AlreadyExists));
    assert_eq!(leases.resources(&ns(), "l").await.unwrap(), held);
    drop(store.open(with(to("b"))).await.unwrap());
    store.content.abort(&ns(), "b", Some("l")).await.unwrap();
    assert_eq!(leases.resources(&ns(), "l").await.unwrap(), held);

    // What is removed is let go of: what was wrong, and what was never there.
    let mut wrong = store.open(with(to("c"))).await.unwrap();
    wrong.write("hallo").await.unwrap();
    let refused = wrong.commit(0, Some(digest), BTreeMap::new()).await;
    assert_eq!(kind(refused), Some(ErrorKind::FailedPrecondition));
    assert_eq!(leases.resources(&ns(), "l").await.unwrap(), held);
    let shared = store.put(&id("other"), "bye").await.unwrap();
    drop(store.open(with(expecting("d", &shared))).await.unwrap());
    let nothing = store.content.abort(&ns(), "d", Some("l")).await;
    assert_eq!(kind(nothing), Some(ErrorKind::NotFound));
    assert_eq!(leases.resources(&ns(), "l").await.unwrap(), held);

    let nobody = Ingestion { lease: Some("nobody".into()), ..to("c") };
    assert_eq!(kind(store.open(nobody).await), Some(ErrorKind::NotFound));
    assert_eq!(store.ingests(), 0);
}

#[tokio::test]
async fn labels_are_updated_as_the_mask_says() {
    let store = Store::new(Sharing::Shared).await;
    let digest = store.put(&ns(), "hello").await.unwrap();
    let update = async |new: &[(&str, &str)], paths: &[&str]| {
        let info = store.content.update(&ns(), &digest, labels(new), paths).await?;
        assert_eq!(store.content.info(&ns(), &digest).await.unwrap(), info);
        Ok::<_, Error>(info.labels)
    };
    assert_eq!(update(&[("a", "1")], &[]).await.unwrap(), labels(&[("a", "1")]));
    let both = labels(&[("a", "1"), ("b.c", "2")]);
    assert_eq!(update(&[("a", "x"), ("b.c", "2")], &["labels.b.c"]).await.unwrap(), both);
    assert_eq!(update(&[], &["labels.a"]).await.unwrap(), labels(&[("b.c", "2")]));
    assert_eq!(update(&[("d", "3")], &["labels"]).await.unwrap(), labels(&[("d", "3")]));
    for paths in [&["size"][..], &["labels", "size"], &["size", "labels"]] {
        assert_eq!(kind(update(&[], paths).await), Some(ErrorKind::InvalidArgument));
    }
}
