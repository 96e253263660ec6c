//! Containers and tasks that go on from a checkpoint.

use containerd_images::{
    Descriptor,
    manifest::Index,
    media_type::{self, CHECKPOINT, CHECKPOINT_CONFIG, CHECKPOINT_RUNTIME_OPTIONS},
    platform::Matcher,
    walk,
};
use prost::Message;
use prost_types::Any;
use serde_json::Value;

use super::{
    IMAGE, RUNTIME, SNAPSHOTTER, TASK_IMAGE,
    index::{part, read},
};
use crate::{
    Container, Error, ErrorKind, Image, Layer, Namespace, NewContainer, NewTask, Result, Runtime,
    spec::SPEC_URL,
};

/// What of a checkpoint a container is made from.
#[derive(Clone, Debug, Default)]
pub struct Restore {
    image: bool,
    spec: bool,
    runtime: bool,
    files: Option<Files>,
}

/// What was written to the snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Files {
    /// It has to be there.
    Needed,
    /// If it is there.
    Found,
}

impl Restore {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A new snapshot on top of the image.
    #[must_use]
    pub fn image(mut self) -> Self {
        self.image = true;
        self
    }

    /// The OCI configuration.
    #[must_use]
    pub fn spec(mut self) -> Self {
        self.spec = true;
        self
    }

    /// The runtime with its options.
    #[must_use]
    pub fn runtime(mut self) -> Self {
        self.runtime = true;
        self
    }

    /// What was written to the snapshot; with [`Restore::image`].
    #[must_use]
    pub fn files(mut self) -> Self {
        self.files = Some(Files::Needed);
        self
    }

    /// As [`Restore::files`], if it is in the checkpoint.
    #[must_use]
    pub fn files_if_any(mut self) -> Self {
        self.files = Some(Files::Found);
        self
    }
}

impl Namespace {
    /// Makes the container `id` from a checkpoint. Its task can be made from the
    /// same one, with [`NewTask::from_checkpoint`]. Only one that is trusted may be
    /// restored: it says by which program with which options the container is
    /// made, and what of the host it may use.
    ///
    /// The container gets the image that is in the checkpoint, which gets its name
    /// if it has none; without one, whatever image has the name.
    ///
    /// # Errors
    /// `InvalidArgument` when it is no checkpoint; `NotFound` when it lacks what
    /// is asked for; `FailedPrecondition` when another image has the name of the
    /// one in the checkpoint; those of [`Namespace::create_container`]. Nothing is
    /// left then.
    pub async fn restore(
        &self,
        id: &str,
        checkpoint: &Image,
        parts: &Restore,
    ) -> Result<Container> {
        let restored = self.under_lease(async |namespace| {
            let index = read(namespace, checkpoint).await?;
            let mut container = NewContainer::new(id);
            if parts.runtime {
                container = container.runtime(runtime(namespace, checkpoint, &index).await?);
            }
            if parts.spec {
                let spec = spec(namespace, checkpoint, &index).await?;
                container = container.any_spec(in_cgroup_of(spec, namespace.name(), id)?);
            }
            // A container without an image has a folder of its own.
            let mut image = None;
            if parts.image
                && let Some(name) = image_name(&index)
            {
                let found = image_of(namespace, &index, name).await?;
                container = on_image(namespace, container, id, &found, &index).await?;
                image = Some(found);
            }
            let mut layer = None;
            if let Some(wanted) = parts.files.filter(|_| container.has_new_snapshot()) {
                layer = match files(checkpoint, &index) {
                    Err(e) if e.is_not_found() && wanted == Files::Found => None,
                    layer => Some(layer?),
                };
            }
            let container = namespace.create_container(container).await?;
            let record = container.record();
            let filled = async {
                if let Some(layer) = layer {
                    let snapshots = namespace.snapshots(&record.snapshotter);
                    let mounts = snapshots.mounts(&record.snapshot_key).await?;
                    namespace.diff().apply(&layer, mounts, false).await?;
                }
                match image {
                    Some(image) => named(namespace, image).await,
                    None => Ok(()),
                }
            };
            if let Err(error) = filled.await {
                // What failed first matters more.
                let _ = container.delete_with_snapshot().await;
                return Err(error);
            }
            Ok(container)
        });
        Ok(restored.await?.in_namespace(self))
    }
}

impl NewTask {
    /// Goes on from the task in a checkpoint.
    ///
    /// # Errors
    /// `InvalidArgument` when it is no checkpoint, `NotFound` when there is no
    /// task in it.
    pub async fn from_checkpoint(self, namespace: &Namespace, checkpoint: &Image) -> Result<Self> {
        let index = read(namespace, checkpoint).await?;
        let images = wanted(part(&index, CHECKPOINT), "task", checkpoint)?.clone();
        Ok(self.checkpoint(crate::image::descriptor_to_wire(images)?))
    }
}

fn wanted<T>(found: Option<T>, what: &str, checkpoint: &Image) -> Result<T> {
    found.ok_or_else(|| {
        Error::new(ErrorKind::NotFound, format!("no {what} in checkpoint {}", checkpoint.name))
    })
}

async fn message(namespace: &Namespace, blob: &Descriptor) -> Result<Any> {
    let data = walk::read_document(&namespace.store(), blob).await?;
    Any::decode(&data[..]).map_err(|e| {
        Error::caused(ErrorKind::InvalidArgument, format!("decode {}", blob.digest), e)
    })
}

