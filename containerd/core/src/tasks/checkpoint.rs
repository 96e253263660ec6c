//! Checkpoints: tasks on disk, and tasks that go on from there.
//!
//! In the content store a checkpoint is two blobs: an archive of the images, and
//! the OCI configuration of the container. Clients make an index of them, and of
//! whatever else belongs to it (containerd, `plugins/services/tasks/local.go`).

use std::{collections::BTreeMap, fmt, fs, path::Path, sync::Arc};

use async_trait::async_trait;
use containerd_api::runc::v1::CheckpointOptions;
use containerd_images::{
    archive::import::write_document,
    media_type::{CHECKPOINT, CHECKPOINT_CONFIG, OCI_LAYER},
};
use prost::{Message, Name};
use runtime_v2::{Any, CheckpointFolder, Images, Mount, Task};
use shim_protocol::{Context, Error, ErrorKind, Id, Result};

use super::{Target, Tasks};
use crate::{
    content::View,
    diff::{ApplyOptions, Diff, NewLayer},
    fault,
    images::Descriptor,
};

/// A checkpoint to be made.
#[derive(Clone, Debug, Default)]
pub struct NewCheckpoint {
    /// `containerd.runc.v1.CheckpointOptions`, or none.
    pub options: Option<Any>,
    /// The lease that holds what is written to the content store.
    pub lease: Option<String>,
}

impl Tasks {
    /// Writes a checkpoint: to the folder that the options name, or else to the
    /// content store, and then answers what was written there. Goes on if the
    /// caller goes away.
    ///
    /// # Errors
    /// `NotFound`; `InvalidArgument` for options that make no sense;
    /// `FailedPrecondition` when the task does not run, or what it takes is
    /// missing; and what the shim says. The task goes on as before then, unless
    /// it was to end, and only what it has left could not be stored: that is kept
    /// as long as the task, and the error says where.
    pub async fn checkpoint(
        self: &Arc<Self>,
        target: &Target,
        request: NewCheckpoint,
    ) -> Result<Vec<Descriptor>> {
        let (tasks, target) = (self.clone(), target.clone());
        let work = async move {
            let written = tasks.write_checkpoint(&target, request).await;
            written.context("checkpoint", target)
        };
        let done = self.work.spawn(work).await;
        done.unwrap_or_else(|e| Err(Error::caused(ErrorKind::Internal, "write a checkpoint", e)))
    }

    async fn write_checkpoint(
        &self,
        target: &Target,
        request: NewCheckpoint,
    ) -> Result<Vec<Descriptor>> {
        let task = self.of(target)?;
        let NewCheckpoint { options, lease } = request;
        let CheckpointOptions { image_path, exit, .. } = match &options {
            Some(options) => decode(options)?,
            None => CheckpointOptions::default(),
        };
        if !image_path.is_empty() {
            task.checkpoint(image_path.as_ref(), options).await?;
            return Ok(Vec::new());
        }
        // What can fail does so before anything is stopped, or even ended.
        let container = self.containers.get(&target.namespace, &target.container).await?;
        let spec = container.spec.unwrap_or_default();
        let spec = prost_types::Any { type_url: spec.type_url, value: spec.value };
        let (content, namespace) = (self.diff.content().clone(), task.namespace().clone());
        let content = View { content, namespace, lease: lease.clone() };
        let spec = spec.encode_to_vec().into();
        let config = write_document(&content, CHECKPOINT_CONFIG, spec, BTreeMap::new()).await;
        let config = config.context("write", "the configuration")?;
        let folder = task.checkpoint_folder().await?;
        let written = task.checkpoint(folder.path(), options).await;
        let is_whole = written.is_ok();
        let stored = match written {
            Ok(()) => {
                fault::point("tasks.checkpoint.written");
                self.store(&task, folder.path(), lease).await
            }
            // Without an answer it may still be written to.
            Err(error) if error.kind() == ErrorKind::Unavailable => {
                if exit {
                    folder.keep();
                }
                return Err(error);
            }
            Err(error) => Err(error),
        };
        match stored {
            // It may have ended even if its shim has failed after that.
            Err(error) if exit && (is_whole || is_all_that_is_left(&task, &folder).await) => {
                let kept = folder.path().display();
                let doubt = if is_whole { "" } else { ", perhaps not all of it," };
                let text =
                    format!("the task has ended, and is kept{doubt} in {kept} until it is deleted");
                folder.keep();
                Err(Error::caused(error.kind(), text, error))
            }
            stored => {
                discard(target, folder).await;
                stored.map(|images| vec![images, config])
            }
        }
    }

