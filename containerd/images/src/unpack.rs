//! From layers to a stack of snapshots.
//!
//! A layer is unpacked into a snapshot of its own on top of the layer below,
//! which gets its chain id for a name: what the whole stack up to there consists
//! of (OCI image specification, "Layer ChainID"). So whoever has that name need
//! not look at the layers.

use std::collections::BTreeMap;

use futures::future::BoxFuture;
use shim_protocol::{Context, Error, ErrorKind, Result};
use tokio_util::sync::CancellationToken;

use crate::{
    Descriptor, Digest,
    manifest::{self, Config},
    media_type,
    platform::Matcher,
    progress::Tracker,
    store::{ContentStore, Unpacker},
    unique::unique,
    walk,
};

/// Label of a layer: what it is without its compression.
pub const UNCOMPRESSED_LABEL: &str = "containerd.io/uncompressed";

/// Label of a snapshot that is being made: the name that it is to get. A
/// snapshotter may have that already, and then says so.
const SNAPSHOT_REF_LABEL: &str = "containerd.io/snapshot.ref";

/// What snapshots inherit from the annotations of their layer, beside
/// [`SNAPSHOT_REF_LABEL`].
const INHERITED_PREFIX: &str = "containerd.io/snapshot/";

/// How often an unused key for a snapshot is looked for.
const TRIES: u32 = 3;

/// Label of a configuration that keeps the snapshot of its layers.
pub fn snapshot_label(snapshotter: &str) -> String {
    format!("containerd.io/gc.ref.snapshot.{snapshotter}")
}

/// Something that tells when a layer, by its number, is in the store.
pub type Ready<'a> = &'a (dyn Fn(usize) -> BoxFuture<'a, Result<()>> + Send + Sync);

/// Where images of some platforms are unpacked.
pub struct Target<'a> {
    /// The platforms.
    pub platforms: Matcher,
    /// The snapshotter.
    pub unpacker: &'a dyn Unpacker,
}

/// Configuration and layers of the manifest with these parts; none if it is not
/// that of an image.
pub(crate) fn stack(parts: &[Descriptor]) -> Option<(&Descriptor, Vec<Descriptor>)> {
    let config = parts.iter().find(|part| media_type::is_config(&part.media_type))?;
    let layers = parts.iter().filter(|part| media_type::is_layer(&part.media_type));
    Some((config, layers.cloned().collect()))
}

/// What the image with this configuration is unpacked with, if it is at all.
pub(crate) async fn target<'a>(
    content: &dyn ContentStore,
    targets: &[Target<'a>],
    config: &Descriptor,
) -> Result<Option<&'a dyn Unpacker>> {
    let document = walk::read_document(content, config).await?;
    let platform = Config::parse(&document).context("parse", &config.digest)?.platform;
    let target = targets.iter().find(|target| target.platforms.matches(&platform));
    Ok(target.map(|target| target.unpacker))
}

/// What unpacks, and who wants to know.
#[derive(Clone, Copy)]
pub struct Unpack<'a> {
    /// Where the layers are.
    pub content: &'a dyn ContentStore,
    /// Where they are unpacked to.
    pub unpacker: &'a dyn Unpacker,
    /// Who wants to know how far it has come.
    pub tracker: &'a Tracker,
    /// Ends it before its time.
    pub stop: &'a CancellationToken,
}

/// A layer and what it is to become.
struct Stage<'a> {
    layer: &'a Descriptor,
    diff_id: &'a Digest,
    /// Name of the snapshot that it builds upon; empty for none.
    parent: &'a str,
    name: &'a str,
}

/// Where the snapshot of a layer comes from.
#[derive(PartialEq, Eq)]
enum Unpacked {
    /// The layer was unpacked, and is what the configuration says.
    Here,
    /// It was there.
    Before,
}

