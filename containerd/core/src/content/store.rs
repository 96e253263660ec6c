//! Content, as each namespace sees it.

use std::{
    collections::{BTreeMap, HashSet},
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use shim_protocol::{Error, ErrorKind, Id, Result};
use tokio_util::task::TaskTracker;

use super::{
    Digest, Info, SHAREABLE_LABEL, Status,
    blobs::{Blob, Blobs, missing},
    claims::{Claim, Claims},
    ingest::{self, Ref},
    record::Record,
};
use crate::{
    filter::Filter,
    labels,
    leases::{self, Resource},
    metadata::{
        Change, Db, Key, Read, last_part, last_parts,
        schema::{CONTENT, NAMESPACES},
    },
    namespaces,
};

/// How long somebody waits for a reference that another writer has.
const PATIENCE: Duration = Duration::from_secs(1);

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

/// The content of all namespaces. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Content(Arc<Inner>);

struct Inner {
    db: Db,
    blobs: Blobs,
    sharing: Sharing,
    /// References that somebody writes to.
    writing: Claims<Ref>,
    /// Digests whose bytes or records are being made or removed.
    changing: Claims<Digest>,
    /// Work that must end well whatever becomes of the client that asked.
    work: TaskTracker,
}

/// What was found at boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Blobs that no namespace has, and that were removed.
    pub removed: usize,
    /// Records whose blob is not there. Whoever writes it again mends that.
    pub lost: usize,
}

impl Content {
    /// Content in the folder `root`, with its records in `db`.
    ///
    /// # Errors
    /// Those of the disk.
    pub async fn open(root: &Path, db: Db, sharing: Sharing) -> Result<Self> {
        let root = root.to_owned();
        let blobs = blocking(move || Blobs::open(&root)).await?;
        Ok(Self(Arc::new(Inner {
            db,
            blobs,
            sharing,
            writing: Claims::default(),
            changing: Claims::default(),
            work: TaskTracker::new(),
        })))
    }

    /// Removes what a daemon that was killed left behind. To be called once,
    /// before anybody is served. With `foreign`, blobs that no namespace has
    /// stay: another daemon's records may know them.
    ///
    /// # Errors
    /// Those of the disk.
    pub async fn recover(&self, foreign: bool) -> Result<Recovered> {
        let recorded = self.0.db.read(|db| recorded(db)).await?;
        let blobs = self.0.blobs.clone();
        blocking(move || {
            ingest::remove_broken(&blobs.ingests())?;
            let mut recovered = Recovered::default();
            let there: HashSet<_> = blobs.list()?.into_iter().collect();
            for digest in recorded.difference(&there) {
                tracing::error!(%digest, "content is recorded, but not there");
                recovered.lost += 1;
            }
            if !foreign {
                for digest in there.difference(&recorded) {
                    blobs.remove(digest)?;
                    recovered.removed += 1;
                }
            }
            Ok(recovered)
        })
        .await
    }

    /// What is known of content.
    ///
    /// # Errors
    /// `NotFound` when the namespace does not have it.
    pub async fn info(&self, namespace: &Id, digest: &Digest) -> Result<Info> {
        let (namespace, digest) = (namespace.clone(), digest.clone());
        self.0.db.read(move |db| find(db, &namespace, digest)).await
    }

