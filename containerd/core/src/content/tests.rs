//! Content as clients see it, and as it lies on disk.

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
        let content = Content::open(folder.path(), world.db.clone(), sharing).await.unwrap();
        Self { world, folder, content }
    }

    /// The store as the next daemon opens it.
    async fn reopen(&mut self) {
        self.content.shutdown().await;
        let db = self.world.db.clone();
        self.content = Content::open(self.folder.path(), db, Sharing::Shared).await.unwrap();
    }

    fn blob(&self, digest: &Digest) -> PathBuf {
        self.folder.path().join("blobs").join(digest.algorithm().name()).join(digest.hex())
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
            assert_eq!(store.content.recover(false).await.unwrap(), Recovered::default());
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
    assert_eq!(kind(store.open(to("")).await), Some(ErrorKind::InvalidArgument));
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
    let other = store.content.writer(&id("other"), to("a")).await.unwrap();
    assert_eq!(other.status().unwrap().offset, 0);
    // Whoever comes while the first one leaves waits for that.
    let (next, ()) = tokio::join!(store.open(to("a")), async { drop(writer) });
    assert_eq!(next.unwrap().status().unwrap().offset, 1);
}

#[tokio::test]
async fn shared_content_is_had_by_naming_it() {
    let store = Store::new(Sharing::Shared).await;
    let other = id("other");
    let digest = store.put(&other, "hello").await.unwrap();
    assert_eq!(kind(store.content.info(&ns(), &digest).await), Some(ErrorKind::NotFound));
    let writer = store.open(expecting("a", &digest)).await.unwrap();
    let status = writer.status().unwrap();
    assert_eq!((status.offset, status.total, status.expected), (5, 5, Some(digest.clone())));
    assert_eq!(writer.digest().unwrap(), digest);
    writer.commit(5, Some(digest.clone()), labels(&[("a", "b")])).await.unwrap();
    assert_eq!(store.content.info(&ns(), &digest).await.unwrap().labels, labels(&[("a", "b")]));
    assert_eq!(store.content.info(&other, &digest).await.unwrap().labels, BTreeMap::new());
    // The bytes stay as long as anybody has them.
    store.content.delete(&other, &digest, None).await.unwrap();
    assert_eq!(store.text(&ns(), &digest).await.unwrap(), "hello");
    store.content.delete(&ns(), &digest, None).await.unwrap();
    assert!(!store.blob(&digest).exists());
}

#[tokio::test]
async fn shared_content_may_turn_out_to_be_another() {
    let store = Store::new(Sharing::Shared).await;
    let digest = store.put(&id("other"), "hello").await.unwrap();
    let mut longer = store.open(expecting("a", &digest)).await.unwrap();
    longer.write(", world").await.unwrap();
    let committed = longer.commit(0, None, BTreeMap::new()).await.unwrap();
    assert_eq!(committed, sha256("hello, world"));
    let mut anew = store.open(expecting("a", &digest)).await.unwrap();
    anew.clear().await.unwrap();
    anew.write("bye").await.unwrap();
    assert_eq!(anew.commit(3, None, BTreeMap::new()).await.unwrap(), sha256("bye"));
    let wrong = store.open(expecting("a", &digest)).await.unwrap();
    let refused = wrong.commit(4, None, BTreeMap::new()).await;
    assert_eq!(kind(refused), Some(ErrorKind::FailedPrecondition));
    // A wrong size means that it is not taken for it at all.
    let sized = Ingestion { total: 4, ..expecting("a", &digest) };
    assert_eq!(store.open(sized).await.unwrap().status().unwrap().offset, 0);
    assert_eq!(store.text(&id("other"), &digest).await.unwrap(), "hello");
}

#[tokio::test]
async fn shared_content_that_is_deleted_meanwhile_is_kept() {
    let store = Store::new(Sharing::Shared).await;
    let digest = store.put(&id("other"), "hello").await.unwrap();
    let writer = store.open(expecting("a", &digest)).await.unwrap();
    store.content.delete(&id("other"), &digest, None).await.unwrap();
    assert!(!store.blob(&digest).exists());
    writer.commit(5, Some(digest.clone()), BTreeMap::new()).await.unwrap();
    assert_eq!(store.text(&ns(), &digest).await.unwrap(), "hello");
    assert_eq!(store.ingests(), 0);
}

