//! Content that is with another process.

use containerd_api::services::content::v1::content_server::ContentServer;
use containerd_core::{
    content::{Algorithm, Content, ContentConfig, Digest, Ingestion, Sharing, Writer},
    gc::{Collected, Collector, SweepSnapshots},
    leases::Leases,
};
use shim_protocol::Error;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{proxy::ContentStore, services::content};

const NONE: &[&str] = &[];

/// The namespace of the other process: the name of the plugin.
const THERE: &str = "elsewhere";

/// There are no snapshots.
struct Nothing;

#[async_trait]
impl SweepSnapshots for Nothing {
    fn names(&self) -> Vec<String> {
        Vec::new()
    }

    async fn sweep(&self, _: &str) -> Result<()> {
        Ok(())
    }
}

/// Another process.
struct Process {
    runtime: Option<Runtime>,
    content: Content,
    db: Db,
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Another process, and our content there. It can end and come again.
struct Scene {
    folder: TempDir,
    content: Content,
    leases: Leases,
    collector: Collector,
    process: Option<Process>,
}

impl Scene {
    async fn new(sharing: Sharing) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let db = Db::open(&folder.path().join("here")).await.unwrap();
        let socket = folder.path().join("socket").display().to_string();
        let store = Arc::new(ContentStore::new(THERE, &socket, 16 << 20).unwrap());
        let content = Content::remote(store, sharing, false, db.clone());
        let leases = Leases::new(db.clone());
        let announcer = Announcer::start(Arc::new(Silence));
        let collector = Collector::new(db, announcer, content.clone(), Arc::new(Nothing));
        let mut scene = Self { folder, content, leases, collector, process: None };
        scene.start().await;
        scene
    }

    async fn start(&mut self) {
        let runtime = Runtime::new().unwrap();
        let (root, socket) = (self.folder.path().join("there"), self.folder.path().join("socket"));
        let serve = async move {
            let db = Db::open(&root).await.unwrap();
            let (root, sharing) = (root.join("content"), Sharing::Isolated);
            let config = ContentConfig { root, sharing, foreign: false };
            let content = Content::open(config, db.clone()).await.unwrap();
            let stop = CancellationToken::new();
            let service = content::Service { content: content.clone(), stop };
            let incoming = UnixListenerStream::new(UnixListener::bind(&socket).unwrap());
            let server = Server::builder()
                .add_service(ContentServer::new(service).max_decoding_message_size(16 << 20));
            tokio::spawn(async move { server.serve_with_incoming(incoming).await });
            (content, db)
        };
        let (content, db) = runtime.spawn(serve).await.unwrap();
        self.process = Some(Process { runtime: Some(runtime), content, db });
    }

    /// It ends with all its connections, as a process does, and its end is noticed.
    async fn end(&mut self) {
        let mut process = self.process.take().unwrap();
        let runtime = process.runtime.take();
        tokio::task::spawn_blocking(|| drop(runtime)).await.unwrap();
        // It can be opened again when the thread that writes is gone as well.
        process.db.shutdown().await;
        drop(process);
        std::fs::remove_file(self.folder.path().join("socket")).unwrap();
        while kind(self.content.status(&ns(), "none").await) != Some(ErrorKind::Unavailable) {}
    }

    /// What the other process has.
    fn there(&self) -> &Content {
        &self.process.as_ref().unwrap().content
    }

    async fn blobs_there(&self) -> usize {
        self.there().list(&id(THERE), NONE).await.unwrap().len()
    }

    async fn ingests_there(&self) -> Vec<String> {
        let found = self.there().statuses(&id(THERE), NONE).await.unwrap();
        found.into_iter().map(|status| status.reference).collect()
    }

    async fn open(&self, ingestion: Ingestion) -> Result<Writer> {
        self.content.writer(&ns(), ingestion).await
    }

    async fn put(&self, namespace: &Id, text: &str) -> Result<Digest> {
        let mut writer = self.content.writer(namespace, to(text)).await?;
        writer.write(text.to_owned()).await?;
        writer.commit(0, None, BTreeMap::new()).await
    }

    async fn text(&self, namespace: &Id, digest: &Digest) -> Result<String> {
        let blob = self.content.read(namespace, digest).await?;
        let read = tokio::task::spawn_blocking(move || {
            let mut text = vec![0; usize::try_from(blob.size()).unwrap() + 1];
            let read = blob.read_at(0, &mut text)?;
            text.truncate(read);
            Ok::<_, Error>(text)
        });
        Ok(String::from_utf8(read.await.unwrap()?).unwrap())
    }