    /// The content of a namespace that any of `filters` matches, by digest;
    /// all without filters. Fields: `digest`, `labels.<key>`.
    ///
    /// # Errors
    /// `InvalidArgument` when a filter cannot be parsed.
    pub async fn list<S: AsRef<str>>(&self, namespace: &Id, filters: &[S]) -> Result<Vec<Info>> {
        let filter = Filter::parse(filters)?;
        let namespace = Key::new(&[namespace])?;
        self.0
            .db
            .read(move |db| {
                let mut found = Vec::new();
                db.each(CONTENT, &namespace, |key, record: Record| {
                    let info = record.into_info(Digest::parse(last_part(key)?)?);
                    if filter.matches(&info) {
                        found.push(info);
                    }
                    Ok(())
                })?;
                Ok(found)
            })
            .await
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
                let mut info = find(change, &namespace, digest)?;
                info.labels = mask.apply(info.labels, new);
                info.updated_at = SystemTime::now();
                put(change, &namespace, &mut info)?;
                Ok(info)
            })
            .await
    }

    /// Takes content from a namespace, and lets go of it in `lease`. The bytes
    /// go with the last namespace that has them.
    ///
    /// # Errors
    /// `NotFound` when the namespace does not have it.
    pub async fn delete(&self, namespace: &Id, digest: &Digest, lease: Option<&str>) -> Result<()> {
        let (room, named, lease) = (namespace.clone(), digest.clone(), lease.map(str::to_owned));
        self.0
            .db
            .write(move |change| {
                if !change.remove(CONTENT, &key(&room, &named)?)? {
                    return Err(absent(&room, &named));
                }
                match lease {
                    Some(lease) => leases::let_go(change, &room, &lease, &held(&named)),
                    None => Ok(()),
                }
            })
            .await?;
        let (this, digest) = (self.clone(), digest.clone());
        self.own(async move {
            let claim = this.0.changing.take(&digest).await;
            this.sweep(&claim, &digest).await
        })
        .await
    }

    /// Opens content for reading.
    ///
    /// # Errors
    /// `NotFound` when the namespace does not have it.
    pub async fn read(&self, namespace: &Id, digest: &Digest) -> Result<Blob> {
        self.info(namespace, digest).await?;
        self.blob(digest).await?.ok_or_else(|| missing(digest))
    }

    /// How far the writer of a reference has come.
    ///
    /// # Errors
    /// `NotFound` when nothing was written to it.
    pub async fn status(&self, namespace: &Id, reference: &str) -> Result<Status> {
        let reference = Ref { namespace: namespace.clone(), name: reference.to_owned() };
        let ingests = self.0.blobs.ingests();
        blocking(move || ingest::status(&ingests, &reference)?.ok_or_else(|| no_ingest(&reference)))
            .await
    }

    /// What is being written in a namespace and any of `filters` matches, by
    /// reference; all without filters. Field: `ref`.
    ///
    /// # Errors
    /// `InvalidArgument` when a filter cannot be parsed.
    pub async fn statuses<S: AsRef<str>>(
        &self,
        namespace: &Id,
        filters: &[S],
    ) -> Result<Vec<Status>> {
        let filter = Filter::parse(filters)?;
        let ingests = self.0.blobs.ingests();
        let all = blocking(move || ingest::list(&ingests)).await?;
        let ours = all.into_iter().filter(|(room, _)| room == namespace);
        let mut found: Vec<_> =
            ours.map(|(_, status)| status).filter(|status| filter.matches(status)).collect();
        found.sort_by(|a, b| a.reference.cmp(&b.reference));
        Ok(found)
    }

    /// Removes what was written to a reference.
    ///
    /// # Errors
    /// `NotFound` when nothing was; `Unavailable` while somebody writes to it.
    pub async fn abort(&self, namespace: &Id, reference: &str, lease: Option<&str>) -> Result<()> {
        let reference = Ref { namespace: namespace.clone(), name: reference.to_owned() };
        let claim = self.claim(&reference).await?;
        let (ingests, named) = (self.0.blobs.ingests(), reference.clone());
        blocking(move || {
            if ingest::status(&ingests, &named)?.is_none() {
                return Err(no_ingest(&named));
            }
            ingest::remove(&named.folder(&ingests))
        })
        .await?;
        if let Some(lease) = lease.map(str::to_owned) {
            let change = move |change: &mut Change<'_>| {
                let resource = ingest_resource(&reference.name);
                leases::let_go(change, &reference.namespace, &lease, &resource)
            };
            self.0.db.write(change).await?;
        }
        drop(claim);
        Ok(())
    }

    /// Ends the work that is under way.
    pub async fn shutdown(&self) {
        self.0.work.close();
        self.0.work.wait().await;
    }

    /// Takes a reference, to write to it.
    ///
    /// # Errors
    /// `Unavailable` when somebody else has it.
    pub(super) async fn claim(&self, reference: &Ref) -> Result<Claim<Ref>> {
        let taken = tokio::time::timeout(PATIENCE, self.0.writing.take(reference)).await;
        taken.map_err(|_| {
            let name = &reference.name;
            Error::unavailable(format!("reference {name:?} is being written to by somebody else"))
        })
    }

    /// Keeps others from making or removing a blob and its records.
    pub(super) async fn hold(&self, digest: &Digest) -> Claim<Digest> {
        self.0.changing.take(digest).await
    }

    /// Removes a blob that no namespace has. The caller holds its digest.
    ///
    /// # Errors
    /// Those of the disk.
    pub(super) async fn sweep(&self, _held: &Claim<Digest>, digest: &Digest) -> Result<()> {
        let sought = digest.clone();
        let having = self.0.db.read(move |db| who_has(db, &sought)).await?;
        if having.is_empty() {
            let (blobs, digest) = (self.0.blobs.clone(), digest.clone());
            blocking(move || blobs.remove(&digest)).await?;
        }
        Ok(())
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
                for namespace in who_has(db, &digest)? {
                    let labels = namespaces::labels_of(db, &namespace)?;
                    if labels.get(SHAREABLE_LABEL).is_some_and(|value| value == "true") {
                        return Ok(true);
                    }
                }
                Ok(false)
            })
            .await
    }

    /// Opens the bytes of `digest`; none if they are not there.
    pub(super) async fn blob(&self, digest: &Digest) -> Result<Option<Blob>> {
        let (blobs, digest) = (self.0.blobs.clone(), digest.clone());
        blocking(move || blobs.get(&digest)).await
    }

    pub(super) fn blobs(&self) -> &Blobs {
        &self.0.blobs
    }

    pub(super) fn db(&self) -> &Db {
        &self.0.db
    }

    /// Does work that blocks and that nobody waits for.
    pub(super) fn later(&self, work: impl FnOnce() + Send + 'static) {
        drop(self.0.work.spawn_blocking(work));
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

/// What a lease holds that holds what is being written.
pub(super) fn ingest_resource(reference: &str) -> Resource {
    Resource { id: reference.to_owned(), kind: "ingests".into() }
}

pub(super) fn key(namespace: &Id, digest: &Digest) -> Result<Key> {
    Key::new(&[namespace, &digest.to_string()])
}

/// Writes a record.
///
/// # Errors
/// `InvalidArgument` when a label is too long; those of the disk.
pub(super) fn put(change: &mut Change<'_>, namespace: &Id, info: &mut Info) -> Result<()> {
    labels::validate(&info.labels)?;
    labels::drop_empty(&mut info.labels);
    change.put(CONTENT, &key(namespace, &info.digest)?, &Record::from(&*info))
}

fn find(db: &impl Read, namespace: &Id, digest: Digest) -> Result<Info> {
    match db.get::<Record>(CONTENT, &key(namespace, &digest)?)? {
        Some(record) => Ok(record.into_info(digest)),
        None => Err(absent(namespace, &digest)),
    }
}

/// The namespaces that have content.
fn who_has(db: &impl Read, digest: &Digest) -> Result<Vec<Id>> {
    let mut all = Vec::new();
    db.scan(NAMESPACES, &Key::new(&[])?, |key, _| {
        all.push(Id::new("namespace", last_part(key)?)?);
        Ok(std::ops::ControlFlow::Continue(()))
    })?;
    let mut having = Vec::new();
    for namespace in all {
        if db.has(CONTENT, &key(&namespace, digest)?)? {
            having.push(namespace);
        }
    }
    Ok(having)
}

/// All content that any namespace has.
fn recorded(db: &impl Read) -> Result<HashSet<Digest>> {
    let mut all = HashSet::new();
    db.scan(CONTENT, &Key::new(&[])?, |key, _| {
        let [_, digest] = last_parts(key)?;
        all.insert(Digest::parse(digest)?);
        Ok(std::ops::ControlFlow::Continue(()))
    })?;
    Ok(all)
}

fn absent(namespace: &Id, digest: &Digest) -> Error {
    Error::not_found(format!("content {digest} in namespace {namespace:?}"))
}

fn no_ingest(reference: &Ref) -> Error {
    let Ref { namespace, name } = reference;
    Error::not_found(format!("reference {name:?} in namespace {namespace:?}"))
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
