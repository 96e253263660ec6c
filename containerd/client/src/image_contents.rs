//! What an image consists of, read from the content of a namespace.

use std::collections::BTreeMap;

use containerd_images::{
    Descriptor, Platform,
    manifest::{self, Config, Manifest},
    media_type,
    platform::Matcher,
    progress::Tracker,
    store::ContentStore,
    unpack::Unpack,
    walk::{self, Selection, Walk},
};
use futures::FutureExt;
use shim_protocol::Context as _;
use tokio_util::sync::CancellationToken;

use crate::{
    Error, ErrorKind, Image, Images, NewContainer, Result, RootMount, STOP_SIGNAL_LABEL,
    rootfs::{self, NewSnapshot},
};

/// Labels with these prefixes mean something to containerd and its clients, so
/// an image may not set them.
const RESERVED_LABELS: [&str; 2] = ["containerd.io/", "io.cri-containerd"];

/// What an image consists of on one platform.
#[derive(Clone, Debug)]
pub struct ImageContents {
    /// The image's name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The manifest of the platform.
    pub manifest: Descriptor,
    /// The manifest's configuration.
    pub config_descriptor: Descriptor,
    /// How it is run.
    pub config: Config,
    /// Its layers, the lowest first.
    pub layers: Vec<Descriptor>,
}

impl ImageContents {
    /// Name of the snapshot that all layers make when they are unpacked; empty
    /// for an image without layers.
    pub fn chain_id(&self) -> String {
        manifest::chain_id(&self.config.diff_ids).map_or_else(String::new, |id| id.to_string())
    }
}

/// How much disk space a snapshot takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotUsage {
    /// Its name.
    pub name: String,
    /// In bytes, without its parents.
    pub size: u64,
    /// How many files it has, without its parents.
    pub inodes: u64,
}

/// What of an image is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageCheck {
    /// Whether it is known what is required: its manifest and configuration are
    /// there.
    pub available: bool,
    /// Its configuration and layers.
    pub required: Vec<Descriptor>,
    /// What of that is there.
    pub present: Vec<Descriptor>,
}

impl Images {
    /// What an image consists of on the best of the wanted platforms.
    ///
    /// # Errors
    /// `NotFound` when content is missing or there is nothing for such a
    /// platform, `InvalidArgument` when content is not what it should be.
    pub async fn contents(&self, image: &Image, platforms: &Matcher) -> Result<ImageContents> {
        let store = self.namespace.store();
        let walk = self.best(image, platforms).await?;
        let mut documents = walk.documents.iter().map(|(document, _)| document);
        let manifest = documents
            .find(|document| media_type::is_manifest(&document.media_type))
            .ok_or_else(|| {
                let text = format!("no manifest in image {}", image.name);
                Error::new(ErrorKind::NotFound, text)
            })?;
        let document = walk::read_document(&store, manifest).await?;
        let Manifest { config: config_descriptor, layers, .. } =
            Manifest::parse(&document).context("parse", &manifest.digest)?;
        let document = walk::read_document(&store, &config_descriptor).await?;
        let config = Config::parse(&document).context("parse", &config_descriptor.digest)?;
        Ok(ImageContents {
            name: image.name.clone(),
            labels: image.labels.clone(),
            manifest: manifest.clone(),
            config_descriptor,
            config,
            layers,
        })
    }

    /// How many bytes an image has on the best of the wanted platforms: its
    /// content as it is stored.
    ///
    /// # Errors
    /// As [`Images::contents`].
    pub async fn size(&self, image: &Image, platforms: &Matcher) -> Result<u64> {
        let walk = self.best(image, platforms).await?;
        let parts = walk.documents.iter().flat_map(|(_, children)| children);
        Ok(parts.map(|part| part.size).sum::<u64>() + image.target.size)
    }

