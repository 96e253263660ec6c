//! Content, as each namespace sees it.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::SystemTime};

use shim_protocol::{Error, ErrorKind, Id, Result};
use tokio_util::task::TaskTracker;

use super::{
    Digest, Info, SHAREABLE_LABEL,
    backend::Backend,
    blobs::{Blob, Blobs, missing},
    claims::{Claim, Claims},
    record,
    reference::Ref,
    remote::{Remote, RemoteStore},
};
use crate::{
    fault,
    filter::Filter,
    labels,
    leases::{self, Resource},
    metadata::Db,
    namespaces,
};

/// Whether a namespace can have what another one has by naming it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sharing {
    /// It can; nobody has to fetch twice.
    #[default]
    Shared,
    /// It has to bring the content, unless a namespace that has it is labelled
    /// with [`SHAREABLE_LABEL`].
    Isolated,
}

/// Where content is, and who may have it.
#[derive(Clone, Debug)]
pub struct ContentConfig {
    /// The folder that it is in.
    pub root: PathBuf,
    /// Between namespaces.
    pub sharing: Sharing,
    /// Whether another daemon's records may know blobs that ours do not: then no
    /// blob is ever removed.
    pub foreign: bool,
}

/// The content of all namespaces. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Content(Arc<Inner>);

struct Inner {
    db: Db,
    backend: Backend,
    sharing: Sharing,
    foreign: bool,
    /// References that somebody writes to.
    writing: Claims<Ref>,
    /// Digests whose bytes or records are being made or removed.
    changing: Claims<Digest>,
    /// Work that must end well whatever becomes of the client that asked.
    work: TaskTracker,
    /// Writers that are being put away, each with its claim.
    closing: TaskTracker,
}

impl Content {
    /// The content that `config` tells of, with its records in `db`.
    ///
    /// # Errors
    /// Those of the disk.
    pub async fn open(config: ContentConfig, db: Db) -> Result<Self> {
        let ContentConfig { root, sharing, foreign } = config;
        let blobs = blocking(move || Blobs::open(&root)).await?;
        Ok(Self::new(db, Backend::Local(blobs), sharing, foreign))
    }

    /// Content that another process keeps, with its records in `db`. The others
    /// as in [`ContentConfig`].
    pub fn remote(store: Arc<dyn RemoteStore>, sharing: Sharing, foreign: bool, db: Db) -> Self {
        Self::new(db, Backend::Remote(Remote::new(store)), sharing, foreign)
    }

    fn new(db: Db, backend: Backend, sharing: Sharing, foreign: bool) -> Self {
        Self(Arc::new(Inner {
            db,
            backend,
            sharing,
            foreign,
            writing: Claims::default(),
            changing: Claims::default(),
            work: TaskTracker::new(),
            closing: TaskTracker::new(),
        }))
    }

    /// What is known of content.
    ///
    /// # Errors
    /// `NotFound` when the namespace does not have it.
    pub async fn info(&self, namespace: &Id, digest: &Digest) -> Result<Info> {
        let (namespace, digest) = (namespace.clone(), digest.clone());
        self.0.db.read(move |db| record::find(db, &namespace, &digest)).await
    }

    /// The content of a namespace that any of `filters` matches, by digest;
    /// all without filters. Fields: `digest`, `labels.<key>`.
    ///
    /// # Errors
    /// `InvalidArgument` when a filter cannot be parsed.
    pub async fn list<S: AsRef<str>>(&self, namespace: &Id, filters: &[S]) -> Result<Vec<Info>> {
        let filter = Filter::parse(filters)?;
        let namespace = namespace.clone();
        let mut found = self.0.db.read(move |db| record::list(db, &namespace)).await?;
        found.retain(|info| filter.matches(info));
        Ok(found)
    }

    /// Changes the labels that `paths` names: `labels`, or `labels.<key>`. No
    /// path stands for all labels. A label that `new` lacks is removed.
    ///
    /// # Errors
    /// `NotFound` when the namespace does not have it; `InvalidArgument` when a
    /// path names something else, or a label is too long.
    pub async fn update<S: AsRef<str>>(
        &self,
        namespace: &Id,
        digest: &Digest,
        new: BTreeMap<String, String>,
        paths: &[S],
    ) -> Result<Info> {
        let mask = labels::Mask::parse(paths, "content")?;
        let (namespace, digest) = (namespace.clone(), digest.clone());
        self.0
            .db
            .write(move |change| {
                let mut info = record::find(change, &namespace, &digest)?;
                info.labels = mask.apply(info.labels, new);
                info.updated_at = SystemTime::now();
                record::put(change, &namespace, &mut info)?;
                Ok(info)
            })
            .await
    }

