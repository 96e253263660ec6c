//! Content that is with another process, whose answers are lost at the worst
//! moments.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::SystemTime,
};

use async_trait::async_trait;
use bytes::Bytes;

use super::*;

/// The other process.
#[derive(Clone, Default)]
struct Peer(Arc<Kept>);

#[derive(Default)]
struct Kept {
    blobs: Mutex<HashMap<Digest, Bytes>>,
    ingests: Mutex<BTreeMap<String, Vec<u8>>>,
    /// It does what it is asked to do next, but the answer is lost.
    unsure: AtomicBool,
}

impl Peer {
    fn blobs(&self) -> MutexGuard<'_, HashMap<Digest, Bytes>> {
        self.0.blobs.lock().unwrap()
    }

    fn ingests(&self) -> MutexGuard<'_, BTreeMap<String, Vec<u8>>> {
        self.0.ingests.lock().unwrap()
    }

    fn content(&self, world: &World) -> Content {
        Content::remote(Arc::new(self.clone()), Sharing::Shared, false, world.db.clone())
    }
}

/// What is written there.
struct Writing {
    peer: Peer,
    reference: String,
}

impl Writing {
    fn written(&self) -> Vec<u8> {
        self.peer.ingests()[&self.reference].clone()
    }
}

fn status(reference: &str, written: &[u8]) -> Status {
    let now = SystemTime::now();
    let offset = written.len() as u64;
    Status { reference: reference.into(), offset, total: 0, started_at: now, updated_at: now }
}

#[async_trait]
impl RemoteStore for Peer {
    async fn size(&self, digest: &Digest) -> Result<Option<u64>> {
        Ok(self.blobs().get(digest).map(|blob| blob.len() as u64))
    }

    async fn read(&self, digest: &Digest, offset: u64, length: u64) -> Result<Bytes> {
        let blobs = self.blobs();
        let blob = blobs.get(digest).ok_or_else(|| Error::not_found(digest.to_string()))?;
        let offset = usize::try_from(offset).unwrap();
        let end = blob.len().min(offset + usize::try_from(length).unwrap());
        Ok(blob.slice(offset..end))
    }

    async fn remove(&self, digest: &Digest) -> Result<()> {
        self.blobs().remove(digest);
        Ok(())
    }

    async fn list(&self) -> Result<HashMap<Digest, u64>> {
        Ok(self.blobs().iter().map(|(digest, blob)| (digest.clone(), blob.len() as u64)).collect())
    }

    async fn status(&self, reference: &str) -> Result<Option<Status>> {
        Ok(self.ingests().get(reference).map(|written| status(reference, written)))
    }

    async fn statuses(&self) -> Result<Vec<Status>> {
        Ok(self.ingests().iter().map(|(reference, written)| status(reference, written)).collect())
    }

    async fn abort(&self, reference: &str) -> Result<()> {
        self.ingests().remove(reference);
        Ok(())
    }

    async fn write(&self, reference: &str, _: u64) -> Result<Box<dyn RemoteWriter>> {
        self.ingests().entry(reference.to_owned()).or_default();
        Ok(Box::new(Writing { peer: self.clone(), reference: reference.to_owned() }))
    }
}

#[async_trait]
impl RemoteWriter for Writing {
    fn status(&self) -> Status {
        status(&self.reference, &self.written())
    }

    fn digest(&self) -> Digest {
        Digest::of(Algorithm::Sha256, &self.written())
    }

    async fn write(&mut self, piece: Bytes) -> Result<()> {
        self.peer.ingests().get_mut(&self.reference).unwrap().extend_from_slice(&piece);
        Ok(())
    }

    async fn clear(&mut self) -> Result<()> {
        self.peer.ingests().get_mut(&self.reference).unwrap().clear();
        Ok(())
    }

    async fn commit(&mut self, expected: &Digest) -> Result<()> {
        let written = self.written();
        let existed = self.peer.blobs().insert(expected.clone(), written.into()).is_some();
        if self.peer.0.unsure.swap(false, Ordering::Relaxed) {
            return Err(Error::unavailable("the connection broke"));
        }
        match existed {
            true => Err(Error::already_exists(expected.to_string())),
            false => Ok(()),
        }
    }
}

async fn put(content: &Content, text: &'static str) -> Result<Digest> {
    let mut writer = content.writer(&ns(), to(text)).await?;
    writer.clear().await?;
    writer.write(text).await?;
    writer.commit(0, None, BTreeMap::new()).await
}

#[tokio::test]
async fn what_may_have_been_committed_goes_if_nobody_has_it() {
    let (world, peer) = (World::new(), Peer::default());
    let content = peer.content(&world);
    for text in ["nobody's", "somebody's"] {
        peer.0.unsure.store(true, Ordering::Relaxed);
        assert_eq!(kind(put(&content, text).await), Some(ErrorKind::Unavailable));
    }
    assert_eq!(peer.blobs().len(), 2);
    let kept = put(&content, "somebody's").await.unwrap();
    content.sweep_ingests(SystemTime::now()).await.unwrap();
    assert_eq!(peer.blobs().keys().collect::<Vec<_>>(), [&kept]);
    assert_eq!(content.read(&ns(), &kept).await.unwrap().size(), 10);
    // It is ordinary content from now on.
    content.delete(&ns(), &kept, None).await.unwrap();
    assert!(peer.blobs().is_empty());
}

#[tokio::test]
async fn what_was_shared_and_is_gone_has_to_be_written_again() {
    let (world, peer) = (World::new(), Peer::default());
    let content = peer.content(&world);
    for commits in [true, false] {
        let digest = put(&content, "hello").await.unwrap();
        let other = id("other");
        let lease = world.leases.create(&other, "", BTreeMap::new()).await.unwrap().id;
        let held = async || world.leases.resources(&other, &lease).await.unwrap();
        let open = async || {
            let leased = Ingestion { lease: Some(lease.clone()), ..expecting("a", &digest) };
            content.writer(&other, leased).await.unwrap()
        };
        let mut writer = open().await;
        assert_eq!(writer.status().unwrap().offset, 5);
        content.delete(&ns(), &digest, None).await.unwrap();
        let refused = match commits {
            true => writer.commit(5, Some(digest.clone()), BTreeMap::new()).await.map(drop),
            false => writer.write(" world").await,
        };
        assert_eq!(kind(refused), Some(ErrorKind::Aborted));
        assert_eq!(peer.ingests().keys().filter(|key| key.starts_with("other")).count(), 0);
        assert_eq!(held().await, []);

        let mut writer = open().await;
        assert_eq!(writer.status().unwrap().offset, 0);
        writer.write("hello").await.unwrap();
        writer.commit(5, Some(digest.clone()), BTreeMap::new()).await.unwrap();
        content.delete(&other, &digest, None).await.unwrap();
    }
}
