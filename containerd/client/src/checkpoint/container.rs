//! Checkpoints of containers.

use containerd_api::to_any;
use containerd_images::{
    Descriptor,
    media_type::{CHECKPOINT_CONFIG, CHECKPOINT_OPTIONS, CHECKPOINT_RUNTIME_OPTIONS},
};

use super::{IMAGE, RUNTIME, SNAPSHOTTER, index::NewIndex, is_free, keep, task_of, while_paused};
use crate::{CheckpointOptions, Container, Image, Namespace, Result, image::descriptor_from_wire};

/// What of a container goes into a checkpoint. Its runtime and its configuration
/// always do.
#[derive(Clone, Debug, Default)]
pub struct ContainerCheckpoint {
    image: bool,
    files: bool,
    task: bool,
    options: Option<CheckpointOptions>,
}

impl ContainerCheckpoint {
    /// Names of image, runtime and snapshotter, the options of the runtime, and the
    /// configuration.
    pub fn new() -> Self {
        Self::default()
    }

    /// The image that the container was made from, so that the checkpoint can be
    /// taken to where that is not.
    #[must_use]
    pub fn image(mut self) -> Self {
        self.image = true;
        self
    }

    /// What it has written to its snapshot.
    #[must_use]
    pub fn files(mut self) -> Self {
        self.files = true;
        self
    }

    /// Its task.
    #[must_use]
    pub fn task(mut self) -> Self {
        self.task = true;
        self
    }

    /// Ends the task when it is written.
    #[must_use]
    pub fn exit(mut self) -> Self {
        self.options.get_or_insert_with(default_options).exit = true;
        self
    }

    /// How the task is written, in place of the default: all with its file
    /// locks.
    #[must_use]
    pub fn options(mut self, options: CheckpointOptions) -> Self {
        self.options = Some(options);
        self
    }

    fn task_options(&self) -> CheckpointOptions {
        self.options.clone().unwrap_or_else(default_options)
    }
}

fn default_options() -> CheckpointOptions {
    CheckpointOptions { file_locks: true, ..CheckpointOptions::default() }
}

impl Container {
    /// Checkpoints the container as an image of the name `reference`. Its task,
    /// if there is one, is paused meanwhile.
    ///
    /// # Errors
    /// `AlreadyExists` for the name of the image; `NotFound` when there is no
    /// task or image that is asked for; `FailedPrecondition` when CRIU is missing
    /// or too old, and `Unimplemented` when the runtime cannot do it; those of
    /// the runtime. The task then goes on, unless it was to end, and was on disk
    /// already: the error says where.
    pub async fn checkpoint(&self, reference: &str, parts: &ContainerCheckpoint) -> Result<Image> {
        self.namespace()
            .under_lease(async |namespace| {
                let container = namespace.container(self.id()).await?;
                let mut index = NewIndex::new();
                // What can fail does so before the task is stopped, or even ended.
                is_free(namespace, reference).await?;
                container.describe(namespace, parts, &mut index).await?;
                let mut written = Vec::new();
                let made = async {
                    let mut write = async || {
                        container.write_parts(namespace, parts, &mut index, &mut written).await
                    };
                    match task_of(namespace, self.id()).await? {
                        Some(task) => while_paused(&task, write).await?,
                        None => write().await?,
                    }
                    let target = index.write(namespace).await?;
                    namespace.images().create(Image::new(reference, target)).await
                };
                match made.await {
                    Err(e) if parts.task_options().exit && !written.is_empty() => {
                        Err(keep(namespace, &written, e).await)
                    }
                    made => made,
                }
            })
            .await
    }

    /// Writes all that can be told without stopping the task.
    async fn describe(
        &self,
        namespace: &Namespace,
        parts: &ContainerCheckpoint,
        index: &mut NewIndex,
    ) -> Result<()> {
        let record = self.record();
        for (key, value) in [
            (IMAGE, &record.image),
            (RUNTIME, &record.runtime.name),
            (SNAPSHOTTER, &record.snapshotter),
        ] {
            if !value.is_empty() {
                index.annotate(key, value);
            }
        }
        if let Some(options) = record.runtime.options.as_ref().filter(|any| !any.value.is_empty()) {
            index.add_message(namespace, CHECKPOINT_RUNTIME_OPTIONS, options).await?;
        }
        if parts.image {
            index.add_image(namespace.images().get(&record.image).await?.target);
        }
        if parts.task {
            let options = to_any(&parts.task_options());
            index.add_message(namespace, CHECKPOINT_OPTIONS, &options).await?;
        } else if let Some(spec) = &record.spec {
            // That of a task comes with it.
            index.add_message(namespace, CHECKPOINT_CONFIG, spec).await?;
        }
        match parts.files {
            true => NewIndex::finds_files(namespace, self).await,
            false => Ok(()),
        }
    }

    async fn write_parts(
        &self,
        namespace: &Namespace,
        parts: &ContainerCheckpoint,
        index: &mut NewIndex,
        written: &mut Vec<Descriptor>,
    ) -> Result<()> {
        // First the task: what it writes to files comes before it is written.
        if parts.task {
            let task = namespace.task(self.id()).await?;
            for part in task.write_checkpoint(&parts.task_options()).await? {
                written.push(descriptor_from_wire(part)?);
            }
            written.iter().cloned().for_each(|part| index.add(part));
        }
        match parts.files {
            true => index.add_files(namespace, self).await,
            false => Ok(()),
        }
    }
}
