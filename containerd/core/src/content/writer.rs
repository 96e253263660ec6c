//! Writing content.

use std::{collections::BTreeMap, io, time::SystemTime};

use shim_protocol::{Error, ErrorKind, Id, Result};

use super::{
    Algorithm, Digest, Info, Status,
    blobs::Blob,
    claims::Claim,
    ingest::{self, Ingest, Ref},
    store::{Content, blocking, held, ingest_resource, key, put},
};
use crate::{
    leases,
    metadata::{Change, Read, schema::CONTENT},
    namespaces,
};

/// How much is copied at once.
const COPY_BYTES: usize = 1 << 20;

/// What somebody wants to write.
#[derive(Clone, Debug, Default)]
pub struct Ingestion {
    /// What the writer calls it. Whoever comes with the same name goes on with
    /// what was written to it.
    pub reference: String,
    /// How many bytes it will be; 0 when that is not known.
    pub total: u64,
    /// The digest that it will have, if that is known.
    pub expected: Option<Digest>,
    /// The lease that holds it, while it is written and after.
    pub lease: Option<String>,
}

/// Writes content. Nobody else can write to its reference meanwhile.
///
/// What has come stays when it is dropped, for whoever writes to the reference
/// again.
pub struct Writer {
    content: Content,
    reference: Ref,
    lease: Option<String>,
    /// `None` while it is on disk, and for ever if that was cut short.
    session: Option<Session>,
}

/// What a writer has open.
struct Session {
    progress: Progress,
    started_at: SystemTime,
    /// Freed when the last write is over, even if nobody waits for that.
    _claim: Claim<Ref>,
}

enum Progress {
    /// All of it is there already; the namespace has only to be noted.
    Shared(Digest, Blob),
    /// It is being written.
    Own(Box<Ingest>),
}

impl Content {
    /// Opens a writer.
    ///
    /// # Errors
    /// - `InvalidArgument` without a reference;
    /// - `AlreadyExists` when the namespace has the expected content (the
    ///   lease then holds it);
    /// - `Unavailable` when somebody else writes to the reference;
    /// - `NotFound` when there is no such lease; those of the disk.
    pub async fn writer(&self, namespace: &Id, ingestion: Ingestion) -> Result<Writer> {
        let Ingestion { reference, total, expected, lease } = ingestion;
        if reference.is_empty() {
            return Err(Error::invalid("content is written to a reference, which is missing"));
        }
        let reference = Ref { namespace: namespace.clone(), name: reference };
        let blob = match &expected {
            Some(digest) => self.blob(digest).await?,
            None => None,
        };
        if let (Some(digest), Some(_)) = (&expected, &blob) {
            self.refuse_existing(namespace, digest, lease.as_deref()).await?;
        }
        let claim = self.claim(&reference).await?;
        if let Some(lease) = lease.clone() {
            let reference = reference.clone();
            let change = move |change: &mut Change<'_>| {
                let resource = ingest_resource(&reference.name);
                leases::hold(change, &reference.namespace, &lease, &resource)
            };
            self.db().write(change).await?;
        }
        let shared = match (&expected, blob) {
            (Some(digest), Some(blob)) if total == 0 || total == blob.size() => {
                self.is_shared(digest).await?.then(|| Progress::Shared(digest.clone(), blob))
            }
            _ => None,
        };
        let progress = match shared {
            Some(shared) => shared,
            None => {
                let algorithm = expected.as_ref().map(Digest::algorithm).unwrap_or_default();
                Progress::Own(Box::new(self.ingest(&reference, total, algorithm).await?))
            }
        };
        let session = Session { progress, started_at: SystemTime::now(), _claim: claim };
        Ok(Writer { content: self.clone(), reference, lease, session: Some(session) })
    }

    async fn refuse_existing(
        &self,
        namespace: &Id,
        digest: &Digest,
        lease: Option<&str>,
    ) -> Result<()> {
        let (room, named, lease) = (namespace.clone(), digest.clone(), lease.map(str::to_owned));
        let change = move |change: &mut Change<'_>| {
            let exists = change.has(CONTENT, &key(&room, &named)?)?;
            match lease {
                Some(lease) if exists => leases::hold(change, &room, &lease, &held(&named))?,
                _ => {}
            }
            Ok(exists)
        };
        match self.db().write(change).await? {
            true => Err(Error::already_exists(format!("content {digest}"))),
            false => Ok(()),
        }
    }

    async fn ingest(&self, reference: &Ref, total: u64, algorithm: Algorithm) -> Result<Ingest> {
        let (ingests, reference) = (self.blobs().ingests(), reference.clone());
        blocking(move || Ingest::open(&ingests, &reference, total, algorithm)).await
    }
}

