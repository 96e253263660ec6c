//! Layers and filesystems: what a layer makes of a filesystem, and which layer
//! two filesystems differ by.
//!
//! The work is the daemon's: it ends before the daemon does. But it also ends,
//! soon after, when whoever asked for it goes away: what is half unpacked is in
//! a snapshot that is theirs to remove, and what is half written is removed.

mod apply;
mod cancel;
mod compression;
mod create;
mod mounted;
mod pipe;
mod tar;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use containerd_images::{Descriptor, Digest, media_type::OCI_LAYER_GZIP};
use shim_protocol::{Error, ErrorKind, Id, Result};
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

use self::{apply::Place, cancel::Cancel, compression::Compression};
use crate::{
    Any, Mount,
    content::{Content, Ingestion, Writer},
    fault,
};

pub use apply::unpack;

/// Label of a layer's content: its digest without the compression.
pub const UNCOMPRESSED_LABEL: &str = "containerd.io/uncompressed";

/// How many pieces of a layer wait to be written.
const PIECES: usize = 4;

/// How layers are made and unpacked.
#[derive(Clone, Debug)]
pub struct DiffConfig {
    /// Whether the disk has all of a layer when it is unpacked.
    pub sync: bool,
}

/// What somebody wants of the unpacking of a layer.
#[derive(Clone, Debug, Default)]
pub struct ApplyOptions {
    /// Whether the disk has all of it in the end.
    pub sync: bool,
    /// For stream processors, by their names: there are none.
    pub payloads: Vec<(String, Any)>,
    /// How many bytes of the layer were read is written here.
    pub progress: Arc<AtomicU64>,
}

/// A layer to be made.
#[derive(Clone, Debug, Default)]
pub struct NewLayer {
    /// The older filesystem.
    pub left: Vec<Mount>,
    /// The newer one; the layer is what it has more.
    pub right: Vec<Mount>,
    /// What the layer is; empty for a gzip one.
    pub media_type: String,
    /// What its content is called while it is written; may be empty.
    pub reference: String,
    /// Labels of its content.
    pub labels: BTreeMap<String, String>,
    /// The lease that holds its content.
    pub lease: Option<String>,
    /// No time in it is later.
    pub latest: Option<SystemTime>,
}

/// Makes and unpacks layers. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Diff(Arc<Inner>);

struct Inner {
    content: Content,
    config: DiffConfig,
    work: TaskTracker,
}

impl Diff {
    /// Layers are in `content`.
    pub fn new(config: DiffConfig, content: Content) -> Self {
        Self(Arc::new(Inner { content, config, work: TaskTracker::new() }))
    }

    /// Where layers are.
    pub(crate) fn content(&self) -> &Content {
        &self.0.content
    }

    /// Unpacks a layer onto `mounts`; answers what it is without its
    /// compression. If the caller goes away, it ends soon after; what was
    /// unpacked until then stays, as it does after an error.
    ///
    /// # Errors
    /// - `NotFound` when the namespace does not have the layer;
    /// - `InvalidArgument` when it has another size, is no archive, or an entry
    ///   cannot be meant;
    /// - `DataLoss` when it ends too early;
    /// - `Unimplemented` when it is of a type that needs a stream processor;
    /// - `FailedPrecondition` when there is nothing to write to;
    /// - `ResourceExhausted` when the disk is full; others of the disk.
    pub async fn apply(
        &self,
        namespace: &Id,
        layer: &Descriptor,
        mounts: Vec<Mount>,
        options: ApplyOptions,
    ) -> Result<Descriptor> {
        let told = compression::told(&layer.media_type)?;
        let place = Place::of(mounts)?;
        let blob = self.0.content.read(namespace, &layer.digest).await?;
        if layer.size != 0 && layer.size != blob.size() {
            let (digest, size) = (&layer.digest, blob.size());
            let text = format!("layer {digest} has {size} bytes, and not {}", layer.size);
            return Err(Error::invalid(text));
        }
        if let Some((name, _)) = options.payloads.first() {
            tracing::debug!(name, "a stream processor was meant that there is not");
        }
        let cancel = Cancel::default();
        let job = apply::Job {
            blob,
            digest: layer.digest.clone(),
            told,
            place,
            sync: options.sync || self.0.config.sync,
            progress: options.progress,
            cancel: cancel.clone(),
        };
        let _cancel = cancel.on_drop();
        self.work("unpack a layer", move || job.run()).await
    }

    /// Makes the layer that the right filesystem has more than the left one,
    /// and puts it into the content of the namespace. If the caller goes away,
    /// it ends soon after, and what was written to a reference that the caller
    /// did not name is removed, as it is after an error.
    ///
    /// # Errors
    /// - `Unimplemented` when it cannot be of that type;
    /// - `InvalidArgument` when a label is too long, or mounts make no sense;
    /// - `FailedPrecondition` when there is nothing to compare;
    /// - `Unavailable` when somebody else writes to the reference;
    /// - `NotFound` when there is no such lease;
    /// - `Aborted` when a file changes meanwhile;
    /// - `ResourceExhausted` when the disk is full; others of the disk.
    pub async fn create(&self, namespace: &Id, layer: NewLayer) -> Result<Descriptor> {
        crate::labels::validate(&layer.labels)?;
        let cancel = Cancel::default();
        let _cancel = cancel.on_drop();
        let (this, namespace) = (self.clone(), namespace.clone());
        let work = async move { this.make(namespace, layer, cancel).await };
        let done = self.0.work.spawn(work).await;
        done.unwrap_or_else(|e| Err(Error::caused(ErrorKind::Internal, "make a layer", e)))
    }

