//! Makes another image of one in the store: with layers that are not compressed,
//! or in the media types of the OCI image specification.
//!
//! What changes gets another digest, and so does everything above it. The rest is
//! shared by both images. Configurations stay: they know layers by their digests
//! without compression.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    iter,
};

use futures::FutureExt;
use shim_protocol::{Context, Error, Result};
use tokio_util::sync::CancellationToken;

use crate::{
    Algorithm, Descriptor, Digest,
    archive::import::write_document,
    compression::{self, Compression},
    manifest::{Config, Index, Manifest},
    media_type, origin,
    platform::Matcher,
    pull::all,
    store::ContentStore,
    unpack::stopped,
    walk::{self, Walk},
};

/// How many layers are uncompressed at once.
const AT_ONCE: usize = 2;

/// Labels that keep the children of content begin so.
const CHILD_LABEL: &str = "containerd.io/gc.ref.content";

/// What is needed to convert.
pub struct Convert<'a> {
    /// Where the image is, and where the other one goes.
    pub content: &'a dyn ContentStore,
    /// What of an index stays: manifests of these platforms, and those that do
    /// not say for which they are. All if there is none.
    pub platforms: Option<&'a Matcher>,
    /// Takes the compression from layers.
    pub uncompress: bool,
    /// Gives parts with Docker's media types those of the OCI image specification.
    pub oci: bool,
    /// Ends it before its time.
    pub stop: &'a CancellationToken,
}

/// What has another digest now, by the old one: the new one and its size in
/// bytes.
type Made = HashMap<Digest, (Digest, u64)>;

/// What of an image is looked at.
struct Parts {
    /// Indexes and manifests, each behind those below it.
    documents: Vec<Descriptor>,
    /// Layers that can be uncompressed, each once.
    layers: Vec<Digest>,
}