    /// Takes content from a namespace, and lets go of it in `lease`. The bytes
    /// go with the last namespace that has them. Goes on if the caller goes
    /// away.
    ///
    /// # Errors
    /// `NotFound` when the namespace does not have it.
    pub async fn delete(&self, namespace: &Id, digest: &Digest, lease: Option<&str>) -> Result<()> {
        let (this, digest) = (self.clone(), digest.clone());
        let (namespace, lease) = (namespace.clone(), lease.map(str::to_owned));
        self.own(async move {
            let named = digest.clone();
            this.0
                .db
                .write(move |change| {
                    record::remove(change, &namespace, &named)?;
                    match lease {
                        Some(lease) => leases::let_go(change, &namespace, &lease, &held(&named)),
                        None => Ok(()),
                    }
                })
                .await?;
            fault::point("content.delete.unrecorded");
            let claim = this.hold(&digest).await;
            match (this.sweep(&claim, digest.clone()).await, &this.0.backend) {
                (Err(error), Backend::Remote(remote)) => {
                    // It is deleted; whether the bytes are gone is nobody's concern.
                    tracing::warn!(%digest, error = %error.report(), "blob stays for now");
                    remote.set_unswept(digest);
                    Ok(())
                }
                (swept, _) => swept,
            }
        })
        .await
    }

    /// Opens content for reading.
    ///
    /// # Errors
    /// `NotFound` when the namespace does not have it, or the disk has lost it;
    /// `Unavailable`, in either case, when the process is not there that keeps
    /// content: whoever waits for it to be written would wait in vain.
    pub async fn read(&self, namespace: &Id, digest: &Digest) -> Result<Blob> {
        let found = self.info(namespace, digest).await;
        if let (Err(_), Backend::Remote(remote)) = (&found, &self.0.backend) {
            remote.reach().await?;
        }
        found?;
        self.blob(digest).await?.ok_or_else(|| missing(digest))
    }

    /// Ends the work that is under way.
    pub async fn shutdown(&self) {
        self.0.work.close();
        self.0.work.wait().await;
        self.closed().await;
    }

    /// Keeps others from making or removing a blob and its records.
    pub(super) async fn hold(&self, digest: &Digest) -> Claim<Digest> {
        self.0.changing.take(digest).await
    }

    /// Removes a blob that no namespace has. The caller holds its digest.
    pub(super) async fn sweep(&self, _held: &Claim<Digest>, digest: Digest) -> Result<()> {
        if self.0.foreign || self.is_recorded(&digest).await? {
            return Ok(());
        }
        self.0.backend.remove(digest).await
    }

    /// Whether any namespace has content.
    pub(super) async fn is_recorded(&self, digest: &Digest) -> Result<bool> {
        Ok(!self.owners(digest).await?.is_empty())
    }

    /// The namespaces that have content, and how many bytes they noted.
    async fn owners(&self, digest: &Digest) -> Result<Vec<(Id, u64)>> {
        let digest = digest.clone();
        self.0.db.read(move |db| record::owners(db, &digest)).await
    }

    /// Whether a namespace that names `digest` may have it for that, although
    /// it never had it before.
    pub(super) async fn is_shared(&self, digest: &Digest) -> Result<bool> {
        if self.0.sharing == Sharing::Shared {
            return Ok(true);
        }
        let digest = digest.clone();
        self.0
            .db
            .read(move |db| {
                for (namespace, _) in record::owners(db, &digest)? {
                    let labels = namespaces::labels_of(db, &namespace)?;
                    if labels.get(SHAREABLE_LABEL).is_some_and(|value| value == "true") {
                        return Ok(true);
                    }
                }
                Ok(false)
            })
            .await
    }

    /// Opens the bytes of `digest`; none if they are not there, or are not as
    /// many as was noted.
    pub(super) async fn blob(&self, digest: &Digest) -> Result<Option<Blob>> {
        let owners = self.owners(digest).await?;
        let blob = self.0.backend.get(digest).await?;
        Ok(blob.filter(|blob| owners.iter().all(|(_, size)| *size == blob.size())))
    }

    pub(super) fn backend(&self) -> &Backend {
        &self.0.backend
    }

    pub(super) fn db(&self) -> &Db {
        &self.0.db
    }

    pub(super) fn writing(&self) -> &Claims<Ref> {
        &self.0.writing
    }

    /// Whether blobs stay that no namespace has.
    pub(super) fn is_foreign(&self) -> bool {
        self.0.foreign
    }

    /// Puts a writer away: `work` blocks, and its owner does not wait for it.
    pub(super) fn close(&self, work: impl FnOnce() + Send + 'static) {
        drop(self.0.closing.spawn_blocking(work));
    }

    /// Waits until the writers that were dropped are put away.
    pub(super) async fn closed(&self) {
        self.0.closing.close();
        self.0.closing.wait().await;
    }

    /// Runs work to its end, even if the caller goes away.
    pub(super) async fn own<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        self.0
            .work
            .spawn(work)
            .await
            .unwrap_or_else(|e| Err(Error::caused(ErrorKind::Internal, "change content", e)))
    }
}

/// What a lease holds that holds content.
pub(super) fn held(digest: &Digest) -> Resource {
    Resource { id: digest.to_string(), kind: "content".into() }
}

/// Runs work that blocks, away from the async threads.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(e) => Err(Error::caused(ErrorKind::Internal, "access content", e)),
    }
}