    async fn make(&self, namespace: Id, layer: NewLayer, cancel: Cancel) -> Result<Descriptor> {
        let NewLayer { left, right, media_type, reference, mut labels, lease, latest } = layer;
        let media_type = if media_type.is_empty() { OCI_LAYER_GZIP.into() } else { media_type };
        let compression = compression::wanted(&media_type)?;
        let place =
            |mounts: Vec<Mount>| (!mounts.is_empty()).then(|| Place::of(mounts)).transpose();
        let job = create::Job {
            left: place(left)?,
            right: place(right)?,
            compression,
            latest: latest.map(seconds),
            cancel,
        };
        let is_named = !reference.is_empty();
        let reference = if is_named { reference } else { unique("diff") };
        let ingestion =
            Ingestion { reference: reference.clone(), lease: lease.clone(), ..Default::default() };
        let mut writer = self.0.content.writer(&namespace, ingestion).await?;
        fault::point("diff.create.opened");
        let made = self.write(job, &mut writer).await;
        fault::point("diff.create.written");
        let committed = match made {
            Ok(diff_id) => {
                if compression != Compression::None {
                    labels.insert(UNCOMPRESSED_LABEL.into(), diff_id.to_string());
                }
                self.commit(&namespace, writer, media_type, labels).await
            }
            Err(error) => {
                drop(writer);
                Err(error)
            }
        };
        if committed.is_err() && !is_named {
            match self.0.content.abort(&namespace, &reference, lease.as_deref()).await {
                Err(e) if !e.is_not_found() => {
                    tracing::warn!(error = %e.report(), "what was written of a layer stays");
                }
                _ => {}
            }
        }
        committed
    }

    /// Writes a layer; answers its digest without the compression.
    async fn write(&self, job: create::Job, writer: &mut Writer) -> Result<Digest> {
        for direct in [true, false] {
            writer.clear().await?;
            let (sender, mut pieces) = mpsc::channel(PIECES);
            let job = job.clone();
            let work = self.0.work.spawn_blocking(move || job.run(direct, sender));
            let mut written = Ok(());
            while let Some(piece) = pieces.recv().await {
                written = writer.write(piece).await;
                if written.is_err() {
                    break;
                }
            }
            // Whoever makes it learns that it is of no use.
            drop(pieces);
            let made = work.await;
            written?;
            let failed = |e| Err(Error::caused(ErrorKind::Internal, "make a layer", e));
            if let create::Made::Layer(digest) = made.unwrap_or_else(failed)? {
                return Ok(digest);
            }
        }
        Err(Error::internal("the longer way says that there is a longer way"))
    }

    async fn commit(
        &self,
        namespace: &Id,
        writer: Writer,
        media_type: String,
        labels: BTreeMap<String, String>,
    ) -> Result<Descriptor> {
        let digest = writer.digest()?;
        match writer.commit(0, Some(digest.clone()), labels.clone()).await {
            // It was made before, and is the same.
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
            committed => drop(committed?),
        }
        fault::point("diff.create.committed");
        let info = self.0.content.info(namespace, &digest).await?;
        if let Some(diff_id) = labels.get(UNCOMPRESSED_LABEL)
            && !info.labels.contains_key(UNCOMPRESSED_LABEL)
        {
            // Whoever brought it did not know.
            let new = [(UNCOMPRESSED_LABEL.to_owned(), diff_id.clone())].into();
            let path = format!("labels.{UNCOMPRESSED_LABEL}");
            self.0.content.update(namespace, &digest, new, &[path]).await?;
        }
        Ok(Descriptor::new(media_type, digest, info.size))
    }

    /// Ends the work that is under way.
    pub async fn shutdown(&self) {
        self.0.work.close();
        self.0.work.wait().await;
    }

    /// Does work that blocks, and that the daemon waits for.
    async fn work<T: Send + 'static>(
        &self,
        what: &str,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let done = self.0.work.spawn_blocking(work).await;
        done.unwrap_or_else(|e| Err(Error::caused(ErrorKind::Internal, what, e)))
    }
}

/// Whole seconds since 1970.
fn seconds(time: SystemTime) -> i64 {
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        Err(before) => {
            let before = before.duration();
            let up = u64::from(before.subsec_nanos() > 0);
            i64::try_from(before.as_secs() + up).map_or(i64::MIN, |seconds| -seconds)
        }
    }
}

/// A reference that nobody else writes to.
fn unique(prefix: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    format!("{prefix}-{}-{}", since.as_nanos(), NEXT.fetch_add(1, Ordering::Relaxed))
}
