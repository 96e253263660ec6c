//! Content that is kept by another process. It knows bytes and what is written
//! to references; which namespace has what, labels and leases are ours.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use async_trait::async_trait;
use bytes::Bytes;
use shim_protocol::{Error, ErrorKind, Id, Result};
use tokio::runtime::Handle;

use super::{Algorithm, Digest, Status, reference::Ref};

/// How much is read at once, in bytes, however little somebody asks for.
const READ_BYTES: usize = 1 << 20;

/// A store of content in another process. Whatever it is asked fails with
/// `Unavailable` while that process is not there.
#[async_trait]
pub trait RemoteStore: Send + Sync {
    /// The length of content in bytes; none if it is not there.
    async fn size(&self, digest: &Digest) -> Result<Option<u64>>;

    /// Reads `length` bytes from `offset` on; fewer at the end only.
    ///
    /// # Errors
    /// `NotFound` when it is not there.
    async fn read(&self, digest: &Digest, offset: u64, length: u64) -> Result<Bytes>;

    /// Removes content; what is gone is success.
    async fn remove(&self, digest: &Digest) -> Result<()>;

    /// All content, with its length in bytes.
    async fn list(&self) -> Result<HashMap<Digest, u64>>;

    /// How far the writer of a reference has come; none if nothing was written to
    /// it.
    async fn status(&self, reference: &str) -> Result<Option<Status>>;

    /// What is being written.
    async fn statuses(&self) -> Result<Vec<Status>>;

    /// Forgets what was written to a reference; what is gone is success.
    async fn abort(&self, reference: &str) -> Result<()>;

    /// Writes to a reference, or goes on with what was written to it, if that
    /// does not contradict `total` (0 is not known).
    async fn write(&self, reference: &str, total: u64) -> Result<Box<dyn RemoteWriter>>;
}

/// Writes content in another process. A call that nobody waited for makes all that
/// follow fail with `FailedPrecondition`.
#[async_trait]
pub trait RemoteWriter: Send + Sync {
    /// How far it has come.
    fn status(&self) -> Status;

    /// Digest of what has come.
    fn digest(&self) -> Digest;

    /// Appends a piece.
    async fn write(&mut self, piece: Bytes) -> Result<()>;

    /// Forgets all that has come.
    async fn clear(&mut self) -> Result<()>;

    /// Makes content of what has come.
    ///
    /// # Errors
    /// `FailedPrecondition` when it has another digest; `AlreadyExists` when it
    /// was there.
    async fn commit(&mut self, expected: &Digest) -> Result<()>;
}

/// The other process, and what this one remembers for it.
#[derive(Clone)]
pub(super) struct Remote(Arc<Inner>);

struct Inner {
    store: Arc<dyn RemoteStore>,
    notes: Mutex<Notes>,
}

/// Lost with this process. Then ingests stay until nobody has gone on with them
/// for a day, and a blob that is to be removed until it is written and removed
/// again.
#[derive(Default)]
struct Notes {
    /// References whose last writer had a lease.
    leased: HashSet<Ref>,
    /// Blobs that could not be removed yet, or whose commit was not answered;
    /// those of them that a namespace has are not removed.
    unswept: HashSet<Digest>,
}

impl Remote {
    pub(super) fn new(store: Arc<dyn RemoteStore>) -> Self {
        Self(Arc::new(Inner { store, notes: Mutex::default() }))
    }

    pub(super) fn store(&self) -> &dyn RemoteStore {
        &*self.0.store
    }

    /// Opens content.
    pub(super) async fn get(&self, digest: &Digest) -> Result<Option<RemoteBlob>> {
        let size = self.store().size(digest).await?;
        Ok(size.map(|size| RemoteBlob {
            store: self.0.store.clone(),
            runtime: Handle::current(),
            digest: digest.clone(),
            size,
            ahead: Mutex::default(),
        }))
    }

    /// Whether the other process answers.
    ///
    /// # Errors
    /// `Unavailable` when it does not.
    pub(super) async fn reach(&self) -> Result<()> {
        self.store().size(&Digest::of(Algorithm::Sha256, b"")).await.map(drop)
    }

    pub(super) async fn status(&self, reference: &Ref) -> Result<Option<Status>> {
        let found = self.store().status(&reference.full()).await?;
        Ok(found.map(|status| Status { reference: reference.name.clone(), ..status }))
    }

    pub(super) async fn statuses(&self, namespace: &Id) -> Result<Vec<Status>> {
        let all = self.all().await?.into_iter();
        Ok(all.filter(|(found, _)| found.namespace == *namespace).map(|(_, s)| s).collect())
    }

