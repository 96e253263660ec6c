//! Images of checkpoints in a task's work folder, and what the end of the task has
//! to wait for.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, MutexGuard, PoisonError},
};

use protobuf::well_known_types::empty::Empty;
use shim_protocol::{Context, Error, Result, proto::task_v2 as wire};
use tokio::time::timeout;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::{debug, warn};

use super::Task;
use crate::{
    Any, Status,
    bundle::{Bundle, LeftImages},
    convert,
    learn::ask,
    manager::blocking,
};

/// A folder in the task's work folder for the images of a checkpoint. As long as
/// this is there, so are both folders, and the shim. The folder stays when this
/// is dropped: it is removed with the task, or by the next daemon if the task
/// runs then.
pub struct CheckpointFolder {
    path: PathBuf,
    task: Arc<Task>,
    _held: TaskTrackerToken,
}

impl CheckpointFolder {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Is nothing in it?
    ///
    /// # Errors
    /// Those of the disk.
    pub async fn is_empty(&self) -> Result<bool> {
        let path = self.path.clone();
        blocking(move || {
            let mut entries = fs::read_dir(&path).context("list", path.display())?;
            Ok(entries.next().is_none())
        })
        .await
    }

    /// Removes it. Not to be done while a shim may still write to it.
    ///
    /// # Errors
    /// Those of the disk.
    pub async fn remove(self) -> Result<()> {
        let Self { path, _held, .. } = self;
        blocking(move || Bundle::remove_checkpoint_folder(&path)).await
    }

    /// Leaves it, as all that there is of the task's processes: whoever deletes the
    /// task is told so, and only who does it again then removes it.
    pub fn keep(self) {
        self.task.kept_mut().folders.push(self.path);
    }
}

/// Images that are all that is left of a task's processes. They go with it, but
/// whoever deletes it may not know of them.
#[derive(Default)]
pub(super) struct Kept {
    folders: Vec<PathBuf>,
    /// How many of them a delete was refused for.
    told: usize,
}

impl Task {
    /// Writes the images of a checkpoint to `path`, however long that takes. The
    /// shim stays until it has answered.
    ///
    /// # Errors
    /// What the shim says; `Unavailable` when there is no answer: it may still
    /// write then.
    pub async fn checkpoint(&self, path: &Path, options: Option<Any>) -> Result<()> {
        let _held = self.hold()?;
        let connection = self.connection()?;
        let request = wire::CheckpointTaskRequest {
            id: self.id().to_string(),
            path: convert::utf8(path)?,
            options: options.map(convert::any_to_wire).into(),
            ..Default::default()
        };
        // What has become of a lost shim is not waited for: whoever finds that
        // out waits for this.
        connection.task::<_, Empty>("Checkpoint", &request, None).await.map(drop)
    }

    /// Makes a folder for the images of a checkpoint.
    ///
    /// # Errors
    /// `NotFound`; those of the disk.
    pub async fn checkpoint_folder(self: &Arc<Self>) -> Result<CheckpointFolder> {
        let held = self.hold()?;
        let bundle = self.bundle_of().clone();
        let path = blocking(move || bundle.make_checkpoint_folder()).await?;
        Ok(CheckpointFolder { path, task: self.clone(), _held: held })
    }

    /// Whether its init runs, or is frozen. May be asked by who holds a
    /// [`CheckpointFolder`].
    ///
    /// # Errors
    /// As [`Task::state`].
    pub async fn runs(&self) -> Result<bool> {
        // Nor is a lost shim waited for here.
        let connection = self.connection()?;
        let limit = self.shared.config.timeouts.state;
        let init = ask(&connection, self.bundle_of(), None, limit).await?;
        Ok(matches!(init.status, Status::Running | Status::Pausing | Status::Paused))
    }

    /// Removes, in the background, what an earlier daemon has left of checkpoints
    /// and restores; but not the checkpoint of a task that has ended meanwhile.
    pub(crate) fn forget(self: &Arc<Self>, left: LeftImages) {
        if left.is_empty() {
            return;
        }
        let Ok(held) = self.hold() else { return };
        let task = self.clone();
        self.shared.work.spawn(async move {
            let _held = held;
            if let Err(error) = task.forget_now(left).await {
                warn!(id = %task.id(), error = %error.report(), "images of checkpoints stay");
            }
        });
    }

    async fn forget_now(&self, left: LeftImages) -> Result<()> {
        let written = blocking(move || left.remove_unneeded()).await?;
        // The locks are ours, so no checkpoint that may end it is under way.
        if !written.is_empty() && self.runs().await? {
            return blocking(move || written.remove()).await;
        }
        Ok(())
    }

    /// Its init is still to be made, from the images of a checkpoint: shims make all
    /// others at once (containerd's runc shim, `process/init.go`).
    pub fn is_to_be_restored(&self) -> bool {
        self.pid() == 0
    }

    /// It was started from images: if they are in a folder of its own, they are of
    /// no use any more.
    pub(super) fn was_restored(&self) {
        let Ok(held) = self.hold() else { return };
        let bundle = self.bundle_of().clone();
        self.shared.work.spawn(async move {
            let _held = held;
            let id = bundle.id().clone();
            if let Err(error) = blocking(move || bundle.remove_restore_folder()).await {
                warn!(%id, error = %error.report(), "images of a checkpoint stay");
            }
        });
    }

    /// Keeps shim and work folder.
    fn hold(&self) -> Result<TaskTrackerToken> {
        let held = self.in_use.token();
        // Whoever waits has said so before.
        self.connection()?;
        Ok(held)
    }

    /// Does somebody need the work folder, or the shim?
    pub(crate) fn is_used(&self) -> bool {
        !self.in_use.is_empty()
    }

    /// Waits until nobody does, but for others to come. Nobody is kept from steering
    /// the task meanwhile.
    ///
    /// # Errors
    /// `FailedPrecondition` when it runs, or that takes longer than an answer may,
    /// or something was kept that nobody was told of: nothing was done then.
    pub(super) async fn until_unused(&self) -> Result<()> {
        let told = self.kept_mut().told;
        if self.is_used() {
            if self.runs().await.unwrap_or(false) {
                return Err(Error::precondition(format!("task {:?} runs", self.id())));
            }
            debug!(id = %self.id(), "its end waits for a checkpoint");
            // As a tracker has it, this is only leave to wait.
            self.in_use.close();
            timeout(self.limit(), self.in_use.wait()).await.map_err(|_| {
                let id = self.id();
                Error::precondition(format!("a checkpoint of task {id:?} is still being written"))
            })?;
        }
        // With a dead shim all of it goes.
        if self.connection().is_err() {
            return Ok(());
        }
        let mut kept = self.kept_mut();
        kept.told = kept.folders.len();
        match kept.folders.get(told) {
            Some(folder) => Err(Error::precondition(format!(
                "what a checkpoint has left of task {:?} is kept in {} until the task is deleted \
                 once more",
                self.id(),
                folder.display()
            ))),
            None => Ok(()),
        }
    }

    fn kept_mut(&self) -> MutexGuard<'_, Kept> {
        // No change of it can panic halfway through.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until nobody needs the work folder, or the shim. To be called when the
    /// task is on its way out, so that there will be no others.
    pub(crate) async fn end_of_use(&self) {
        if self.is_used() {
            debug!(id = %self.id(), "its end waits for a checkpoint");
        }
        self.in_use.close();
        self.in_use.wait().await;
    }
}
