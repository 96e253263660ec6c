//! What killed daemons, failing disks and clients that go away do to content.

use nix::{sys::stat::Mode, unistd::mkfifo};

use super::*;
use crate::metadata::testing::Random;

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
    fs::create_dir(store.ingest("begun")).unwrap();
    let mut writer = store.open(to("ended")).await.unwrap();
    writer.write("x").await.unwrap();
    drop(writer);
    store.reopen_foreign().await;
    fs::remove_file(store.ingest("ended").join("data")).unwrap();

    let foreign = store.content.recover().await.unwrap();
    assert_eq!(foreign, Recovered { removed: 0, lost: 1 });
    assert!(store.blob(&orphan).exists());
    store.reopen().await;
    let recovered = store.content.recover().await.unwrap();
    assert_eq!(recovered, Recovered { removed: 1, lost: 1 });
    assert!(!store.blob(&orphan).exists());
    assert_eq!(store.ingests(), 0);
    assert!(store.folder.path().join("blobs/sha256/README").exists());
    assert_eq!(store.text(&ns(), &kept).await.unwrap(), "kept");
}

/// Whoever fetches it again mends it.
#[tokio::test]
async fn content_that_the_disk_lost_counts_as_missing() {
    let store = Store::new(Sharing::Shared).await;
    let digest = store.put(&ns(), "hello").await.unwrap();
    let new = labels(&[("a", "1"), ("b", "2")]);
    let first = store.content.update(&ns(), &digest, new, NONE).await.unwrap();
    let blob = store.blob(&digest);
    let damage: [&dyn Fn(); 3] = [&|| {}, &|| fs::write(&blob, "hell").unwrap(), &|| {
        fs::create_dir_all(blob.join("folder")).unwrap()
    }];
    for damage in damage {
        fs::remove_file(&blob).unwrap();
        damage();
        let recovered = store.content.recover().await.unwrap();
        assert_eq!(recovered, Recovered { removed: 0, lost: 1 });
        assert_eq!(kind(store.content.read(&ns(), &digest).await), Some(ErrorKind::NotFound));
        assert!(!store.content.hold_existing(&ns(), &digest, None).await.unwrap());
        let mut writer = store.open(expecting("a", &digest)).await.unwrap();
        assert_eq!(writer.status().unwrap().offset, 0);
        writer.write("hello").await.unwrap();
        let new = labels(&[("b", "3"), ("c", "4")]);
        writer.commit(5, Some(digest.clone()), new).await.unwrap();
        assert_eq!(store.text(&ns(), &digest).await.unwrap(), "hello");
        assert!(store.content.hold_existing(&ns(), &digest, None).await.unwrap());
        let info = store.content.info(&ns(), &digest).await.unwrap();
        assert_eq!(info.labels, labels(&[("a", "1"), ("b", "3"), ("c", "4")]));
        assert_eq!(info.created_at, first.created_at);
    }
}

#[tokio::test]
async fn what_another_daemon_may_know_is_never_removed() {
    let mut store = Store::new(Sharing::Shared).await;
    store.reopen_foreign().await;
    let digest = store.put(&ns(), "hello").await.unwrap();
    store.content.delete(&ns(), &digest, None).await.unwrap();
    assert!(store.blob(&digest).exists());
    store.reopen().await;
    let recovered = store.content.recover().await.unwrap();
    assert_eq!(recovered, Recovered { removed: 1, lost: 0 });
}

#[tokio::test]
async fn what_is_no_ingest_does_no_harm() {
    let store = Store::new(Sharing::Shared).await;
    let ingests = store.folder.path().join("ingest");
    for name in ["README", sha256("ns/1/file").hex()] {
        fs::write(ingests.join(name), "stray").unwrap();
    }
    fs::create_dir(ingests.join("folder")).unwrap();
    // Nobody ever writes into this one.
    let mut writer = store.open(to("fifo")).await.unwrap();
    writer.write("x").await.unwrap();
    drop(writer);
    let path = store.ingest("fifo").join("ref");
    fs::remove_file(&path).unwrap();
    mkfifo(&path, Mode::S_IRWXU).unwrap();

    assert_eq!(store.content.statuses(&ns(), NONE).await.unwrap(), []);
    assert_eq!(kind(store.content.status(&ns(), "file").await), Some(ErrorKind::NotFound));
    store.content.shutdown().await;
    assert_eq!(store.content.recover().await.unwrap(), Recovered::default());
    assert_eq!(names(&ingests).len(), 3);
    assert!(!store.ingest("fifo").exists());
    // It is in the place of a reference.
    let writer = store.open(to("file")).await.unwrap();
    assert_eq!(writer.status().unwrap().offset, 0);
}

