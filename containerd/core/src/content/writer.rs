//! Writing content.

use std::{collections::BTreeMap, io, time::SystemTime};

use bytes::Bytes;
use shim_protocol::{Error, ErrorKind, Result};

use super::{
    Digest, Info, Status,
    backend::Backend,
    blobs::Blob,
    claims::Claim,
    ingest::Ingest,
    ingestion::ingest_resource,
    record,
    reference::Ref,
    remote::RemoteWriter,
    store::{Content, blocking, held},
};
use crate::{fault, leases, metadata::Change, namespaces};

/// How much is copied at once.
const COPY_BYTES: usize = 1 << 20;

/// Writes content. Nobody else can write to its reference meanwhile.
///
/// What has come stays when it is dropped, for whoever writes to the reference
/// again.
pub struct Writer {
    pub(super) content: Content,
    pub(super) reference: Ref,
    /// How many bytes were announced; 0 if that was not done.
    pub(super) total: u64,
    pub(super) lease: Option<String>,
    /// `None` while it is on disk, and for ever if that was cut short.
    pub(super) session: Option<Session>,
}

/// What a writer has open.
pub(super) struct Session {
    pub(super) progress: Progress,
    pub(super) started_at: SystemTime,
    /// Freed when the last write is over, even if nobody waits for that.
    pub(super) _claim: Claim<Ref>,
}

pub(super) enum Progress {
    /// All of it is there already; the namespace has only to be noted.
    Shared(Digest, Blob),
    /// It is being written.
    Own(Box<Ingest>),
    /// It is being written by another process.
    Remote(Box<dyn RemoteWriter>),
    /// Another process has all of it.
    Committed(Digest, Status),
}

/// Content that is in its place under its digest, but not recorded yet.
struct Placed {
    digest: Digest,
    size: u64,
    /// Whether it was there before.
    existed: bool,
    /// Nobody else makes or removes it meanwhile.
    _held: Claim<Digest>,
}

impl Writer {
    pub(super) fn new(
        content: Content,
        reference: Ref,
        total: u64,
        lease: Option<String>,
        session: Session,
    ) -> Self {
        Self { content, reference, total, lease, session: Some(session) }
    }

    /// How far it has come.
    ///
    /// # Errors
    /// `FailedPrecondition` when an earlier call was cut short.
    pub fn status(&self) -> Result<Status> {
        let session = self.session.as_ref().ok_or_else(closed)?;
        Ok(match &session.progress {
            Progress::Own(ingest) => ingest.status(&self.reference.name),
            Progress::Remote(writer) => {
                Status { reference: self.reference.name.clone(), ..writer.status() }
            }
            Progress::Committed(_, status) => status.clone(),
            Progress::Shared(_, blob) => Status {
                reference: self.reference.name.clone(),
                offset: blob.size(),
                total: blob.size(),
                started_at: session.started_at,
                updated_at: session.started_at,
            },
        })
    }