async fn runtime(namespace: &Namespace, checkpoint: &Image, index: &Index) -> Result<Runtime> {
    let mut options = None;
    if let Some(blob) = part(index, CHECKPOINT_RUNTIME_OPTIONS) {
        options = Some(message(namespace, blob).await?);
    }
    match index.annotations.get(RUNTIME).filter(|name| !name.is_empty()) {
        Some(name) => Ok(Runtime { name: name.clone(), options }),
        // That of a task alone does not tell.
        None if index.annotations.contains_key(TASK_IMAGE) => {
            Ok(Runtime::new(crate::DEFAULT_RUNTIME))
        }
        None => wanted(None, "runtime", checkpoint),
    }
}

async fn spec(namespace: &Namespace, checkpoint: &Image, index: &Index) -> Result<Any> {
    let blob = wanted(part(index, CHECKPOINT_CONFIG), "configuration", checkpoint)?;
    message(namespace, blob).await
}

/// A cgroup that was named after the container gets the name of the new one:
/// two of them must not share one.
fn in_cgroup_of(any: Any, namespace: &str, id: &str) -> Result<Any> {
    if any.type_url != SPEC_URL {
        return Ok(any);
    }
    let invalid = |e| Error::caused(ErrorKind::InvalidArgument, "read the configuration", e);
    let mut spec: Value = serde_json::from_slice(&any.value).map_err(invalid)?;
    let Some(Value::String(path)) = spec.pointer_mut("/linux/cgroupsPath") else {
        return Ok(any);
    };
    match path.strip_prefix('/').and_then(|path| path.split_once('/')) {
        Some((first, old)) if first == namespace && !old.contains('/') => {
            *path = format!("/{namespace}/{id}");
        }
        _ => return Ok(any),
    }
    Ok(Any { value: serde_json::to_vec(&spec).map_err(invalid)?, ..any })
}

fn image_name(index: &Index) -> Option<&String> {
    let mut names = [IMAGE, TASK_IMAGE].into_iter().filter_map(|key| index.annotations.get(key));
    names.find(|name| !name.is_empty())
}

/// The image that a container was made from: the one in the checkpoint, or else
/// the one of that name.
///
/// # Errors
/// `FailedPrecondition` when the name is that of another.
async fn image_of(namespace: &Namespace, index: &Index, name: &str) -> Result<Image> {
    let is_image = |part: &&Descriptor| {
        media_type::is_index(&part.media_type) || media_type::is_manifest(&part.media_type)
    };
    let found = namespace.images().get(name).await;
    let Some(target) = index.manifests.iter().find(is_image) else { return found };
    let image = Image::new(name, target.clone());
    match found {
        Err(e) if e.is_not_found() => Ok(image),
        found => same(image, &found?),
    }
}

/// Nobody's image gets another content because a checkpoint says so.
fn same(image: Image, found: &Image) -> Result<Image> {
    if found.target.digest == image.target.digest {
        return Ok(image);
    }
    let (found, own) = (&found.target.digest, &image.target.digest);
    let text = format!("image {} is {found}, and that of the checkpoint {own}", image.name);
    Err(Error::new(ErrorKind::FailedPrecondition, text))
}

/// Gives an image its name, if it has none yet.
async fn named(namespace: &Namespace, image: Image) -> Result<()> {
    match namespace.images().create(image.clone()).await {
        Err(e) if e.kind() == ErrorKind::AlreadyExists => {
            let found = namespace.images().get(&image.name).await?;
            same(image, &found).map(drop)
        }
        made => made.map(drop),
    }
}

/// Puts the container onto its image.
async fn on_image(
    namespace: &Namespace,
    container: NewContainer,
    id: &str,
    image: &Image,
    index: &Index,
) -> Result<NewContainer> {
    let images = namespace.images();
    let contents = images.contents(image, &Matcher::host()).await?;
    let named = index.annotations.get(SNAPSHOTTER).map_or("", String::as_str);
    let snapshotter = namespace.snapshotter(named).await?;
    if !images.is_unpacked(&contents, &snapshotter).await? {
        images.unpack(&contents, &snapshotter).await?;
    }
    Ok(container.image(&image.name).new_snapshot(snapshotter, id, contents.chain_id()))
}

fn files(checkpoint: &Image, index: &Index) -> Result<Layer> {
    let layer = index.manifests.iter().find(|part| media_type::is_layer(&part.media_type));
    let layer = wanted(layer, "layer with files", checkpoint)?;
    Ok(Layer {
        media_type: layer.media_type.clone(),
        digest: layer.digest.to_string(),
        size: layer.size,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_cgroup_goes_by_the_name_of_its_container() {
        let spec = |path: &str| Any {
            type_url: SPEC_URL.into(),
            value: json!({ "linux": { "cgroupsPath": path } }).to_string().into_bytes(),
        };
        let moved = |path: &str| in_cgroup_of(spec(path), "default", "new").unwrap();
        assert_eq!(moved("/default/old"), spec("/default/new"));
        for kept in ["/other/old", "/default/a/b", "machine.slice:ctr:old", ""] {
            assert_eq!(moved(kept), spec(kept));
        }
        let other = Any { type_url: "other".into(), value: vec![1] };
        assert_eq!(in_cgroup_of(other.clone(), "default", "new").unwrap(), other);
        let broken = Any { type_url: SPEC_URL.into(), value: vec![1] };
        let error = in_cgroup_of(broken, "default", "new").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    }
}