impl Convert<'_> {
    /// Converts the image that `root` stands for; answers what the new one is,
    /// which is the same if there was nothing to do. Whoever converts an image
    /// again gets the same.
    ///
    /// # Errors
    /// - `NotFound` when content is missing, or an index has nothing for the
    ///   wanted platforms;
    /// - `InvalidArgument` when it is no image, or a malformed one;
    /// - `FailedPrecondition` when a layer is not what the configuration says;
    /// - `DataLoss` when a layer cannot be uncompressed;
    /// - `Cancelled` when it was ended before its time; those of the store.
    ///
    /// What was made until then stays as long as the lease does.
    pub async fn run(&self, root: &Descriptor) -> Result<Descriptor> {
        let parts = self.stop.run_until_cancelled(self.parts(root)).await;
        let Parts { documents, layers } = parts.unwrap_or_else(|| Err(stopped()))?;
        let mut made = self.uncompress(layers).await?;
        for document in &documents {
            let converted = self.stop.run_until_cancelled(self.document(document, &made)).await;
            let converted = converted.unwrap_or_else(|| Err(stopped()));
            if let Some(new) = converted.context("convert", &document.digest)? {
                made.insert(document.digest.clone(), new);
            }
        }
        Ok(self.converted(root, &made))
    }

    /// Finds out what the image consists of.
    async fn parts(&self, root: &Descriptor) -> Result<Parts> {
        let mut walk = Walk::new(root)?;
        loop {
            let level = walk.level();
            if level.is_empty() {
                break;
            }
            for step in level {
                let mut children = walk::children(self.content, &step.descriptor).await?;
                let all = children.len();
                children.retain(|child| self.is_wanted(&step.descriptor, child));
                if children.is_empty() && all > 0 {
                    return Err(walk::no_match(&step.descriptor));
                }
                walk.found(&step, children)?;
            }
        }
        let mut seen = HashSet::new();
        let children = walk.documents.iter().flat_map(|(_, children)| children);
        let compressed = children
            .filter(|child| {
                self.uncompress && media_type::uncompressed(&child.media_type).is_some()
            })
            .map(|child| &child.digest);
        let layers = compressed.filter(|layer| seen.insert(*layer)).cloned().collect();
        Ok(Parts { layers, documents: from_below(&walk)? })
    }

    /// Does it stay in the image?
    fn is_wanted(&self, parent: &Descriptor, child: &Descriptor) -> bool {
        match (self.platforms, &child.platform) {
            (Some(wanted), Some(platform)) if media_type::is_index(&parent.media_type) => {
                wanted.matches(platform)
            }
            _ => true,
        }
    }

    /// Takes the compression from layers.
    async fn uncompress(&self, layers: Vec<Digest>) -> Result<Made> {
        // What fails ends the rest, and each is waited for: it has to clean up.
        let stop = self.stop.child_token();
        let convert =
            |layer| compression::convert(self.content, layer, Compression::None, &stop).boxed();
        let made = all(layers.iter().map(convert), AT_ONCE, &stop).await?;
        Ok(layers.into_iter().zip(made).collect())
    }

    /// Writes an index or manifest with its new parts; none if all are the old
    /// ones.
    async fn document(&self, document: &Descriptor, made: &Made) -> Result<Option<(Digest, u64)>> {
        let bytes = walk::read_document(self.content, document).await?;
        let (json, children) = if media_type::is_index(&document.media_type) {
            let old = Index::parse(&bytes)?;
            let mut new = old.clone();
            new.media_type = self.media_type(&old.media_type);
            new.manifests.retain(|child| self.is_wanted(document, child));
            self.convert_all(&mut new.manifests, made);
            if new == old {
                return Ok(None);
            }
            (new.to_json()?, new.manifests)
        } else {
            let old = Manifest::parse(&bytes)?;
            self.check_layers(&old, made).await?;
            let mut new = old.clone();
            new.media_type = self.media_type(&old.media_type);
            new.config = self.converted(&old.config, made);
            self.convert_all(&mut new.layers, made);
            if new == old {
                return Ok(None);
            }
            (new.to_json()?, iter::once(new.config).chain(new.layers).collect())
        };
        let info = self.content.info(&document.digest).await?;
        let mut labels = info.map(|info| info.labels).unwrap_or_default();
        // Nobody else has the new one.
        let stays = |key: &str| !key.starts_with(CHILD_LABEL) && !origin::is_label(key);
        labels.retain(|key, _| stays(key));
        labels.extend(walk::child_labels(&children));
        let written = write_document(self.content, &document.media_type, json.into(), labels);
        let Descriptor { digest, size, .. } = written.await?;
        Ok(Some((digest, size)))
    }

    /// Are uncompressed layers what the configuration says?
    async fn check_layers(&self, manifest: &Manifest, made: &Made) -> Result<()> {
        let layers = &manifest.layers;
        let is_made = |layer: &Descriptor| made.contains_key(&layer.digest);
        if !media_type::is_config(&manifest.config.media_type) || !layers.iter().any(is_made) {
            return Ok(());
        }
        let config = walk::read_document(self.content, &manifest.config).await?;
        let config = Config::parse(&config).context("parse", &manifest.config.digest)?;
        let (found, named) = (layers.len(), config.diff_ids.len());
        if found != named {
            let text = format!("image has {found} layers, and its configuration names {named}");
            return Err(Error::precondition(text));
        }
        for (layer, diff_id) in layers.iter().zip(&config.diff_ids) {
            let Some((plain, _)) = made.get(&layer.digest) else { continue };
            // Whether another sort of digest is right shows when it is unpacked.
            if diff_id.algorithm() == Algorithm::Sha256 && diff_id != plain {
                let digest = &layer.digest;
                let text = format!("layer {digest} unpacks to {plain}, not to {diff_id}");
                return Err(Error::precondition(text));
            }
        }
        Ok(())
    }

    fn convert_all(&self, parts: &mut [Descriptor], made: &Made) {
        for part in parts {
            *part = self.converted(part, made);
        }
    }

    /// What points to the new content in the place of `old`.
    fn converted(&self, old: &Descriptor, made: &Made) -> Descriptor {
        let mut new = old.clone();
        if let Some((digest, size)) = made.get(&old.digest) {
            (new.digest, new.size) = (digest.clone(), *size);
            // What can be had there is the old one.
            new.urls.clear();
            if let Some(plain) = media_type::uncompressed(&old.media_type) {
                new.media_type = plain.to_owned();
            }
        }
        new.media_type = self.media_type(&new.media_type);
        if media_type::is_docker(&new.media_type) {
            // Docker's manifests know none (containerd, `core/images/converter`).
            new.annotations = BTreeMap::new();
        }
        new
    }

    fn media_type(&self, old: &str) -> String {
        if self.oci { media_type::to_oci(old) } else { old.to_owned() }
    }
}

/// The documents of an image, each behind those below it.
fn from_below(walk: &Walk) -> Result<Vec<Descriptor>> {
    enum Step {
        Enter(usize),
        Leave(usize),
    }
    let numbers: HashMap<_, _> =
        walk.documents.iter().enumerate().map(|(number, (d, _))| (&d.digest, number)).collect();
    let (mut entered, mut left) = (HashSet::new(), HashSet::new());
    let mut order = Vec::new();
    let mut steps = vec![Step::Enter(0)];
    while let Some(step) = steps.pop() {
        match step {
            Step::Enter(number) if entered.insert(number) => {
                steps.push(Step::Leave(number));
                let (_, children) = &walk.documents[number];
                let below = children.iter().filter_map(|child| numbers.get(&child.digest));
                steps.extend(below.map(|number| Step::Enter(*number)));
            }
            // Entered by another way: it lies below two others, or below itself.
            Step::Enter(number) if left.contains(&number) => {}
            Step::Enter(number) => {
                let digest = &walk.documents[number].0.digest;
                return Err(Error::invalid(format!("{digest} lies below itself")));
            }
            Step::Leave(number) => {
                left.insert(number);
                order.push(walk.documents[number].0.clone());
            }
        }
    }
    Ok(order)
}

#[cfg(test)]
mod tests;