impl Writer {
    /// How far it has come.
    ///
    /// # Errors
    /// `FailedPrecondition` when an earlier call was cut short.
    pub fn status(&self) -> Result<Status> {
        let session = self.session.as_ref().ok_or_else(closed)?;
        Ok(match &session.progress {
            Progress::Own(ingest) => ingest.status(&self.reference.name),
            Progress::Shared(digest, blob) => Status {
                reference: self.reference.name.clone(),
                offset: blob.size(),
                total: blob.size(),
                expected: Some(digest.clone()),
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
            Progress::Shared(digest, _) => digest.clone(),
        })
    }

    /// Appends a piece. When it returns, the piece survives the end of the
    /// daemon, but not of the machine.
    ///
    /// # Errors
    /// `ResourceExhausted` when the disk is full; other failures of the disk;
    /// as [`Self::status`].
    pub async fn write(&mut self, piece: impl AsRef<[u8]> + Send + 'static) -> Result<()> {
        if piece.as_ref().is_empty() {
            return Ok(());
        }
        self.unshare(u64::MAX).await?;
        self.on_disk(move |ingest| ingest.append(piece.as_ref())).await
    }

    /// Forgets all that has come.
    ///
    /// # Errors
    /// Those of the disk; as [`Self::status`].
    pub async fn clear(&mut self) -> Result<()> {
        self.unshare(0).await?;
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
    /// - `InvalidArgument` when a label is too long;
    /// - `NotFound` when there is no such lease; those of the disk.
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
        if let Some(Session { progress: Progress::Shared(digest, blob), .. }) = &self.session {
            if (size != 0 && size != blob.size()) || expected.as_ref().is_some_and(|e| e != digest)
            {
                let text = format!("content is {digest} with {} bytes", blob.size());
                return Err(Error::precondition(text));
            }
            let (digest, size) = (digest.clone(), blob.size());
            let held = self.content.hold(&digest).await;
            if self.content.blob(&digest).await?.is_some() {
                self.record(&digest, size, labels, true).await?;
                return Ok(digest);
            }
            drop(held);
            // Its last owner has deleted it, but it is still open.
            self.unshare(u64::MAX).await?;
        }
        let (digest, size) = self.check(size, expected).await?;
        let held = self.content.hold(&digest).await;
        let existed = self.content.blob(&digest).await?.is_some();
        let (blobs, named) = (self.content.blobs().clone(), digest.clone());
        self.on_disk(move |ingest| blobs.put(&named, &ingest.data())).await?;
        if let Err(error) = self.record(&digest, size, labels, existed).await {
            if error.kind() != ErrorKind::AlreadyExists {
                self.content.sweep(&held, &digest).await?;
            }
            self.forget().await?;
            return Err(error);
        }
        self.forget().await?;
        Ok(digest)
    }

    /// Checks what has come.
    async fn check(&mut self, size: u64, expected: Option<Digest>) -> Result<(Digest, u64)> {
        let checked = self.on_disk(move |ingest| {
            let digest = ingest.finish(size, expected.as_ref());
            // Whoever comes again must not be caught in it for ever.
            if digest.as_ref().is_err_and(|e| e.kind() == ErrorKind::FailedPrecondition)
                && (size == 0 || ingest.offset() >= size)
            {
                ingest::remove(ingest.folder())?;
            }
            Ok((digest?, ingest.offset()))
        });
        checked.await
    }

    /// Notes that the namespace has the content. Its digest is held. If the
    /// bytes were not there, a record that was is made good.
    async fn record(
        &self,
        digest: &Digest,
        size: u64,
        labels: BTreeMap<String, String>,
        existed: bool,
    ) -> Result<()> {
        let (reference, lease) = (self.reference.clone(), self.lease.clone());
        let now = SystemTime::now();
        let mut info =
            Info { digest: digest.clone(), size, labels, created_at: now, updated_at: now };
        let change = move |change: &mut Change<'_>| {
            let Ref { namespace, name } = &reference;
            namespaces::ensure(change, namespace)?;
            let recorded = change.has(CONTENT, &key(namespace, &info.digest)?)?;
            if !(recorded && existed) {
                put(change, namespace, &mut info)?;
            }
            if let Some(lease) = lease {
                leases::let_go(change, namespace, &lease, &ingest_resource(name))?;
                leases::hold(change, namespace, &lease, &held(&info.digest))?;
            }
            Ok(recorded && existed)
        };
        match self.content.db().write(change).await? {
            true => Err(Error::already_exists(format!("content {digest}"))),
            false => Ok(()),
        }
    }

    async fn forget(&mut self) -> Result<()> {
        self.on_disk(|ingest| ingest::remove(ingest.folder())).await?;
        self.session = None;
        Ok(())
    }

    /// Makes shared bytes, up to `length`, into a beginning of its own.
    async fn unshare(&mut self, length: u64) -> Result<()> {
        let Some(Session { progress: Progress::Shared(digest, blob), .. }) = &self.session else {
            return Ok(());
        };
        let (algorithm, length) = (digest.algorithm(), length.min(blob.size()));
        let mut ingest = self.content.ingest(&self.reference, 0, algorithm).await?;
        let Some(mut session) = self.session.take() else { return Err(closed()) };
        let session = blocking(move || {
            if let Progress::Shared(_, blob) = &session.progress {
                ingest.clear()?;
                copy(blob, length, &mut ingest)?;
                session.progress = Progress::Own(Box::new(ingest));
            }
            Ok(session)
        });
        self.session = Some(session.await?);
        Ok(())
    }

    /// Works on the ingest where that may block.
    async fn on_disk<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Ingest) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let mut session = self.session.take().ok_or_else(closed)?;
        let (session, outcome) = blocking(move || {
            let outcome = match &mut session.progress {
                Progress::Own(ingest) => work(ingest),
                Progress::Shared(..) => Err(Error::internal("shared content is not written to")),
            };
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
        self.content.later(move || {
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

fn closed() -> Error {
    Error::precondition("the writer is closed")
}