    async fn best(&self, image: &Image, platforms: &Matcher) -> Result<Walk> {
        let selection = Selection { manifest_limit: 1, ..Selection::platforms(platforms.clone()) };
        let store = self.namespace.store();
        Ok(Walk::over(&store, &image.target, &selection)
            .await
            .context("read image", &image.name)?)
    }

    /// The platforms that an image is made for, each once.
    ///
    /// # Errors
    /// As [`Images::contents`].
    pub async fn platforms(&self, image: &Image) -> Result<Vec<Platform>> {
        let store = self.namespace.store();
        let mut walk = Walk::new(&image.target)?;
        let mut found: Vec<Platform> = Vec::new();
        let mut add = |platform: Platform| {
            // So builders mark what is no image, such as attestations.
            let known = platform.os != "unknown" && platform.architecture != "unknown";
            if known && !found.contains(&platform) {
                found.push(platform);
            }
        };
        loop {
            let level = walk.level();
            if level.is_empty() {
                break;
            }
            for step in level {
                // What says for which platform it is need not be there.
                match &step.descriptor.platform {
                    Some(platform) => add(platform.clone()),
                    None => walk.found(&step, walk::children(&store, &step.descriptor).await?)?,
                }
            }
        }
        for config in walk.blobs.iter().filter(|part| media_type::is_config(&part.media_type)) {
            let document = walk::read_document(&store, config).await?;
            let config = Config::parse(&document).context("parse", &config.digest)?;
            add(config.platform.normalize());
        }
        Ok(found)
    }

    /// Whether an image is unpacked.
    ///
    /// # Errors
    /// Those of the snapshotter.
    pub async fn is_unpacked(&self, contents: &ImageContents, snapshotter: &str) -> Result<bool> {
        let key = contents.chain_id();
        if key.is_empty() {
            return Ok(true);
        }
        match self.namespace.snapshots(snapshotter).stat(&key).await {
            Err(e) if e.is_not_found() => Ok(false),
            found => found.map(|_| true),
        }
    }

    /// Makes a snapshot on top of an unpacked image, to be mounted; one that is
    /// there under that key is taken as it is.
    ///
    /// # Errors
    /// `NotFound` when the image is not unpacked; those of the snapshotter.
    pub async fn open_snapshot(
        &self,
        contents: &ImageContents,
        snapshotter: &str,
        key: &str,
        writable: bool,
    ) -> Result<Vec<RootMount>> {
        let labels = BTreeMap::new();
        let new = NewSnapshot { parent: contents.chain_id(), read_only: !writable, labels };
        let snapshots = self.namespace.snapshots(snapshotter);
        match new.make(&snapshots, key).await {
            Err(e) if e.is_already_exists() => snapshots.mounts(key).await,
            mounts => mounts,
        }
    }

    /// Removes a snapshot that was made by [`Images::open_snapshot`]; it may be
    /// gone.
    ///
    /// # Errors
    /// Those of the snapshotter.
    pub async fn remove_snapshot(&self, snapshotter: &str, key: &str) -> Result<()> {
        rootfs::remove(&self.namespace.snapshots(snapshotter), key).await
    }

    /// How much disk space the snapshots of an unpacked image take, the topmost
    /// first.
    ///
    /// # Errors
    /// `NotFound` when it is not unpacked; those of the snapshotter.
    pub async fn usage(
        &self,
        contents: &ImageContents,
        snapshotter: &str,
    ) -> Result<Vec<SnapshotUsage>> {
        let snapshots = self.namespace.snapshots(snapshotter);
        let mut all = Vec::new();
        for name in manifest::chain_ids(&contents.config.diff_ids).into_iter().rev() {
            all.push(snapshots.usage(&name.to_string()).await?);
        }
        Ok(all)
    }