    async fn store(&self, task: &Task, folder: &Path, lease: Option<String>) -> Result<Descriptor> {
        let archive = NewLayer {
            right: vec![bind(folder)?],
            media_type: OCI_LAYER.into(),
            lease,
            ..Default::default()
        };
        let mut images = self.diff.create(task.namespace(), archive).await?;
        images.media_type = CHECKPOINT.into();
        fault::point("tasks.checkpoint.stored");
        Ok(images)
    }

    /// Ends what goes on after its caller has gone away.
    pub async fn shutdown(&self) {
        self.work.close();
        if tokio::time::timeout(self.config.state_timeout, self.work.wait()).await.is_err() {
            // A shim needs nobody to go on, nor to be told what came of it.
            tracing::warn!(left = self.work.len(), "unfinished checkpoints are left behind");
        }
    }

    /// Images in the content store, as a task is made from them.
    ///
    /// # Errors
    /// `InvalidArgument` when it is something else.
    pub(super) fn images(&self, namespace: &Id, checkpoint: Descriptor) -> Result<Arc<dyn Images>> {
        if checkpoint.media_type != CHECKPOINT {
            let text = format!("{:?} is no type of checkpoints", checkpoint.media_type);
            return Err(Error::invalid(text));
        }
        let archive = Descriptor { media_type: OCI_LAYER.into(), ..checkpoint };
        Ok(Arc::new(Archive { diff: self.diff.clone(), namespace: namespace.clone(), archive }))
    }
}

/// Images in the content store.
struct Archive {
    diff: Diff,
    namespace: Id,
    archive: Descriptor,
}

impl fmt::Debug for Archive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.archive.digest, self.namespace)
    }
}

#[async_trait]
impl Images for Archive {
    async fn unpack(&self, folder: &Path) -> Result<()> {
        let mounts = vec![bind(folder)?];
        self.diff.apply(&self.namespace, &self.archive, mounts, ApplyOptions::default()).await?;
        let folder = folder.to_owned();
        let looked = tokio::task::spawn_blocking(move || expect_images(&folder)).await;
        looked.unwrap_or_else(|e| Err(Error::caused(ErrorKind::Internal, "look at images", e)))
    }
}

/// CRIU opens what it finds, and what is no file may have it wait for ever, or be
/// one of the host's. It makes files only, and a link to the images of an earlier
/// checkpoint (`CR_PARENT_LINK`, criu/include/image.h).
///
/// # Errors
/// `InvalidArgument` for anything else; those of the disk.
fn expect_images(folder: &Path) -> Result<()> {
    let mut folders = vec![folder.to_owned()];
    while let Some(below) = folders.pop() {
        for entry in fs::read_dir(&below).context("list", below.display())? {
            let entry = entry.context("list", below.display())?;
            let kind = entry.file_type().context("look at", entry.path().display())?;
            let is_parent = below == folder && entry.file_name() == "parent";
            if kind.is_dir() {
                folders.push(entry.path());
            } else if !(kind.is_file() || kind.is_symlink() && is_parent) {
                let path = entry.path();
                let name = path.strip_prefix(folder).unwrap_or(&path).display();
                let text = format!("{name} in a checkpoint is neither file nor folder");
                return Err(Error::invalid(text));
            }
        }
    }
    Ok(())
}

/// When it cannot be told, it is.
async fn is_all_that_is_left(task: &Task, folder: &CheckpointFolder) -> bool {
    !task.runs().await.unwrap_or(false) && !folder.is_empty().await.unwrap_or(false)
}

async fn discard(target: &Target, folder: CheckpointFolder) {
    if let Err(error) = folder.remove().await {
        tracing::warn!(%target, error = %error.report(), "images of a checkpoint stay");
    }
}

/// A folder as what layers are made of and unpacked to.
fn bind(folder: &Path) -> Result<Mount> {
    let source = folder
        .to_str()
        .ok_or_else(|| Error::invalid(format!("path {} is not UTF-8", folder.display())))?;
    Ok(Mount {
        kind: "bind".into(),
        source: source.into(),
        options: vec!["rbind".into()],
        ..Default::default()
    })
}

/// Runc's options of a checkpoint.
fn decode(options: &Any) -> Result<CheckpointOptions> {
    if options.type_url.is_empty() {
        return Ok(CheckpointOptions::default());
    }
    let name = CheckpointOptions::full_name();
    if options.type_url.rsplit('/').next() != Some(name.as_str()) {
        return Err(Error::invalid(format!("expected {name}, got {:?}", options.type_url)));
    }
    CheckpointOptions::decode(options.value.as_slice())
        .map_err(|e| Error::caused(ErrorKind::InvalidArgument, format!("decode {name}"), e))
}
