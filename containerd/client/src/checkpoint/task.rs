//! Checkpoints of tasks.

use std::time::SystemTime;

use prost_types::Timestamp;

use super::{LABEL, TASK_IMAGE, index::NewIndex, while_paused};
use crate::{CheckpointOptions, Image, Result, Task, image::descriptor_from_wire};

/// How to checkpoint a task.
#[derive(Clone, Debug, Default)]
pub struct TaskCheckpoint {
    name: Option<String>,
    options: CheckpointOptions,
}

impl TaskCheckpoint {
    /// An image with a name made of the container's and the time; the task goes
    /// on.
    pub fn new() -> Self {
        Self::default()
    }

    /// The name of the image.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Ends the task when it is written.
    #[must_use]
    pub fn exit(mut self) -> Self {
        self.options.exit = true;
        self
    }

    /// Writes to a folder, and makes no image.
    #[must_use]
    pub fn image_path(mut self, path: impl Into<String>) -> Self {
        self.options.image_path = path.into();
        self
    }

    /// The folder for CRIU's own files and logs.
    #[must_use]
    pub fn work_path(mut self, path: impl Into<String>) -> Self {
        self.options.work_path = path.into();
        self
    }

    /// All options of the runc shim, in place of those that were given before.
    #[must_use]
    pub fn options(mut self, options: CheckpointOptions) -> Self {
        self.options = options;
        self
    }
}

impl Task {
    /// Checkpoints the task: what is in its memory, its configuration, and what
    /// it has written to its snapshot. It is paused meanwhile. Answers the
    /// image; none if it was written to a folder.
    ///
    /// # Errors
    /// `FailedPrecondition` when the task does not run, or CRIU is missing or
    /// too old; `Unimplemented` when its runtime cannot do it; `AlreadyExists`
    /// for the name of the image; those of the runtime. The task then goes on.
    pub async fn checkpoint(&self, checkpoint: &TaskCheckpoint) -> Result<Option<Image>> {
        let namespace = self.init().namespace();
        let container = namespace.container(self.id()).await?;
        let record = container.record();
        namespace
            .under_lease(async |namespace| {
                let task = namespace.task(self.id()).await?;
                let mut index = NewIndex::new();
                let written = while_paused(&task, async || {
                    let parts = task.write_checkpoint(&checkpoint.options).await?;
                    if !checkpoint.options.image_path.is_empty() {
                        return Ok(false);
                    }
                    for part in parts {
                        index.add(descriptor_from_wire(part)?);
                    }
                    if !record.image.is_empty() {
                        index.add_image(namespace.images().get(&record.image).await?.target);
                        index.annotate(TASK_IMAGE, &record.image);
                    }
                    if !record.snapshot_key.is_empty() {
                        index.add_files(namespace, &container).await?;
                    }
                    Ok(true)
                });
                if !written.await? {
                    return Ok(None);
                }
                let target = index.write(namespace).await?;
                let name = checkpoint.name.clone();
                let name = name.unwrap_or_else(|| default_name(self.id(), SystemTime::now()));
                let labels = [(LABEL.to_owned(), "true".to_owned())].into();
                let image = Image { labels, ..Image::new(name, target) };
                namespace.images().create(image).await.map(Some)
            })
            .await
    }
}

/// `containerd.io/checkpoint/<id>:<month>-<day>-<year>-<time>`, in UTC.
fn default_name(id: &str, time: SystemTime) -> String {
    let seconds = Timestamp { nanos: 0, ..Timestamp::from(time) };
    // Such as 2015-12-31T23:59:59Z.
    let text = seconds.to_string();
    let (date, time) = text.trim_end_matches('Z').split_once('T').unwrap_or((&text, ""));
    let mut date = date.splitn(3, '-');
    let [year, month, day] = [date.next(), date.next(), date.next()].map(Option::unwrap_or_default);
    format!("containerd.io/checkpoint/{id}:{month}-{day}-{year}-{time}")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn names_have_the_time_in_them() {
        let time = SystemTime::UNIX_EPOCH + Duration::new(1_451_606_399, 7);
        let name = default_name("web", time);
        assert_eq!(name, "containerd.io/checkpoint/web:12-31-2015-23:59:59");
    }
}
