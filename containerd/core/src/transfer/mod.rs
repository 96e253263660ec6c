//! Transfers: images between registries, archives and this daemon.
//!
//! How images are moved is told in [`containerd_images`]; here is where they are
//! stored: the content, images and snapshots of a namespace, under a lease that
//! holds what is not yet part of an image.
//!
//! ```text
//!   registry ──pull──▶ ┌─────────────────────┐ ──push────▶ registry
//!   archive ──import─▶ │ content ◀── images  │ ──export──▶ archive
//!                      │   └──unpack──▶ snapshots
//!                      └─────────────────────┘
//! ```
//!
//! A transfer is the daemon's: it ends in an orderly way whatever becomes of the
//! client. But when nobody waits for it any more, it ends soon.

mod archive;
mod lease;
mod pull;
mod push;
mod request;
mod store;
mod tag;
mod unpacker;

use std::{pin::pin, sync::Arc};

use containerd_images::{Descriptor, Platform, platform::Matcher, progress::Tracker, pull::Target};
use shim_protocol::{Error, ErrorKind, Id, Result};
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{store::Store, unpacker::SnapshotUnpacker};
use crate::{
    content::{Content, View},
    diff::Diff,
    gc::Scheduler,
    images::Images,
    leases::Leases,
    snapshots::Snapshots,
};

pub use containerd_images::{
    archive::{export::ByteSink, names::NameRule},
    progress::{Report, Stage},
    store::ContentReader,
};
pub use request::{ExportOptions, ImageSpec, UnpackTo};

/// How transfers are done.
#[derive(Clone, Debug)]
pub struct TransferConfig {
    /// How many downloads one pull may have at once. Not over all pulls: a
    /// registry that hangs must not hold up those from others.
    pub max_downloads: usize,
    /// How many uploads one push may have at once.
    pub max_uploads: usize,
    /// Which platforms can be unpacked to which snapshotters; all to all if that
    /// is not said.
    pub unpack: Option<Vec<UnpackTo>>,
    /// The snapshotter that is meant when none is named.
    pub default_snapshotter: String,
}

/// Something that a transfer tells about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// What has happened, such as `saved`.
    pub event: String,
    /// The image that it is about, and what it stands for.
    pub image: Option<(String, Descriptor)>,
}

/// Who wants to know how far a transfer has come.
#[derive(Clone, Debug)]
pub struct Watch {
    /// How far its parts have come.
    pub tracker: Arc<Tracker>,
    notes: mpsc::UnboundedSender<Note>,
}

impl Watch {
    /// A watch over a transfer of the image `root`, and the notes that will
    /// come: some few for each image.
    pub fn new(root: &str) -> (Self, mpsc::UnboundedReceiver<Note>) {
        let (notes, noted) = mpsc::unbounded_channel();
        (Self { tracker: Arc::new(Tracker::new(root)), notes }, noted)
    }

    fn note(&self, event: impl Into<String>) {
        self.send(Note { event: event.into(), image: None });
    }

    fn note_image(&self, event: &str, name: &str, target: &Descriptor) {
        let image = Some((name.to_owned(), target.clone()));
        self.send(Note { event: event.into(), image });
    }

    fn send(&self, note: Note) {
        // Whoever does not listen does not want to know.
        let _ = self.notes.send(note);
    }
}

/// For whom a transfer is done, and until when.
#[derive(Clone, Debug)]
pub struct Order {
    /// Whose images they are.
    pub namespace: Id,
    /// The client's lease; else the transfer makes one for itself.
    pub lease: Option<String>,
    /// Who wants to know how far it has come.
    pub watch: Watch,
    /// Ends it before its time.
    pub stop: CancellationToken,
}

/// Moves images. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Transfers(Arc<Inner>);

struct Inner {
    config: TransferConfig,
    content: Content,
    images: Images,
    snapshots: Snapshots,
    diff: Diff,
    leases: Leases,
    gc: Scheduler,
    /// Transfers that are under way.
    work: TaskTracker,
    stop: CancellationToken,
}

/// What transfers move images into and out of.
pub struct Places {
    /// Layers, manifests and configurations.
    pub content: Content,
    /// Their names.
    pub images: Images,
    /// What layers are unpacked into.
    pub snapshots: Snapshots,
    /// What unpacks them.
    pub diff: Diff,
    /// What holds that which has no name yet.
    pub leases: Leases,
    /// What removes that which came to nothing.
    pub gc: Scheduler,
}

