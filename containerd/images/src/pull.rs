//! From a registry into the store.
//!
//! First come indexes and manifests, level by level; then configurations and
//! layers, several at once. Layers are unpacked in their order, each as soon as
//! it and those below it are there, while others are still on their way.

use std::collections::HashMap;

use futures::{
    FutureExt, Stream, StreamExt,
    future::{BoxFuture, join, join_all},
    stream,
};
use shim_protocol::{Error, ErrorKind, Result};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    Descriptor, Digest,
    fetch::{Fetcher, Source},
    manifest, media_type,
    origin::Origin,
    progress::Tracker,
    store::ContentStore,
    unpack::{self, Unpack, stopped},
    walk::{self, Selection, Walk},
};

pub use crate::unpack::Target;

/// How many pieces of content are asked for at once. How many of them are being
/// downloaded is up to [`Pull::downloads`].
const AT_ONCE: usize = 64;

/// What is needed to pull.
pub struct Pull<'a> {
    /// Where content goes.
    pub content: &'a dyn ContentStore,
    /// Where it comes from.
    pub source: &'a dyn Source,
    /// What the source is called, if that is to be noted.
    pub origin: Option<&'a Origin>,
    /// What of the image is wanted.
    pub selection: &'a Selection,
    /// Where it is unpacked; an image is unpacked to the first one of its
    /// platform, if there is any.
    pub unpack: &'a [Target<'a>],
    /// How many downloads there may be at once. Several pulls may share it.
    pub downloads: &'a Semaphore,
    /// Who wants to know how far it has come.
    pub tracker: &'a Tracker,
    /// Ends it before its time. Whoever drops the pull instead may leave a
    /// snapshot half unpacked, until it is collected.
    pub stop: &'a CancellationToken,
}

/// Tells which content is there.
#[derive(Default)]
struct Arrivals(HashMap<Digest, watch::Sender<bool>>);

impl Pull<'_> {
    /// Fetches the image that `root` stands for, and unpacks it.
    ///
    /// # Errors
    /// - `NotFound` when it, or a part that is wanted, is not there, or there is
    ///   none for the wanted platforms;
    /// - `InvalidArgument` when it is no image, or a malformed one;
    /// - `FailedPrecondition` when content is not what it should be;
    /// - `Cancelled` when it was ended before its time; those of the source and
    ///   of the stores.
    ///
    /// What has come stays as long as the lease does, and also what has come in
    /// part.
    pub async fn run(&self, root: &Descriptor) -> Result<()> {
        // What fails ends the rest, which then undoes what it has half done.
        let stop = self.stop.child_token();
        let walk = self.documents(root, &stop).await?;
        let mut arrivals = Arrivals::default();
        for blob in &walk.blobs {
            arrivals.0.insert(blob.digest.clone(), watch::Sender::new(false));
        }
        let blobs = self.blobs(&walk, &arrivals, &stop);
        let (fetched, unpacked) = join(blobs, self.unpack(&walk, &arrivals, &stop)).await;
        unless_failed([fetched].into_iter().chain(unpacked).collect()).map(drop)
    }

    /// Fetches indexes and manifests.
    async fn documents(&self, root: &Descriptor, stop: &CancellationToken) -> Result<Walk> {
        if manifest::is_schema1(&root.media_type) {
            return Err(manifest::schema1_error());
        }
        let fetcher = self.fetcher(stop);
        let mut walk = Walk::new(root)?;
        self.tracker.add(root, None);
        loop {
            let level = walk.level();
            if level.is_empty() {
                break;
            }
            let below = level.iter().map(|step| self.document(&fetcher, &step.descriptor).boxed());
            let below = all(below, AT_ONCE, stop).await?;
            for (step, children) in level.iter().zip(below) {
                walk.found(step, children)?;
            }
        }
        // An index may also have other things than images.
        if self.selection.platforms.is_some() && !walk.has_manifest() && walk.blobs.is_empty() {
            return Err(walk::no_match(root));
        }
        Ok(walk)
    }

    /// Fetches one of them; answers what of its children is wanted.
    async fn document(
        &self,
        fetcher: &Fetcher<'_>,
        descriptor: &Descriptor,
    ) -> Result<Vec<Descriptor>> {
        walk::check_size(descriptor)?;
        fetcher.fetch(descriptor).await?;
        let children = walk::children(self.content, descriptor).await?;
        if !children.is_empty() {
            let labels = walk::child_labels(&children);
            self.content.set_labels(&descriptor.digest, labels).await?;
        }
        let wanted = self.selection.select(descriptor, children)?;
        for child in &wanted {
            self.tracker.add(child, Some(descriptor));
        }
        Ok(wanted)
    }

    /// Fetches everything else: configurations first, because nothing can be
    /// unpacked without, then layers in their order.
    async fn blobs(
        &self,
        walk: &Walk,
        arrivals: &Arrivals,
        stop: &CancellationToken,
    ) -> Result<()> {
        let fetcher = self.fetcher(stop);
        let (configs, layers): (Vec<_>, Vec<_>) =
            walk.blobs.iter().partition(|blob| media_type::is_known_config(&blob.media_type));
        let fetch = async |blob: &Descriptor| {
            fetcher.fetch(blob).await?;
            arrivals.arrived(&blob.digest);
            Ok(())
        };
        let fetches = configs.into_iter().chain(layers).map(|blob| fetch(blob).boxed());
        all(fetches, AT_ONCE, stop).await.map(drop)
    }

    /// Unpacks all manifests for which there is a target.
    async fn unpack(
        &self,
        walk: &Walk,
        arrivals: &Arrivals,
        stop: &CancellationToken,
    ) -> Vec<Result<()>> {
        if self.unpack.is_empty() {
            return Vec::new();
        }
        let manifests =
            walk.documents.iter().filter(|(d, _)| media_type::is_manifest(&d.media_type));
        let unpacks = manifests.map(|(_, parts)| {
            self.unpack_one(parts, arrivals, stop).inspect(|outcome| ending(outcome, stop))
        });
        // Each is waited for, whatever becomes of the others: it has to clean up.
        join_all(unpacks).await
    }

    async fn unpack_one(
        &self,
        parts: &[Descriptor],
        arrivals: &Arrivals,
        stop: &CancellationToken,
    ) -> Result<()> {
        let Some((config, layers)) = unpack::stack(parts) else { return Ok(()) };
        stop.run_until_cancelled(arrivals.wait(&config.digest))
            .await
            .unwrap_or_else(|| Err(stopped()))?;
        let Some(unpacker) = unpack::target(self.content, self.unpack, config).await? else {
            return Ok(());
        };
        let Self { content, tracker, .. } = *self;
        let ready = |number: usize| arrivals.wait(&layers[number].digest).boxed();
        Unpack { content, unpacker, tracker, stop }.run(config, &layers, &ready).await.map(drop)
    }

    fn fetcher<'a>(&'a self, stop: &'a CancellationToken) -> Fetcher<'a> {
        Fetcher {
            content: self.content,
            source: self.source,
            origin: self.origin,
            downloads: self.downloads,
            tracker: self.tracker,
            stop,
        }
    }
}

