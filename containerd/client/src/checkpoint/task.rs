//! Checkpoints of tasks.

use std::time::SystemTime;

use prost_types::Timestamp;

use super::{LABEL, TASK_IMAGE, index::NewIndex, is_free, keep, while_paused};
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
    /// for the name of the image; those of the runtime. The task then goes on,
    /// unless it was to end, and was on disk already: the error says where.
    pub async fn checkpoint(&self, checkpoint: &TaskCheckpoint) -> Result<Option<Image>> {
        let namespace = self.init().namespace();
        let container = namespace.container(self.id()).await?;
        let record = container.record();
        namespace
            .under_lease(async |namespace| {
                let task = namespace.task(self.id()).await?;
                let options = &checkpoint.options;
                if !options.image_path.is_empty() {
                    let written = async || task.write_checkpoint(options).await.map(drop);
                    return while_paused(&task, written).await.map(|()| None);
                }
                // What can fail does so before the task is stopped, or even ended.
                let name = checkpoint.name.clone();
                let name = name.unwrap_or_else(|| default_name(self.id(), SystemTime::now()));
                is_free(namespace, &name).await?;
                let mut image = None;
                if !record.image.is_empty() {
                    image = Some(namespace.images().get(&record.image).await?.target);
                }
                let has_files = !record.snapshot_key.is_empty();
                if has_files {
                    NewIndex::finds_files(namespace, &container).await?;
                }

                let mut written = Vec::new();
                let made = async {
                    let mut index = NewIndex::new();
                    let written = while_paused(&task, async || {
                        for part in task.write_checkpoint(options).await? {
                            written.push(descriptor_from_wire(part)?);
                        }
                        written.iter().cloned().for_each(|part| index.add(part));
                        if let Some(image) = &image {
                            index.add_image(image.clone());
                            index.annotate(TASK_IMAGE, &record.image);
                        }
                        match has_files {
                            true => index.add_files(namespace, &container).await,
                            false => Ok(()),
                        }
                    });
                    written.await?;
                    let target = index.write(namespace).await?;
                    let labels = [(LABEL.to_owned(), "true".to_owned())].into();
                    namespace.images().create(Image { labels, ..Image::new(&name, target) }).await
                };
                match made.await {
                    Err(e) if options.exit && !written.is_empty() => {
                        Err(keep(namespace, &written, e).await)
                    }
                    made => made.map(Some),
                }
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