impl Unpack<'_> {
    /// Unpacks the `layers` of the manifest with configuration `config`, each as
    /// soon as `ready` says that it is there. Answers the name of the topmost
    /// snapshot.
    ///
    /// # Errors
    /// - `FailedPrecondition` when a layer is not what the configuration says,
    ///   or there are more or fewer of them;
    /// - `Cancelled` when it was ended before its time;
    /// - those of the stores and of `ready`.
    ///
    /// Finished snapshots stay: whoever comes again need not make them.
    pub async fn run(
        &self,
        config: &Descriptor,
        layers: &[Descriptor],
        ready: Ready<'_>,
    ) -> Result<String> {
        let document = walk::read_document(self.content, config).await?;
        let diff_ids = Config::parse(&document).context("parse", &config.digest)?.diff_ids;
        if diff_ids.len() != layers.len() {
            let (found, named) = (layers.len(), diff_ids.len());
            let text = format!("image has {found} layers, and its configuration names {named}");
            return Err(Error::precondition(text));
        }
        let mut parent = String::new();
        let names = manifest::chain_ids(&diff_ids);
        for (number, ((layer, diff_id), name)) in
            layers.iter().zip(&diff_ids).zip(names).enumerate()
        {
            let name = name.to_string();
            if !self.unpacker.has(&name).await? {
                self.unless_stopped(ready(number)).await?;
                self.layer(&Stage { layer, diff_id, parent: &parent, name: &name }).await?;
            }
            parent = name;
        }
        if !parent.is_empty() {
            let label = (snapshot_label(self.unpacker.snapshotter()), parent.clone());
            self.content.set_labels(&config.digest, BTreeMap::from([label])).await?;
        }
        Ok(parent)
    }

    /// Makes the snapshot of one layer.
    async fn layer(&self, stage: &Stage<'_>) -> Result<()> {
        let Stage { layer, diff_id, .. } = stage;
        self.tracker.extracting(&layer.digest);
        if self.unpack(stage).await? == Unpacked::Here {
            let label = (UNCOMPRESSED_LABEL.to_owned(), diff_id.to_string());
            self.content.set_labels(&layer.digest, BTreeMap::from([label])).await?;
        }
        self.tracker.extracted(&layer.digest);
        Ok(())
    }

    async fn unpack(&self, stage: &Stage<'_>) -> Result<Unpacked> {
        for _ in 0..TRIES {
            let Some(key) = self.prepare(stage).await? else { return Ok(Unpacked::Before) };
            let Err(error) = self.fill(stage, &key).await else { return Ok(Unpacked::Here) };
            self.remove(&key).await;
            if error.kind() != ErrorKind::AlreadyExists {
                return Err(error);
            }
            // Somebody else has unpacked the same meanwhile; but it may have
            // gone with them.
            if self.unpacker.has(stage.name).await? {
                return Ok(Unpacked::Here);
            }
        }
        Err(Error::unavailable(format!("snapshot {} goes whenever it is made", stage.name)))
    }

    /// Makes a snapshot to unpack into; none if the layer's own is there.
    async fn prepare(&self, stage: &Stage<'_>) -> Result<Option<String>> {
        for _ in 0..TRIES {
            // As containerd calls them: people know what they are for.
            let key = format!("{} {}", unique("extract"), stage.name);
            match self.unpacker.prepare(&key, stage.parent, labels(stage)).await {
                Ok(()) => return Ok(Some(key)),
                Err(e) if e.kind() != ErrorKind::AlreadyExists => {
                    return Err(e).context("prepare snapshot", format_args!("{key:?}"));
                }
                Err(_) if self.unpacker.has(stage.name).await? => return Ok(None),
                Err(_) => {}
            }
        }
        Err(Error::unavailable(format!("no key is free to unpack {}", stage.name)))
    }

    /// Unpacks a layer under `key`, checks it and gives it its name.
    ///
    /// # Errors
    /// `AlreadyExists` when there is one of that name.
    async fn fill(&self, stage: &Stage<'_>, key: &str) -> Result<()> {
        let Stage { layer, diff_id, name, .. } = stage;
        let found = self
            .unless_stopped(self.unpacker.apply(key, layer))
            .await
            .map_err(|e| {
                // It would be taken for a snapshot that exists.
                let internal = e.kind() == ErrorKind::AlreadyExists;
                if internal { e.with_kind(ErrorKind::Internal) } else { e }
            })
            .context("unpack layer", &layer.digest)?;
        if found != **diff_id {
            let digest = &layer.digest;
            let text = format!("layer {digest} unpacks to {found}, not to {diff_id}");
            return Err(Error::precondition(text));
        }
        self.unpacker.commit(name, key, labels(stage)).await
    }

    /// Removes what came to nothing. What stays is collected when the lease ends.
    async fn remove(&self, key: &str) {
        match self.unpacker.remove(key).await {
            Err(error) if !error.is_not_found() => {
                tracing::warn!(key, error = %error.report(), "a snapshot that failed stays");
            }
            _ => {}
        }
    }

    async fn unless_stopped<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        unless(self.stop, work).await
    }
}

/// Does work that is dropped when it is to end before its time.
pub(crate) async fn unless<T>(
    stop: &CancellationToken,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    stop.run_until_cancelled(work).await.unwrap_or_else(|| Err(stopped()))
}

/// The error of work that was ended before its time.
pub(crate) fn stopped() -> Error {
    Error::new(ErrorKind::Cancelled, "the transfer was ended")
}

/// Labels of the snapshot of a layer (containerd, `core/unpack`).
fn labels(stage: &Stage<'_>) -> BTreeMap<String, String> {
    let mut labels: BTreeMap<_, _> = stage
        .layer
        .annotations
        .iter()
        .filter(|(key, _)| key.starts_with(INHERITED_PREFIX))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    labels.insert(SNAPSHOT_REF_LABEL.into(), stage.name.into());
    labels.insert(format!("{INHERITED_PREFIX}diff-id"), stage.diff_id.to_string());
    if !stage.parent.is_empty() {
        labels.insert(format!("{INHERITED_PREFIX}parent-chain-id"), stage.parent.into());
    }
    labels
}
