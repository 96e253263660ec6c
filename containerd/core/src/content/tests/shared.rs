//! Content that several namespaces have.

use super::*;

#[tokio::test]
async fn shared_content_is_had_by_naming_it() {
    let store = Store::new(Sharing::Shared).await;
    let other = id("other");
    let digest = store.put(&other, "hello").await.unwrap();
    assert_eq!(kind(store.content.info(&ns(), &digest).await), Some(ErrorKind::NotFound));
    let writer = store.open(expecting("a", &digest)).await.unwrap();
    let status = writer.status().unwrap();
    assert_eq!((status.offset, status.total), (5, 5));
    assert_eq!(writer.digest().unwrap(), digest);
    writer.commit(5, Some(digest.clone()), labels(&[("a", "b")])).await.unwrap();
    assert_eq!(store.content.info(&ns(), &digest).await.unwrap().labels, labels(&[("a", "b")]));
    assert_eq!(store.content.info(&other, &digest).await.unwrap().labels, BTreeMap::new());
    // What was written to the reference before is of no more use.
    let third = id("third");
    let mut writer = store.content.writer(&third, to("a")).await.unwrap();
    writer.write("hel").await.unwrap();
    drop(writer);
    let writer = store.content.writer(&third, expecting("a", &digest)).await.unwrap();
    writer.commit(5, None, BTreeMap::new()).await.unwrap();
    assert_eq!(store.ingests(), 0);
    store.content.delete(&third, &digest, None).await.unwrap();
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
    let five = Ingestion { total: 5, ..expecting("a", &digest) };
    let mut anew = store.open(five).await.unwrap();
    anew.clear().await.unwrap();
    let status = anew.status().unwrap();
    assert_eq!((status.offset, status.total), (0, 5));
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
