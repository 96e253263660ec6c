//! Layers and filesystems: what a layer makes of a filesystem, and which layer
//! two filesystems differ by.
//!
//! The work is the daemon's: it ends before the daemon does. But it also ends,
//! soon after, when whoever asked for it goes away: what is half unpacked is in
//! a snapshot that is theirs to remove, and what is half written is removed.

mod apply;
mod cancel;
mod compression;
mod mounted;
mod pipe;
mod tar;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, atomic::AtomicU64},
    time::SystemTime,
};

use containerd_images::Descriptor;
use shim_protocol::{Error, ErrorKind, Id, Result};
use tokio_util::task::TaskTracker;

use self::{apply::Place, cancel::Cancel};
use crate::{Any, Mount, content::Content};

/// How layers are made and unpacked.
#[derive(Clone, Debug)]
pub struct DiffConfig {
    /// Whether the disk has all of a layer when it is unpacked.
    pub sync: bool,
    /// Where something can be mounted for a while.
    pub temp: PathBuf,
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
            temp: self.0.config.temp.clone(),
        };
        let _cancel = cancel.on_drop();
        self.work("unpack a layer", move || job.run()).await
    }

    /// Makes the layer that the right filesystem has more than the left one.
    ///
    /// # Errors
    /// `Unimplemented`.
    pub async fn create(&self, _namespace: &Id, layer: NewLayer) -> Result<Descriptor> {
        let media_type = match layer.media_type.as_str() {
            "" => containerd_images::media_type::OCI_LAYER_GZIP,
            media_type => media_type,
        };
        compression::wanted(media_type)?;
        Err(Error::unimplemented("layers are not made yet"))
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