impl Arrivals {
    fn arrived(&self, digest: &Digest) {
        if let Some(arrival) = self.0.get(digest) {
            arrival.send_replace(true);
        }
    }

    async fn wait(&self, digest: &Digest) -> Result<()> {
        // What is not on the way is there, or reading it will fail.
        let Some(arrival) = self.0.get(digest) else { return Ok(()) };
        let waited = arrival.subscribe().wait_for(|arrived| *arrived).await.map(drop);
        waited.map_err(|e| Error::caused(ErrorKind::Internal, "wait for content", e))
    }
}

/// Work that is done side by side. In boxes: the compiler cannot see that it may
/// move between threads where each piece has a lifetime of its own.
pub(crate) fn side_by_side<'a, T>(
    work: impl Iterator<Item = BoxFuture<'a, T>>,
) -> impl Stream<Item = BoxFuture<'a, T>> {
    stream::iter(work.collect::<Vec<_>>())
}

/// Does work side by side, so much at once; answers in its order what came of
/// it. A failure ends the rest, which is waited for: it has to clean up.
pub(crate) async fn all<'a, T: Send + 'a>(
    work: impl Iterator<Item = BoxFuture<'a, Result<T>>>,
    at_once: usize,
    stop: &'a CancellationToken,
) -> Result<Vec<T>> {
    let numbered = work.enumerate().map(|(number, work)| {
        let watched = work.inspect(|outcome| ending(outcome, stop));
        watched.map(move |outcome| (number, outcome)).boxed()
    });
    // Sorted afterwards: what waits for its turn to be handed out takes the place
    // of what could be done.
    let mut done: Vec<_> = side_by_side(numbered).buffer_unordered(at_once).collect().await;
    done.sort_by_key(|(number, _)| *number);
    unless_failed(done.into_iter().map(|(_, outcome)| outcome).collect())
}

/// A failure ends everything else.
fn ending<T>(outcome: &Result<T>, stop: &CancellationToken) {
    if outcome.is_err() {
        stop.cancel();
    }
}

/// All that was done; or else the error that was not made by ending because of
/// another, if there is one.
fn unless_failed<T>(mut outcomes: Vec<Result<T>>) -> Result<Vec<T>> {
    let is_cause = |outcome: &Result<T>| {
        outcome.as_ref().is_err_and(|error| error.kind() != ErrorKind::Cancelled)
    };
    if let Some(cause) = outcomes.iter().position(is_cause) {
        outcomes.swap(0, cause);
    }
    outcomes.into_iter().collect()
}

#[cfg(test)]
mod tests;
