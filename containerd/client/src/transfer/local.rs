//! Transfers on this side: content goes through this program, into and out of
//! the daemon's stores.

use std::{collections::BTreeMap, pin::pin, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use containerd_images::{
    Descriptor, Platform, Reference,
    adopt::Adopt,
    archive::{
        export::{ByteSink, Export},
        import::{Import, Imported},
        names,
    },
    platform::Matcher,
    progress::Tracker,
    pull::{Pull, Target},
    push::Push,
    remote::Remote,
    store::ContentReader,
    walk::Selection,
};
use futures::future::{Either, select};
use shim_protocol::Context as _;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::{ExportOptions, ImportOptions, OnProgress, Progress, PullOptions, PushOptions};
use crate::{Image, Namespace, Result, SnapshotUnpacker};

/// How much is read at once.
const PIECE_BYTES: usize = 256 << 10;

/// How often progress is told.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);

/// How many downloads or uploads there are at once, unless said otherwise.
const AT_ONCE: usize = 5;

/// Labels of a manifest that keep its layers begin so.
const LAYER_LABEL: &str = "containerd.io/gc.ref.content.l.";

pub(super) async fn pull(
    namespace: &Namespace,
    reference: &str,
    options: &PullOptions,
) -> Result<()> {
    let remote = Remote::new(options.registry.registry(), Reference::parse(reference)?);
    let host = [Platform::host()];
    let platforms = if options.platforms.is_empty() { &host[..] } else { &options.platforms };
    let selection = match options.all_platforms {
        true => Selection::all(),
        false => Selection {
            all_metadata: options.all_metadata,
            manifest_limit: 0,
            ..Selection::platforms(wanted(platforms))
        },
    };
    let on = options.progress.as_ref();
    tell(on, Progress::whole(format!("resolving {reference}")));
    let root = remote.resolve().await?;
    namespace
        .under_lease(async |namespace| {
            let store = namespace.store();
            let unpackers: Vec<SnapshotUnpacker> = match &options.unpack {
                None => Vec::new(),
                Some(name) => vec![namespace.unpacker(namespace.snapshotter(name).await?)],
            };
            let targets = unpackers.iter().flat_map(|unpacker| {
                let target = |platform| Target { platforms: Matcher::only(platform), unpacker };
                platforms.iter().map(target)
            });
            let tracker = Tracker::new(reference);
            let pull = Pull {
                content: &store,
                source: &remote,
                origin: Some(&remote.origin()),
                selection: &selection,
                unpack: &targets.collect::<Vec<_>>(),
                downloads: &Semaphore::new(at_once(options.max_downloads)),
                tracker: &tracker,
                stop: &CancellationToken::new(),
            };
            watched(&tracker, "downloading", on, pull.run(&root)).await?;
            let image = Image::new(reference, root);
            let image = Image { labels: options.labels.clone(), ..image };
            namespace.images().put(image).await.map(drop)
        })
        .await
}

pub(super) async fn push(
    namespace: &Namespace,
    name: &str,
    reference: &str,
    options: &PushOptions,
) -> Result<()> {
    let remote = Remote::new(options.registry.registry(), Reference::parse(reference)?);
    let image = namespace.images().get(name).await?;
    let selection = match options.platforms.is_empty() {
        true => Selection::all(),
        false => Selection::platforms(wanted(&options.platforms)),
    };
    let store = namespace.store();
    let tracker = Arc::new(Tracker::new(reference));
    let push = Push {
        content: &store,
        sink: &remote,
        origin: Some(&remote.origin()),
        selection: &selection,
        uploads: &Semaphore::new(at_once(options.max_uploads)),
        tracker: &tracker,
        stop: &CancellationToken::new(),
    };
    watched(&tracker, "uploading", options.progress.as_ref(), push.run(&image.target)).await
}

/// One platform means what its machines can run, the best of it first; several
/// mean each of them.
fn wanted(platforms: &[Platform]) -> Matcher {
    match platforms {
        [platform] => Matcher::only(platform),
        platforms => Matcher::any(platforms),
    }
}

fn at_once(limit: usize) -> usize {
    if limit == 0 { AT_ONCE } else { limit }
}

pub(super) async fn import(
    namespace: &Namespace,
    archive: impl AsyncRead + Send + Unpin + 'static,
    options: &ImportOptions,
) -> Result<()> {
    let selection = match options.platforms.is_empty() {
        true => Selection::all(),
        false => Selection::platforms(wanted(&options.platforms)),
    };
    let on = options.progress.as_ref();
    namespace
        .under_lease(async |namespace| {
            let store = namespace.store();
            let stop = CancellationToken::new();
            let import = Import { content: &store, compress: options.compress, stop: &stop };
            tell(on, Progress::whole("importing"));
            let Imported { index, images } = import.run(Box::new(Archive(archive))).await?;

            let mut unpackers: Vec<(Matcher, SnapshotUnpacker)> = Vec::new();
            if let Some((platform, name)) = &options.unpack {
                let snapshotter = namespace.snapshotter(name).await?;
                unpackers.push((Matcher::only(platform), namespace.unpacker(snapshotter)));
            }
            let targets: Vec<Target<'_>> = unpackers
                .iter()
                .map(|(platforms, unpacker)| Target { platforms: platforms.clone(), unpacker })
                .collect();
            let tracker = Tracker::new(&options.index_name);
            let adopt = Adopt {
                content: &store,
                selection: &selection,
                unpack: &targets,
                tracker: &tracker,
                stop: &stop,
            };
            watched(&tracker, "importing", on, adopt.run(&index)).await?;

            for image in &images {
                for name in names::annotated(image, &options.names) {
                    let image = put(namespace, name, image, options).await?;
                    if let (Some((platform, _)), true) = (&options.unpack, options.discard_layers) {
                        let_go(namespace, &image, platform).await?;
                    }
                }
            }
            if !options.index_name.is_empty() {
                put(namespace, options.index_name.clone(), &index, options).await?;
            }
            Ok(())
        })
        .await
}

async fn put(
    namespace: &Namespace,
    name: String,
    target: &Descriptor,
    options: &ImportOptions,
) -> Result<Image> {
    let labels = options.labels.clone();
    let image = Image { labels, ..Image::new(name, target.clone()) };
    let image = namespace.images().put(image).await?;
    let saved = Progress { name: image.name.clone(), ..Progress::whole("saved") };
    tell(options.progress.as_ref(), saved);
    Ok(image)
}

/// Leaves the layers of an image that is unpacked to the garbage collector.
async fn let_go(namespace: &Namespace, image: &Image, platform: &Platform) -> Result<()> {
    let contents = match namespace.images().contents(image, &Matcher::only(platform)).await {
        // It is for others, and not unpacked.
        Err(e) if e.is_not_found() => return Ok(()),
        contents => contents?,
    };
    let (content, manifest) = (namespace.content(), contents.manifest.digest.to_string());
    let labels = content.info(&manifest).await?.labels.into_keys();
    let layers = labels.filter(|key| key.starts_with(LAYER_LABEL));
    let cleared: BTreeMap<_, _> = layers.map(|key| (key, String::new())).collect();
    if !cleared.is_empty() {
        content.set_labels(&manifest, cleared).await?;
    }
    Ok(())
}

pub(super) async fn export(
    namespace: &Namespace,
    names: &[String],
    archive: impl AsyncWrite + Send + Unpin,
    options: &ExportOptions,
) -> Result<()> {
    let store = namespace.store();
    let mut images = Vec::new();
    for name in names {
        images.push(namespace.images().get(name).await?.into());
    }
    let platforms = match options.platforms.is_empty() {
        true => Matcher::strict(&Platform::host()),
        false => Matcher::ordered(&options.platforms),
    };
    let export = Export {
        content: &store,
        platforms: &platforms,
        all_platforms: options.all_platforms,
        skip_missing: false,
        skip_docker_manifest: options.skip_docker_manifest,
        skip_non_distributable: options.skip_non_distributable,
        stop: &CancellationToken::new(),
    };
    let mut sink = Archive(archive);
    export.run(&images, &mut sink).await?;
    Ok(sink.0.flush().await.context("write", "the archive")?)
}

/// An archive that is read or written.
struct Archive<T>(T);

#[async_trait]
impl<T: AsyncRead + Send + Unpin> ContentReader for Archive<T> {
    async fn next(&mut self) -> shim_protocol::Result<Option<Bytes>> {
        let mut piece = vec![0; PIECE_BYTES];
        let length = self.0.read(&mut piece).await.context("read", "the archive")?;
        piece.truncate(length);
        Ok((length > 0).then(|| piece.into()))
    }
}

#[async_trait]
impl<T: AsyncWrite + Send + Unpin> ByteSink for Archive<T> {
    async fn write(&mut self, piece: Bytes) -> shim_protocol::Result<()> {
        self.0.write_all(&piece).await.context("write", "the archive")
    }
}

fn tell(on: Option<&OnProgress>, progress: Progress) {
    if let Some(on) = on {
        on(progress);
    }
}

/// Works, and tells now and then how far it has come. What moves, is `moving`.
async fn watched<T>(
    tracker: &Tracker,
    moving: &str,
    on: Option<&OnProgress>,
    work: impl Future<Output = shim_protocol::Result<T>>,
) -> Result<T> {
    let Some(on) = on else { return Ok(work.await?) };
    let changes = || {
        for report in tracker.changes() {
            on(Progress::from_report(report, moving));
        }
    };
    let mut work = pin!(work);
    loop {
        let pause = pin!(tokio::time::sleep(PROGRESS_EVERY));
        match select(work.as_mut(), pause).await {
            Either::Left((done, _)) => {
                changes();
                return Ok(done?);
            }
            Either::Right(_) => changes(),
        }
    }
}
