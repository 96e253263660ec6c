//! Makes images of what is in the store already, such as the content of an
//! archive: its parts are tied together, and unpacked.

use std::collections::BTreeSet;

use futures::FutureExt;
use shim_protocol::{Error, Result};
use tokio_util::sync::CancellationToken;

use crate::{
    Descriptor, Digest,
    fetch::absent,
    media_type,
    progress::Tracker,
    store::ContentStore,
    unpack::{self, Target, Unpack, stopped},
    walk::{self, Selection, Walk},
};

/// What is needed to make images of content.
pub struct Adopt<'a> {
    /// Where it is.
    pub content: &'a dyn ContentStore,
    /// What of the images is wanted.
    pub selection: &'a Selection,
    /// Where they are unpacked; an image is unpacked to the first one of its
    /// platform, if there is any.
    pub unpack: &'a [Target<'a>],
    /// Who wants to know how far it has come.
    pub tracker: &'a Tracker,
    /// Ends it before its time.
    pub stop: &'a CancellationToken,
}

impl Adopt<'_> {
    /// Ties together and unpacks all images of the index `root`. Of an image for
    /// several platforms, some may be missing.
    ///
    /// # Errors
    /// - `NotFound` when there is no image for the wanted platforms, or one of
    ///   which something is missing for each platform;
    /// - `InvalidArgument` when one is malformed;
    /// - `FailedPrecondition` when a layer is not what it should be;
    /// - `Cancelled` when it was ended before its time; those of the stores.
    pub async fn run(&self, root: &Descriptor) -> Result<()> {
        let walk = self.stop.run_until_cancelled(self.walk(root)).await;
        let walk = walk.unwrap_or_else(|| Err(stopped()))?;
        if !walk.has_manifest() {
            return Err(walk::no_match(root));
        }
        let whole = self.whole(&walk).await?;
        check(root, &walk, &whole)?;
        for (manifest, parts) in &walk.documents {
            if whole.contains(&manifest.digest) {
                self.unpack(parts).await?;
            }
        }
        Ok(())
    }

    /// Ties parents to their children.
    async fn walk(&self, root: &Descriptor) -> Result<Walk> {
        let mut walk = Walk::new(root)?;
        loop {
            let level = walk.level();
            if level.is_empty() {
                return Ok(walk);
            }
            for step in level {
                let document = &step.descriptor;
                if self.content.info(&document.digest).await?.is_none() {
                    continue;
                }
                let children = walk::children(self.content, document).await?;
                let labels = walk::child_labels(&children);
                self.content.set_labels(&document.digest, labels).await?;
                walk.found(&step, self.selection.select(document, children)?)?;
            }
        }
    }

    /// The manifests of which nothing is missing.
    async fn whole(&self, walk: &Walk) -> Result<BTreeSet<Digest>> {
        let mut whole = BTreeSet::new();
        for (manifest, parts) in &walk.documents {
            if media_type::is_manifest(&manifest.media_type) && self.are_there(parts).await? {
                whole.insert(manifest.digest.clone());
            }
        }
        Ok(whole)
    }

    async fn are_there(&self, parts: &[Descriptor]) -> Result<bool> {
        for part in parts {
            let elsewhere = media_type::is_non_distributable(&part.media_type);
            if !elsewhere && self.content.info(&part.digest).await?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn unpack(&self, parts: &[Descriptor]) -> Result<()> {
        let Some((config, layers)) = unpack::stack(parts) else { return Ok(()) };
        let Some(unpacker) = unpack::target(self.content, self.unpack, config).await? else {
            return Ok(());
        };
        for layer in &layers {
            self.tracker.add(layer, None);
        }
        let Self { content, tracker, stop, .. } = *self;
        let ready = |_: usize| std::future::ready(Ok(())).boxed();
        Unpack { content, unpacker, tracker, stop }.run(config, &layers, &ready).await.map(drop)
    }
}

/// Is there a whole manifest for each image?
fn check(root: &Descriptor, walk: &Walk, whole: &BTreeSet<Digest>) -> Result<()> {
    for (parent, children) in &walk.documents {
        if !media_type::is_index(&parent.media_type) {
            continue;
        }
        let mut manifests = children.iter().filter(|c| media_type::is_manifest(&c.media_type));
        let missing = match parent.digest == root.digest {
            // Each of them is an image.
            true => manifests.find(|manifest| !whole.contains(&manifest.digest)),
            false if manifests.clone().any(|manifest| whole.contains(&manifest.digest)) => None,
            false => manifests.next(),
        };
        if let Some(manifest) = missing {
            return Err(missing_part(walk, manifest));
        }
    }
    Ok(())
}

fn missing_part(walk: &Walk, manifest: &Descriptor) -> Error {
    match walk.documents.iter().any(|(found, _)| found.digest == manifest.digest) {
        true => Error::not_found(format!("a part of image {}", manifest.digest)),
        false => absent(&manifest.digest),
    }
}