    async fn collect(&self) -> Result<Collected> {
        self.collector.collect().await
    }
}

fn id(name: &str) -> Id {
    Id::new("namespace", name).unwrap()
}

fn ns() -> Id {
    id("ns")
}

fn sha256(text: &str) -> Digest {
    Digest::of(Algorithm::Sha256, text.as_bytes())
}

fn to(reference: &str) -> Ingestion {
    Ingestion { reference: reference.into(), ..Default::default() }
}

fn labels(labels: &[(&str, &str)]) -> BTreeMap<String, String> {
    labels.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_committed_is_read_until_it_is_deleted() {
    let scene = Scene::new(Sharing::Shared).await;
    let mut writer = scene.open(to("a")).await.unwrap();
    assert_eq!(writer.digest().unwrap(), sha256(""));
    for piece in ["he", "", "llo"] {
        writer.write(piece).await.unwrap();
    }
    let status = writer.status().unwrap();
    assert_eq!((status.offset, status.total, status.reference.as_str()), (5, 0, "a"));
    assert_eq!(writer.digest().unwrap(), sha256("hello"));
    assert_eq!(scene.ingests_there().await, ["ns/1/a"]);
    let kept = labels(&[("kind", "greeting")]);
    let digest = writer.commit(5, Some(sha256("hello")), kept.clone()).await.unwrap();

    let info = scene.content.info(&ns(), &digest).await.unwrap();
    assert_eq!((info.size, info.labels), (5, kept));
    assert_eq!(scene.text(&ns(), &digest).await.unwrap(), "hello");
    // What is ours is not told; what is theirs keeps it there.
    let there = scene.there().info(&id(THERE), &digest).await.unwrap();
    let keys: Vec<_> = there.labels.keys().map(String::as_str).collect();
    assert_eq!((there.size, keys), (5, vec!["containerd.io/gc.root"]));
    assert_eq!(scene.ingests_there().await, [""; 0]);
    assert_eq!(kind(scene.put(&ns(), "hello").await), Some(ErrorKind::AlreadyExists));
    assert_eq!(scene.ingests_there().await, [""; 0]);
    let empty = scene.put(&ns(), "").await.unwrap_err();
    assert_eq!(empty.kind(), ErrorKind::InvalidArgument);

    scene.content.delete(&ns(), &digest, None).await.unwrap();
    for gone in [
        kind(scene.content.info(&ns(), &digest).await),
        kind(scene.content.read(&ns(), &digest).await),
        kind(scene.content.delete(&ns(), &digest, None).await),
    ] {
        assert_eq!(gone, Some(ErrorKind::NotFound));
    }
    assert_eq!(scene.blobs_there().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn large_content_is_read_from_anywhere() {
    let scene = Scene::new(Sharing::Shared).await;
    let bytes: Vec<u8> = (0..5_000_000_u32).map(|n| (n % 251) as u8).collect();
    let mut writer = scene.open(to("large")).await.unwrap();
    writer.write(bytes.clone()).await.unwrap();
    let digest = writer.commit(5_000_000, None, BTreeMap::new()).await.unwrap();
    assert_eq!(digest, Digest::of(Algorithm::Sha256, &bytes));
    let blob = scene.content.read(&ns(), &digest).await.unwrap();
    let read = tokio::task::spawn_blocking(move || {
        for (offset, length) in [
            (0, 1),
            (1, 10),
            (1_048_570, 20),
            (4_999_990, 10),
            (0, 5_000_000),
            (7, 3_000_000),
            (4_999_999, 1),
            (5_000_000, 0),
        ] {
            let mut buffer = vec![0; length + 1];
            // One more than there is shows the end, if it is that.
            let wanted = (length + 1).min(bytes.len() - offset);
            assert_eq!(blob.read_at(offset as u64, &mut buffer).unwrap(), wanted);
            assert!(buffer[..wanted] == bytes[offset..offset + wanted], "{offset} {length}");
        }
    });
    read.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn writing_goes_on_where_it_stopped() {
    let scene = Scene::new(Sharing::Shared).await;
    let of = |total: u64| Ingestion { total, ..to("a") };
    let mut writer = scene.open(of(5)).await.unwrap();
    writer.write("hel").await.unwrap();
    // Nobody else has it meanwhile.
    assert_eq!(kind(scene.open(of(5)).await), Some(ErrorKind::Unavailable));
    drop(writer);
    let status = scene.content.status(&ns(), "a").await.unwrap();
    assert_eq!((status.offset, status.total, status.reference.as_str()), (3, 5, "a"));
    let found = scene.content.statuses(&ns(), NONE).await.unwrap();
    assert_eq!(found.iter().map(|found| found.reference.as_str()).collect::<Vec<_>>(), ["a"]);
    assert_eq!(scene.content.statuses(&id("other"), NONE).await.unwrap(), []);
    let mut writer = scene.open(of(5)).await.unwrap();
    assert_eq!(writer.status().unwrap().offset, 3);
    writer.write("lo").await.unwrap();
    let digest = writer.commit(5, Some(sha256("hello")), BTreeMap::new()).await.unwrap();
    assert_eq!(scene.text(&ns(), &digest).await.unwrap(), "hello");

    let mut writer = scene.open(of(5)).await.unwrap();
    writer.write("hel").await.unwrap();
    writer.clear().await.unwrap();
    assert_eq!((writer.status().unwrap().offset, writer.digest().unwrap()), (0, sha256("")));
    writer.write("bye").await.unwrap();
    drop(writer);
    // Another length was announced, so it is something else.
    let mut writer = scene.open(of(4)).await.unwrap();
    assert_eq!(writer.status().unwrap().offset, 0);
    writer.write("a").await.unwrap();
    drop(writer);
    scene.content.abort(&ns(), "a", None).await.unwrap();
    assert_eq!(kind(scene.content.abort(&ns(), "a", None).await), Some(ErrorKind::NotFound));
    assert_eq!(scene.ingests_there().await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_content_is_refused_and_forgotten() {
    let scene = Scene::new(Sharing::Shared).await;
    for (size, expected, stays) in [
        (4, None, false),
        (0, Some(sha256("other")), false),
        (0, Some(Digest::of(Algorithm::Sha512, b"other")), false),
        // There may be more to come.
        (6, None, true),
    ] {
        let mut writer = scene.open(to("a")).await.unwrap();
        writer.clear().await.unwrap();
        writer.write("hello").await.unwrap();
        let refused = writer.commit(size, expected, BTreeMap::new()).await;
        assert_eq!(kind(refused), Some(ErrorKind::FailedPrecondition), "{size}");
        assert_eq!(scene.ingests_there().await.len(), usize::from(stays), "{size}");
    }
    let mut writer = scene.open(to("b")).await.unwrap();
    writer.write("hello").await.unwrap();
    let expected = Digest::of(Algorithm::Sha512, b"hello");
    let digest = writer.commit(5, Some(expected.clone()), BTreeMap::new()).await.unwrap();
    assert_eq!(digest, expected);
    assert_eq!(scene.text(&ns(), &digest).await.unwrap(), "hello");
}

#[tokio::test(flavor = "multi_thread")]
async fn namespaces_share_what_is_there() {
    let scene = Scene::new(Sharing::Shared).await;
    let digest = scene.put(&ns(), "hello").await.unwrap();
    let other = id("other");
    let expecting = || Ingestion { expected: Some(digest.clone()), ..to("a") };
    let writer = scene.content.writer(&other, expecting()).await.unwrap();
    assert_eq!(writer.status().unwrap().offset, 5);
    writer.commit(5, None, BTreeMap::new()).await.unwrap();
    assert_eq!(scene.text(&other, &digest).await.unwrap(), "hello");
    scene.content.delete(&ns(), &digest, None).await.unwrap();
    assert_eq!(scene.text(&other, &digest).await.unwrap(), "hello");
    // What is shared can be the beginning of something else.
    let mut writer = scene.content.writer(&ns(), expecting()).await.unwrap();
    writer.write(" world").await.unwrap();
    let longer = writer.commit(11, None, BTreeMap::new()).await.unwrap();
    assert_eq!(longer, sha256("hello world"));
    assert_eq!(scene.text(&ns(), &longer).await.unwrap(), "hello world");
    assert_eq!(scene.ingests_there().await, [""; 0]);
    assert_eq!(scene.blobs_there().await, 2);

    let scene = Scene::new(Sharing::Isolated).await;
    let digest = scene.put(&ns(), "hello").await.unwrap();
    let expecting = Ingestion { expected: Some(digest.clone()), ..to("a") };
    let mut writer = scene.content.writer(&other, expecting).await.unwrap();
    assert_eq!(writer.status().unwrap().offset, 0);
    writer.write("hello").await.unwrap();
    // It was there, but not for this namespace.
    writer.commit(5, Some(digest.clone()), BTreeMap::new()).await.unwrap();
    assert_eq!(scene.text(&other, &digest).await.unwrap(), "hello");
    assert_eq!(scene.blobs_there().await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_goes_there_too() {
    let scene = Scene::new(Sharing::Shared).await;
    scene.leases.create(&ns(), "l", BTreeMap::new()).await.unwrap();
    let leased = |name: &str| Ingestion { lease: Some("l".into()), ..to(name) };
    let mut writer = scene.open(leased("blob")).await.unwrap();
    writer.write("blob").await.unwrap();
    let digest = writer.commit(0, None, BTreeMap::new()).await.unwrap();
    let mut writer = scene.open(leased("ingest")).await.unwrap();
    writer.write("ingest").await.unwrap();
    drop(writer);
    // Its writer may come back within a day.
    drop(scene.open(to("free")).await.unwrap());
    let collected = scene.collect().await.unwrap();
    assert_eq!((collected.content, collected.ingests), (0, 0));
    assert_eq!(scene.text(&ns(), &digest).await.unwrap(), "blob");

    scene.leases.delete(&ns(), "l").await.unwrap();
    let collected = scene.collect().await.unwrap();
    assert_eq!((collected.content, collected.ingests), (1, 1));
    assert_eq!(
        (scene.blobs_there().await, scene.ingests_there().await),
        (0, vec!["ns/1/free".into()])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_ends_is_not_available_until_it_is_back() {
    let mut scene = Scene::new(Sharing::Shared).await;
    let unavailable = Some(ErrorKind::Unavailable);
    let kept = scene.put(&ns(), "kept").await.unwrap();
    let deleted = scene.put(&ns(), "deleted").await.unwrap();
    scene.put(&ns(), "garbage").await.unwrap();
    scene.leases.create(&ns(), "l", BTreeMap::new()).await.unwrap();
    assert!(scene.content.hold_existing(&ns(), &kept, Some("l")).await.unwrap());
    let of = || Ingestion { total: 5, lease: Some("l".into()), ..to("a") };
    let mut writer = scene.open(of()).await.unwrap();
    writer.write("hel").await.unwrap();
    let blob = scene.content.read(&ns(), &kept).await.unwrap();
    scene.end().await;

    assert_eq!(kind(writer.write("lo").await), unavailable);
    let committed = writer.commit(5, None, BTreeMap::new()).await;
    assert!(committed.is_err());
    let read = tokio::task::spawn_blocking(move || blob.read_at(0, &mut [0]));
    assert_eq!(kind(read.await.unwrap()), unavailable);
    assert_eq!(kind(scene.open(of()).await), unavailable);
    assert_eq!(kind(scene.content.read(&ns(), &kept).await), unavailable);
    assert_eq!(kind(scene.content.statuses(&ns(), NONE).await), unavailable);
    assert_eq!(kind(scene.content.abort(&ns(), "a", None).await), unavailable);
    assert_eq!(kind(scene.content.read(&ns(), &sha256("x")).await), unavailable);
    // What is recorded is known.
    assert_eq!(scene.content.info(&ns(), &kept).await.unwrap().size, 4);
    assert_eq!(kind(scene.content.info(&ns(), &sha256("x")).await), Some(ErrorKind::NotFound));
    // The bytes go when they can.
    scene.content.delete(&ns(), &deleted, None).await.unwrap();
    assert_eq!(kind(scene.collect().await), unavailable);

    scene.start().await;
    let mut writer = scene.open(of()).await.unwrap();
    assert_eq!(writer.status().unwrap().offset, 3);
    writer.write("lo").await.unwrap();
    writer.commit(5, Some(sha256("hello")), BTreeMap::new()).await.unwrap();
    assert_eq!(scene.text(&ns(), &kept).await.unwrap(), "kept");
    assert_eq!(scene.blobs_there().await, 4);
    scene.collect().await.unwrap();
    assert_eq!(scene.blobs_there().await, 2);
}

#[tokio::test]
async fn a_name_is_one_of_a_namespace() {
    assert!(ContentStore::new("a", "/socket", 1).is_ok());
    for (name, address) in [("a b", "/socket"), ("", "/socket"), ("a", "socket")] {
        let refused = ContentStore::new(name, address, 1);
        assert_eq!(kind(refused), Some(ErrorKind::InvalidArgument), "{name:?} {address:?}");
    }
}