    /// Whether the content of an image is there, on the best of the wanted
    /// platforms.
    ///
    /// # Errors
    /// Those of the store, and `InvalidArgument` when content is not what it
    /// should be.
    pub async fn check(&self, image: &Image, platforms: &Matcher) -> Result<ImageCheck> {
        let store = self.namespace.store();
        let mut check = ImageCheck { available: true, ..ImageCheck::default() };
        let contents = match self.contents(image, platforms).await {
            Err(e) if e.is_not_found() => {
                check.available = false;
                if store.info(&image.target.digest).await?.is_some() {
                    check.present.push(image.target.clone());
                }
                return Ok(check);
            }
            contents => contents?,
        };
        check.required = vec![contents.config_descriptor];
        check.required.extend(contents.layers);
        for part in &check.required {
            if store.info(&part.digest).await?.is_some() {
                check.present.push(part.clone());
            }
        }
        Ok(check)
    }

    /// Unpacks an image, as far as it is not yet; answers the chain id, which is
    /// the name of the snapshot with all of its layers.
    ///
    /// # Errors
    /// `NotFound` when layers are missing, `FailedPrecondition` when one is not
    /// what the configuration says; those of the snapshotter.
    pub async fn unpack(&self, contents: &ImageContents, snapshotter: &str) -> Result<String> {
        self.namespace
            .under_lease(async |namespace| {
                let store = namespace.store();
                let unpack = Unpack {
                    content: &store,
                    unpacker: &namespace.unpacker(snapshotter),
                    tracker: &Tracker::new(&contents.name),
                    stop: &CancellationToken::new(),
                };
                // They are all there, or else applying them says so.
                let ready = |_| std::future::ready(Ok(())).boxed();
                let (config, layers) = (&contents.config_descriptor, &contents.layers);
                Ok(unpack.run(config, layers, &ready).await?)
            })
            .await
    }
}

impl NewContainer {
    /// Makes it from an image: it gets the image's name and labels, its stop
    /// signal as a label, and a snapshot on top of its layers, which must be
    /// unpacked. What is run is said by
    /// [`SpecBuilder::image_config`](crate::SpecBuilder::image_config).
    #[must_use]
    pub fn from_image(self, contents: &ImageContents, snapshotter: &str, key: &str) -> Self {
        let reserved = |key: &str| RESERVED_LABELS.iter().any(|prefix| key.starts_with(prefix));
        let labels = contents.config.labels.iter().filter(|(key, _)| !reserved(key));
        let labels = labels.chain(&contents.labels).filter(|(key, value)| is_label(key, value));
        let stop = match contents.config.stop_signal.as_str() {
            "" => "SIGTERM",
            signal => signal,
        };
        let labels = labels.map(|(key, value)| (key.clone(), value.clone()));
        self.image(&contents.name)
            .labels(labels)
            .labels([(STOP_SIGNAL_LABEL.into(), stop.into())])
            .new_snapshot(snapshotter, key, contents.chain_id())
    }
}

/// Labels have no more than 4096 bytes with their key.
fn is_label(key: &str, value: &str) -> bool {
    !key.is_empty() && key.len() + value.len() <= 4096
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Algorithm, Digest};

    #[test]
    fn images_set_no_labels_that_mean_something() {
        let descriptor =
            Descriptor::new(media_type::OCI_CONFIG, Digest::of(Algorithm::Sha256, b""), 0);
        let labels = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()
        };
        let contents = ImageContents {
            name: "web".into(),
            labels: labels(&[("a", "image")]),
            manifest: descriptor.clone(),
            config_descriptor: descriptor,
            config: Config {
                labels: labels(&[
                    ("a", "config"),
                    ("containerd.io/restart.status", "running"),
                    ("io.cri-containerd.kind", "container"),
                    ("long", &"x".repeat(5000)),
                ]),
                stop_signal: "SIGINT".into(),
                ..Config::default()
            },
            layers: Vec::new(),
        };
        let new = NewContainer::new("web").from_image(&contents, "native", "web");
        let expected = labels(&[("a", "image"), (STOP_SIGNAL_LABEL, "SIGINT")]);
        assert_eq!(*new.all_labels(), expected);
        assert_eq!(contents.chain_id(), "");
    }
}