    /// The ingests of all namespaces, with when each was last written to.
    async fn all(&self) -> Result<Vec<(Ref, Status)>> {
        let all = self.store().statuses().await?.into_iter();
        Ok(all
            .filter_map(|status| {
                let reference = Ref::parse(&status.reference)?;
                let name = reference.name.clone();
                Some((reference, Status { reference: name, ..status }))
            })
            .collect())
    }

    /// The ingests whose writer had a lease, or has not come back since `before`.
    pub(super) async fn old(&self, before: SystemTime) -> Result<Vec<Ref>> {
        let noted = self.notes().leased.clone();
        let all = self.all().await?;
        let is_there: HashSet<&Ref> = all.iter().map(|(reference, _)| reference).collect();
        // Not those of ingests that were begun meanwhile.
        let is_over = |leased: &Ref| noted.contains(leased) && !is_there.contains(leased);
        self.notes().leased.retain(|leased| !is_over(leased));
        let is_old = |(reference, status): &(Ref, Status)| {
            noted.contains(reference) || status.updated_at < before
        };
        Ok(all
            .iter()
            .filter(|found| is_old(found))
            .map(|(reference, _)| reference.clone())
            .collect())
    }

    /// The same, of one ingest, now.
    pub(super) async fn is_old(&self, reference: &Ref, before: SystemTime) -> Result<bool> {
        let status = self.status(reference).await?;
        let leased = self.notes().leased.contains(reference);
        Ok(status.is_some_and(|status| leased || status.updated_at < before))
    }

    /// Notes whether a lease holds an ingest, so that it goes with the lease.
    pub(super) fn set_leased(&self, reference: &Ref, leased: bool) {
        let mut notes = self.notes();
        match leased {
            true => notes.leased.insert(reference.clone()),
            false => notes.leased.remove(reference),
        };
    }

    /// Notes that a blob is to be removed, unless a namespace has it then.
    pub(super) fn set_unswept(&self, digest: Digest) {
        self.notes().unswept.insert(digest);
    }

    /// What is to be removed; it counts as removed from now on.
    pub(super) fn take_unswept(&self) -> HashSet<Digest> {
        std::mem::take(&mut self.notes().unswept)
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        // No change is left halfway.
        self.0.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A blob in another process.
pub(super) struct RemoteBlob {
    store: Arc<dyn RemoteStore>,
    /// Where requests are made: whoever reads may block.
    runtime: Handle,
    digest: Digest,
    pub(super) size: u64,
    /// Where what was read last began, and what it was.
    ahead: Mutex<(u64, Bytes)>,
}

impl RemoteBlob {
    /// Reads into `buffer` from `offset`; answers how much was read, which is
    /// less than the whole buffer at the end only. Blocks.
    pub(super) fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        // Who reads at the same time reads for itself.
        let mut ahead = std::mem::take(&mut *self.ahead());
        let mut filled = 0;
        while filled < buffer.len() {
            let position = offset + filled as u64;
            let known = position
                .checked_sub(ahead.0)
                .and_then(|skipped| ahead.1.get(usize::try_from(skipped).ok()?..))
                .filter(|known| !known.is_empty());
            if let Some(known) = known {
                let length = known.len().min(buffer.len() - filled);
                buffer[filled..filled + length].copy_from_slice(&known[..length]);
                filled += length;
                continue;
            }
            let left = self.size.saturating_sub(position);
            let length = left.min(READ_BYTES.max(buffer.len() - filled) as u64);
            if length == 0 {
                break;
            }
            let piece = self.runtime.block_on(self.store.read(&self.digest, position, length))?;
            if piece.is_empty() {
                break;
            }
            ahead = (position, piece);
        }
        *self.ahead() = ahead;
        Ok(filled)
    }

    fn ahead(&self) -> MutexGuard<'_, (u64, Bytes)> {
        self.ahead.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for RemoteBlob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteBlob").field("digest", &self.digest).finish_non_exhaustive()
    }
}

/// Copies the first `length` bytes of content to a writer.
///
/// # Errors
/// Those of the store; `DataLoss` when it has fewer.
pub(super) async fn copy(
    store: &dyn RemoteStore,
    digest: &Digest,
    length: u64,
    writer: &mut dyn RemoteWriter,
) -> Result<()> {
    let mut offset = 0;
    while offset < length {
        let piece = store.read(digest, offset, (length - offset).min(READ_BYTES as u64)).await?;
        if piece.is_empty() {
            let text = format!("content {digest} is shorter than it was");
            return Err(Error::new(ErrorKind::DataLoss, text));
        }
        offset += piece.len() as u64;
        writer.write(piece).await?;
    }
    Ok(())
}