#[tokio::test]
async fn isolated_content_has_to_be_brought() {
    let store = Store::new(Sharing::Isolated).await;
    let other = id("other");
    let digest = store.put(&other, "hello").await.unwrap();
    let offset = async || {
        let writer = store.open(expecting("a", &digest)).await.unwrap();
        writer.status().unwrap().offset
    };
    assert_eq!(offset().await, 0);
    let shareable = crate::namespaces::Namespace {
        name: other.clone(),
        labels: labels(&[(SHAREABLE_LABEL, "true")]),
    };
    store.world.namespaces.update(shareable, NONE).await.unwrap();
    assert_eq!(offset().await, 5);
    let mut writer = store.open(to("b")).await.unwrap();
    writer.write("hello").await.unwrap();
    writer.commit(0, None, BTreeMap::new()).await.unwrap();
    assert_eq!(store.text(&ns(), &digest).await.unwrap(), "hello");
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
    assert_eq!(kind(update(&[], &["size"]).await), Some(ErrorKind::InvalidArgument));
}

#[tokio::test]
async fn what_a_killed_daemon_left_is_put_right() {
    let mut store = Store::new(Sharing::Shared).await;
    let kept = store.put(&ns(), "kept").await.unwrap();
    let lost = store.put(&ns(), "lost").await.unwrap();
    fs::remove_file(store.blob(&lost)).unwrap();
    // Renamed, but not recorded; and an ingest that was begun, and one that
    // was at its end.
    let orphan = sha256("orphan");
    fs::write(store.blob(&orphan), "orphan").unwrap();
    fs::write(store.folder.path().join("blobs/sha256/README"), "not ours").unwrap();
    let ingest = store.folder.path().join("ingest");
    fs::create_dir(ingest.join("begun")).unwrap();
    let mut writer = store.open(to("ended")).await.unwrap();
    writer.write("x").await.unwrap();
    drop(writer);
    store.reopen().await;
    fs::remove_file(ingest.join(sha256("ns/1/ended").hex()).join("data")).unwrap();

    let foreign = store.content.recover(true).await.unwrap();
    assert_eq!(foreign, Recovered { removed: 0, lost: 1 });
    assert!(store.blob(&orphan).exists());
    let recovered = store.content.recover(false).await.unwrap();
    assert_eq!(recovered, Recovered { removed: 1, lost: 1 });
    assert!(!store.blob(&orphan).exists());
    assert_eq!(store.ingests(), 0);
    assert!(store.folder.path().join("blobs/sha256/README").exists());
    assert_eq!(store.text(&ns(), &kept).await.unwrap(), "kept");

    // Whoever fetches it again mends it.
    assert_eq!(kind(store.content.read(&ns(), &lost).await), Some(ErrorKind::NotFound));
    let mut writer = store.open(expecting("a", &lost)).await.unwrap();
    writer.write("lost").await.unwrap();
    writer.commit(4, Some(lost.clone()), BTreeMap::new()).await.unwrap();
    assert_eq!(store.text(&ns(), &lost).await.unwrap(), "lost");
}

/// Several namespaces write, share and delete the same content all the time;
/// what one of them has just committed must be there until it deletes it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_takes_away_what_another_one_has() {
    let store = Store::new(Sharing::Shared).await;
    let digest = sha256("hello");
    let mut workers = tokio::task::JoinSet::new();
    for worker in 0..6 {
        let (content, digest) = (store.content.clone(), digest.clone());
        workers.spawn(async move {
            let namespace = id(&format!("ns{worker}"));
            for round in 0..25 {
                let ingestion = if round % 2 == 0 { to("a") } else { expecting("a", &digest) };
                let mut writer = content.writer(&namespace, ingestion).await.unwrap();
                if writer.status().unwrap().offset == 0 {
                    writer.write("hello").await.unwrap();
                }
                writer.commit(5, Some(digest.clone()), BTreeMap::new()).await.unwrap();
                let blob = content.read(&namespace, &digest).await.unwrap();
                assert_eq!(blob.size(), 5);
                content.delete(&namespace, &digest, None).await.unwrap();
            }
        });
    }
    while let Some(ended) = workers.join_next().await {
        ended.unwrap();
    }
    assert!(!store.blob(&digest).exists());
    assert_eq!(store.ingests(), 0);
}