impl Transfers {
    /// Moves images into and out of `places`.
    pub fn new(config: TransferConfig, places: Places) -> Self {
        let Places { content, images, snapshots, diff, leases, gc } = places;
        Self(Arc::new(Inner {
            config,
            content,
            images,
            snapshots,
            diff,
            leases,
            gc,
            work: TaskTracker::new(),
            stop: CancellationToken::new(),
        }))
    }

    /// Ends the transfers that are under way, and waits for them.
    pub async fn shutdown(&self) {
        self.0.stop.cancel();
        self.0.work.close();
        self.0.work.wait().await;
    }

    /// Runs a transfer to its end. If the caller goes away, it is told to end,
    /// and cleans up.
    async fn own<T: Send + 'static, F>(
        &self,
        order: Order,
        work: impl FnOnce(Self, Order) -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let stop = order.stop.child_token();
        let _stop = stop.clone().drop_guard();
        let (all, ended) = (self.0.stop.clone(), stop.clone());
        if all.is_cancelled() {
            return Err(Error::unavailable("the daemon shuts down"));
        }
        let work = work(self.clone(), Order { stop, ..order });
        let running = self.0.work.spawn(async move {
            let mut work = pin!(work);
            tokio::select! {
                outcome = &mut work => return outcome,
                () = all.cancelled() => ended.cancel(),
            }
            work.await
        });
        running
            .await
            .unwrap_or_else(|e| Err(Error::caused(ErrorKind::Internal, "move an image", e)))
    }

    fn store(&self, order: &Order, lease: &str) -> Store {
        Store { content: self.content(order, lease), images: self.0.images.clone() }
    }

    fn content(&self, order: &Order, lease: &str) -> View {
        let (content, namespace) = (self.0.content.clone(), order.namespace.clone());
        View { content, namespace, lease: Some(lease.to_owned()) }
    }

    /// The snapshotters that are asked for, as far as images of their platforms
    /// can be unpacked to them.
    ///
    /// # Errors
    /// `InvalidArgument` when there is no such snapshotter.
    fn unpackers(
        &self,
        order: &Order,
        lease: &str,
        wanted: &[UnpackTo],
    ) -> Result<Vec<(Platform, SnapshotUnpacker)>> {
        let mut unpackers = Vec::new();
        for UnpackTo { platform, snapshotter } in wanted {
            if !snapshotter.is_empty() {
                self.0.snapshots.get(snapshotter)?;
            }
            let Some(snapshotter) = self.supported(platform, snapshotter) else {
                tracing::warn!(%platform, snapshotter, "images are not unpacked to there");
                continue;
            };
            let unpacker = SnapshotUnpacker {
                snapshots: self.0.snapshots.clone(),
                diff: self.0.diff.clone(),
                leases: self.0.leases.clone(),
                namespace: order.namespace.clone(),
                snapshotter,
                lease: lease.to_owned(),
            };
            unpackers.push((platform.clone(), unpacker));
        }
        Ok(unpackers)
    }

    /// The snapshotter for images of a platform, if there is one: that which is
    /// named, or else the default one if it can, or else any.
    fn supported(&self, platform: &Platform, named: &str) -> Option<String> {
        let Inner { config, snapshots, .. } = &*self.0;
        let able: Vec<&str> = match &config.unpack {
            _ if platform.os != "linux" => Vec::new(),
            None => snapshots.names().collect(),
            Some(unpack) => unpack
                .iter()
                .filter(|to| to.platform.os == platform.os)
                .map(|to| to.snapshotter.as_str())
                .filter(|snapshotter| snapshots.get(snapshotter).is_ok())
                .collect(),
        };
        let wanted = if named.is_empty() { config.default_snapshotter.as_str() } else { named };
        let chosen = able.iter().find(|snapshotter| **snapshotter == wanted);
        let chosen = chosen.or_else(|| able.first().filter(|_| named.is_empty()));
        chosen.map(|snapshotter| (*snapshotter).to_owned())
    }
}

fn targets(unpackers: &[(Platform, SnapshotUnpacker)]) -> Vec<Target<'_>> {
    unpackers
        .iter()
        .map(|(platform, unpacker)| Target { platforms: Matcher::only(platform), unpacker })
        .collect()
}

/// The error of a transfer that was ended before its time.
fn ended() -> Error {
    Error::new(ErrorKind::Cancelled, "the transfer was ended")
}