    /// Digest of what has come.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub fn digest(&self) -> Result<Digest> {
        let session = self.session.as_ref().ok_or_else(closed)?;
        Ok(match &session.progress {
            Progress::Own(ingest) => ingest.digest(),
            Progress::Remote(writer) => writer.digest(),
            Progress::Shared(digest, _) | Progress::Committed(digest, _) => digest.clone(),
        })
    }

    /// Appends a piece. When it returns, the piece survives the end of the
    /// daemon, but not of the machine.
    ///
    /// # Errors
    /// `ResourceExhausted` when the disk is full; `Aborted` when what another
    /// namespace had is gone meanwhile, and has to be written; other failures
    /// of the disk; as [`Self::status`].
    pub async fn write(&mut self, piece: impl AsRef<[u8]> + Send + 'static) -> Result<()> {
        if piece.as_ref().is_empty() {
            return Ok(());
        }
        self.unshare(u64::MAX).await?;
        if self.is_remote() {
            return self.remote()?.write(Bytes::from_owner(piece)).await;
        }
        self.on_disk(move |ingest| ingest.append(piece.as_ref())).await
    }

    /// Forgets all that has come.
    ///
    /// # Errors
    /// Those of the disk; as [`Self::status`].
    pub async fn clear(&mut self) -> Result<()> {
        self.unshare(0).await?;
        if self.is_remote() {
            return self.remote()?.clear().await;
        }
        self.on_disk(Ingest::clear).await
    }

    /// Ends the content: checks it, makes it durable and records it, with
    /// `labels`. Size 0 and no digest stand for whatever they are. Goes on if
    /// the caller goes away.
    ///
    /// # Errors
    /// - `FailedPrecondition` when size or digest are others; if more bytes
    ///   cannot mend that, all that was written is forgotten;
    /// - `AlreadyExists` when the namespace has it (the lease then holds it);
    /// - `Aborted` when what another namespace had is gone meanwhile, and has
    ///   to be written;
    /// - `InvalidArgument` when a label is too long;
    /// - `NotFound` when there is no such lease; those of the disk. What was
    ///   written stays then, unless another process has it.
    pub async fn commit(
        mut self,
        size: u64,
        expected: Option<Digest>,
        labels: BTreeMap<String, String>,
    ) -> Result<Digest> {
        crate::labels::validate(&labels)?;
        let content = self.content.clone();
        content.own(async move { self.finish(size, expected, labels).await }).await
    }

    async fn finish(
        &mut self,
        size: u64,
        expected: Option<Digest>,
        labels: BTreeMap<String, String>,
    ) -> Result<Digest> {
        let placed = match self.adopt(size, expected.as_ref()).await? {
            Some(placed) => placed,
            None => self.place(size, expected).await?,
        };
        match self.record(&placed, labels).await {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                if let Err(error) = self.take_back(&placed).await {
                    tracing::warn!(error = %error.report(), "what was written has to come again");
                }
                Err(error)
            }
            recorded => {
                self.forget().await;
                recorded.map(|()| placed.digest)
            }
        }
    }

    /// Takes what another namespace has; none if it has to be written.
    async fn adopt(&mut self, size: u64, expected: Option<&Digest>) -> Result<Option<Placed>> {
        let Some(Session { progress: Progress::Shared(digest, blob), .. }) = &self.session else {
            return Ok(None);
        };
        let (digest, length) = (digest.clone(), blob.size());
        if (size != 0 && size != length) || expected.is_some_and(|expected| *expected != digest) {
            let text = format!("content is {digest} with {length} bytes");
            return Err(Error::precondition(text));
        }
        let held = self.content.hold(&digest).await;
        if self.content.blob(&digest).await?.is_some() {
            return Ok(Some(Placed { digest, size: length, existed: true, _held: held }));
        }
        drop(held);
        // Its last owner has deleted it, but it is still open.
        self.unshare(u64::MAX).await?;
        Ok(None)
    }

    /// Checks what has come, and puts it in its place.
    async fn place(&mut self, size: u64, expected: Option<Digest>) -> Result<Placed> {
        let (digest, size) = self.check(size, expected).await?;
        let held = self.content.hold(&digest).await;
        let existed = match self.content.backend() {
            Backend::Local(blobs) => {
                let (blobs, named) = (blobs.clone(), digest.clone());
                self.on_disk(move |ingest| blobs.put(&named, size, &ingest.data())).await?
            }
            Backend::Remote(_) => self.commit_remotely(&digest).await?,
        };
        Ok(Placed { digest, size, existed, _held: held })
    }

    /// Checks what has come.
    async fn check(&mut self, size: u64, expected: Option<Digest>) -> Result<(Digest, u64)> {
        let (checked, offset) = if self.is_remote() {
            self.check_remotely(size, expected)?
        } else {
            let finish = move |ingest: &mut Ingest| {
                Ok((ingest.finish(size, expected.as_ref()), ingest.offset()))
            };
            self.on_disk(finish).await?
        };
        let wrong = checked.as_ref().is_err_and(|e| e.kind() == ErrorKind::FailedPrecondition);
        if wrong && (size == 0 || offset >= size) {
            self.give_up().await;
        }
        Ok((checked?, offset))
    }

    /// Removes what can come to nothing: whoever comes again must not be caught in
    /// it for ever.
    pub(super) async fn give_up(&mut self) {
        if let Err(error) = self.content.let_go(&self.reference, self.lease.clone()).await {
            tracing::warn!(error = %error.report(), "lease holds what is removed");
        }
        self.forget().await;
    }

    /// Notes that the namespace has the content. If the bytes were not there, a
    /// record that was is made good.
    async fn record(&self, placed: &Placed, labels: BTreeMap<String, String>) -> Result<()> {
        let (reference, lease) = (self.reference.clone(), self.lease.clone());
        let (digest, size, existed) = (placed.digest.clone(), placed.size, placed.existed);
        let change = move |change: &mut Change<'_>| {
            let Ref { namespace, name } = &reference;
            namespaces::ensure(change, namespace)?;
            let old = record::get(change, namespace, &digest)?;
            let exists = existed && old.is_some();
            if !exists {
                let now = SystemTime::now();
                let (mut kept, created_at) =
                    old.map_or((BTreeMap::new(), now), |old| (old.labels, old.created_at));
                kept.extend(labels);
                let digest = digest.clone();
                let mut info = Info { digest, size, labels: kept, created_at, updated_at: now };
                record::put(change, namespace, &mut info)?;
            }
            if let Some(lease) = lease {
                leases::let_go(change, namespace, &lease, &ingest_resource(name))?;
                leases::hold(change, namespace, &lease, &held(&digest))?;
            }
            Ok(exists)
        };
        let exists = self.content.db().write(change).await?;
        fault::point("content.commit.recorded");
        match exists {
            true => Err(Error::already_exists(format!("content {}", placed.digest))),
            false => Ok(()),
        }
    }

    /// Undoes what was done for a record that then failed, so that nobody has to
    /// send it all again. If the failed record is on disk after all, it stays.
    async fn take_back(&mut self, placed: &Placed) -> Result<()> {
        if placed.existed || self.content.is_recorded(&placed.digest).await? {
            return Ok(());
        }
        let digest = placed.digest.clone();
        match self.content.backend() {
            Backend::Local(blobs) => {
                let blobs = blobs.clone();
                self.on_disk(move |ingest| blobs.take_back(&digest, &ingest.data())).await
            }
            // There it cannot be what it was before.
            Backend::Remote(remote) => {
                let removed = remote.store().remove(&digest).await;
                if removed.is_err() {
                    remote.set_unswept(digest);
                }
                removed
            }
        }
    }

    /// Removes what was written, also by an earlier writer. What cannot be
    /// removed does no harm to the content.
    async fn forget(&mut self) {
        let Some(Session { progress, started_at: _, _claim }) = self.session.take() else { return };
        let is_gone = matches!(progress, Progress::Committed(..));
        // Nothing is removed while somebody writes to it.
        drop(progress);
        if !is_gone && let Err(error) = self.content.backend().remove_ingest(&self.reference).await
        {
            tracing::warn!(error = %error.report(), "ingest stays");
        }
    }

    /// Makes shared bytes, up to `length`, into a beginning of its own.
    async fn unshare(&mut self, length: u64) -> Result<()> {
        if !matches!(&self.session, Some(Session { progress: Progress::Shared(..), .. })) {
            return Ok(());
        }
        let ingests = match self.content.backend() {
            Backend::Local(blobs) => blobs.ingests(),
            Backend::Remote(remote) => return self.unshare_remotely(&remote.clone(), length).await,
        };
        let reference = self.reference.clone();
        let (total, leased) = (self.total, self.lease.is_some());
        self.blocking(move |session| {
            let Progress::Shared(digest, blob) = &session.progress else { return Ok(()) };
            let mut ingest = Ingest::begin(&ingests, &reference, total, digest.algorithm())?;
            ingest.set_leased(leased)?;
            copy(blob, length.min(blob.size()), &mut ingest)?;
            session.progress = Progress::Own(Box::new(ingest));
            Ok(())
        })
        .await
    }

    /// Works on the ingest where that may block.
    async fn on_disk<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Ingest) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.blocking(|session| match &mut session.progress {
            Progress::Own(ingest) => work(ingest),
            _ => Err(Error::internal("this content is not written to")),
        })
        .await
    }

    /// Works on the session where that may block. If nobody waits for the end,
    /// the reference stays claimed until then.
    async fn blocking<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Session) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let mut session = self.session.take().ok_or_else(closed)?;
        let (session, outcome) = blocking(move || {
            let outcome = work(&mut session);
            Ok((session, outcome))
        })
        .await?;
        self.session = Some(session);
        outcome
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let Some(mut session) = self.session.take() else { return };
        self.content.close(move || {
            if let Progress::Own(ingest) = &mut session.progress
                && ingest.folder().exists()
                && let Err(error) = ingest.suspend()
            {
                tracing::warn!(error = %error.report(), "time of last write is not noted");
            }
        });
    }
}

fn copy(blob: &Blob, length: u64, ingest: &mut Ingest) -> Result<()> {
    let mut buffer = vec![0; COPY_BYTES];
    while ingest.offset() < length {
        let wanted = usize::try_from(length - ingest.offset()).unwrap_or(COPY_BYTES);
        let wanted = wanted.min(COPY_BYTES);
        let read = blob.read_at(ingest.offset(), &mut buffer[..wanted])?;
        if read == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof))
                .map_err(|e| Error::caused(ErrorKind::DataLoss, "copy content", e));
        }
        ingest.append(&buffer[..read])?;
    }
    Ok(())
}

pub(super) fn closed() -> Error {
    Error::precondition("the writer is closed")
}