#[tokio::test]
async fn what_cannot_be_recorded_need_not_be_sent_again() {
    let store = Store::new(Sharing::Shared).await;
    store.world.leases.create(&ns(), "l", BTreeMap::new()).await.unwrap();
    let with_lease = Ingestion { lease: Some("l".into()), ..to("a") };
    let mut writer = store.open(with_lease).await.unwrap();
    writer.write("hello").await.unwrap();
    store.world.leases.delete(&ns(), "l").await.unwrap();
    let refused = writer.commit(5, None, BTreeMap::new()).await;
    assert_eq!(kind(refused), Some(ErrorKind::NotFound));

    let check = async || {
        let data = fs::metadata(store.ingest("a").join("data")).unwrap();
        assert_eq!((data.len(), data.permissions().mode() & 0o7777), (5, 0o644));
        assert!(!store.blob(&sha256("hello")).exists());
        let writer = store.open(to("a")).await.unwrap();
        assert_eq!(writer.status().unwrap().offset, 5);
        writer
    };
    let writer = check().await;
    store.world.disk.set_full(true);
    let many = (0..400).map(|i| (i.to_string(), "x".repeat(4000))).collect();
    let refused = writer.commit(5, None, many).await;
    assert_eq!(kind(refused), Some(ErrorKind::ResourceExhausted));
    store.world.disk.set_full(false);
    let digest = check().await.commit(5, None, BTreeMap::new()).await.unwrap();
    assert_eq!(store.text(&ns(), &digest).await.unwrap(), "hello");
    assert_eq!(store.ingests(), 0);
}

/// Power goes after any write of the database; files keep what they have.
#[tokio::test]
async fn a_commit_that_power_cuts_short_is_mended() {
    for operations in 0.. {
        let mut store = Store::new(Sharing::Shared).await;
        let mut writer = store.open(to("a")).await.unwrap();
        writer.write("hello").await.unwrap();
        store.world.disk.power_off_after(operations);
        let committed = writer.commit(5, None, BTreeMap::new()).await;

        store.world.disk = store.world.disk.after_power_loss(&mut Random::new(operations));
        store.world.db = store.world.disk.open().unwrap();
        store.reopen().await;
        let recovered = store.content.recover().await.unwrap();
        if committed.is_ok() {
            assert!(operations > 0);
            assert_eq!(recovered, Recovered::default());
            assert_eq!(store.text(&ns(), &sha256("hello")).await.unwrap(), "hello");
            return;
        }
        let mut writer = store.open(to("a")).await.unwrap();
        if writer.status().unwrap().offset == 0 {
            writer.write("hello").await.unwrap();
        }
        let again = writer.commit(5, None, BTreeMap::new()).await;
        assert!(matches!(kind(again), None | Some(ErrorKind::AlreadyExists)), "{operations}");
        assert_eq!(store.text(&ns(), &sha256("hello")).await.unwrap(), "hello");
        assert_eq!(store.ingests(), 0);
    }
}

#[tokio::test]
async fn a_delete_goes_on_without_its_client() {
    let store = Store::new(Sharing::Shared).await;
    let digest = store.put(&ns(), "hello").await.unwrap();
    let (content, named) = (store.content.clone(), digest.clone());
    cancel_when_held(&store, async move { content.delete(&ns(), &named, None).await }).await;
    store.world.disk.hold(false);
    store.content.shutdown().await;
    assert!(!store.blob(&digest).exists());
}

/// A reference is free when the work on it is over, not when its client goes.
#[tokio::test]
async fn a_reference_is_claimed_until_the_work_is_over() {
    let store = Store::new(Sharing::Shared).await;
    store.world.leases.create(&ns(), "l", BTreeMap::new()).await.unwrap();
    let with_lease = || Ingestion { lease: Some("l".into()), ..to("a") };
    let content = store.content.clone();
    let opening = with_lease();
    cancel_when_held(&store, async move { content.writer(&ns(), opening).await.map(drop) }).await;
    assert_eq!(kind(store.open(to("a")).await), Some(ErrorKind::Unavailable));
    store.world.disk.hold(false);
    let mut writer = store.open(with_lease()).await.unwrap();
    writer.write("x").await.unwrap();
    drop(writer);

    let content = store.content.clone();
    let abort = async move { content.abort(&ns(), "a", Some("l")).await };
    cancel_when_held(&store, abort).await;
    assert_eq!(kind(store.open(to("a")).await), Some(ErrorKind::Unavailable));
    store.world.disk.hold(false);
    store.content.shutdown().await;
    assert_eq!(store.ingests(), 0);
}

/// Starts work, and lets its client go while it waits for the database.
async fn cancel_when_held(store: &Store, work: impl Future<Output = Result<()>> + Send + 'static) {
    store.world.disk.hold(true);
    let client = tokio::spawn(work);
    let disk = store.world.disk.clone();
    tokio::task::spawn_blocking(move || disk.until_held()).await.unwrap();
    client.abort();
    assert!(client.await.unwrap_err().is_cancelled());
}
