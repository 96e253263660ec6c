//! Named checkpoints of a container.
//!
//! ```text
//! <bundle>/checkpoints/<name>/config.json   what was asked for, and when
//!                             …             the image, as who restores it needs it
//!                      .<name>.new          one that is being made, or was not answered for
//!                      .<name>.removed      one that is being removed
//! ```
//!
//! That is where the daemons of 2015 kept them. Those of 0.0.4 and before
//! wrote no `config.json`: the time is that of the folder then, and the rest
//! is not known.

mod disk;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use async_trait::async_trait;
use containerd_api::runc::v1::{CheckpointOptions, Options};
use prost::{Message, Name};
use runtime_v2::Status;
use shim_protocol::{Error, ErrorKind, Id, Result};
use tracing::warn;

pub(super) use self::disk::FolderId;
use self::disk::Place;
use super::{Legacy, blocking, container_id, locks::Held, record::Record};
use crate::{
    Any,
    tasks::{NewCheckpoint, Target, Tasks},
};

/// A checkpoint, or one to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Its name, unique within the container.
    pub name: String,
    /// When it was made.
    pub created: SystemTime,
    /// The container ends with it.
    pub exit: bool,
    /// With open TCP connections.
    pub tcp: bool,
    /// With Unix sockets that lead outside.
    pub unix_sockets: bool,
    /// With a terminal that somebody else has made.
    pub shell: bool,
}

/// Who makes images of running containers, and runs containers from them.
#[async_trait]
pub trait Checkpointer: Send + Sync {
    /// Writes the image of a task into `folder`, which is there. If it fails,
    /// the task goes on as before, unless it was to end: then it may have, and
    /// `folder` be all that is left of it. Other folders the caller removes.
    ///
    /// # Errors
    /// `Unimplemented` when it cannot be done with this runtime, and what the
    /// shim says; `Unavailable` when there is no answer, and it may still write.
    async fn checkpoint(
        &self,
        target: &Target,
        checkpoint: &Checkpoint,
        folder: &Path,
    ) -> Result<()>;

    /// Options of the runtime with which a task is made from the image in
    /// `folder`, in the place of a fresh start.
    ///
    /// # Errors
    /// `Unimplemented` when it cannot be done.
    async fn restore(&self, folder: &Path) -> Result<Any>;
}

/// The tasks themselves do, where their OCI runtime can.
pub struct TaskCheckpoints {
    tasks: Arc<Tasks>,
    binary: String,
}

/// A folder of checkpoints, and the locks that are for it.
struct HeldFolder {
    path: PathBuf,
    found: FolderId,
    _held: (Held<FolderId>, Held<Id>),
}

/// What to do where it cannot.
const REMEDY: &str = "checkpoints are made by runc or crun: name one as binary_name in the section \
                      io.containerd.legacy.v1.containers";

impl TaskCheckpoints {
    /// `binary` is the OCI runtime of the containers; empty: the shim's own.
    pub fn new(tasks: Arc<Tasks>, binary: String) -> Self {
        Self { tasks, binary }
    }
}

#[async_trait]
impl Checkpointer for TaskCheckpoints {
    async fn checkpoint(
        &self,
        target: &Target,
        checkpoint: &Checkpoint,
        folder: &Path,
    ) -> Result<()> {
        let options = CheckpointOptions {
            exit: checkpoint.exit,
            open_tcp: checkpoint.tcp,
            external_unix_sockets: checkpoint.unix_sockets,
            terminal: checkpoint.shell,
            image_path: path(folder)?,
            ..CheckpointOptions::default()
        };
        let options = Some(any(&options));
        let written = self.tasks.checkpoint(target, NewCheckpoint { options, lease: None }).await;
        written.map(drop).map_err(with_remedy)
    }

    async fn restore(&self, folder: &Path) -> Result<Any> {
        if self.binary.is_empty() {
            return Err(Error::unimplemented(REMEDY));
        }
        Ok(any(&Options {
            criu_image_path: path(folder)?,
            binary_name: self.binary.clone(),
            ..Options::default()
        }))
    }
}

fn with_remedy(error: Error) -> Error {
    match error.kind() {
        ErrorKind::Unimplemented => Error::caused(ErrorKind::Unimplemented, REMEDY, error),
        _ => error,
    }
}

fn any<M: Message + Name>(message: &M) -> Any {
    Any { type_url: M::full_name(), value: message.encode_to_vec() }
}

/// Protocol buffers hold text.
fn path(folder: &Path) -> Result<String> {
    let text = folder.to_str();
    let text = text.ok_or_else(|| Error::invalid(format!("{} is no text", folder.display())))?;
    Ok(text.to_owned())
}

/// Options of the runtime for containers whose OCI runtime is `binary`.
pub(super) fn runtime_options(binary: &str) -> Option<Any> {
    let options = Options { binary_name: binary.to_owned(), ..Options::default() };
    (!binary.is_empty()).then(|| any(&options))
}

impl Legacy {
    /// Makes a checkpoint; when it was made is for us to say.
    ///
    /// # Errors
    /// `NotFound` for the container; `AlreadyExists` for the checkpoint;
    /// `InvalidArgument` for its name; `Unavailable` when a shim may still make
    /// one of that name for an earlier daemon; and what [`Checkpointer::checkpoint`]
    /// says. Where a container ended with one that failed, the error says where
    /// what was written is kept.
    pub async fn create_checkpoint(
        self: &Arc<Self>,
        container: &str,
        mut checkpoint: Checkpoint,
    ) -> Result<()> {
        let id = container_id(container)?;
        let name = Id::new("checkpoint name", &checkpoint.name)?;
        let (this, held) = (self.clone(), self.hold_checkpoints(&id, disk::make).await?);
        self.own(async move {
            let tasks = this.tasks_of(&held).await?;
            let place = Arc::new(Place::new(held.path.clone(), &name));
            let target = this.target(&id, None);
            checkpoint.created = SystemTime::now();
            let wanted = checkpoint.clone();
            let begin = move |place: &Place| place.begin(&wanted, tasks);
            let folder = on_disk("make", place.clone(), begin).await?;
            if let Err(error) = this.checkpointer.checkpoint(&target, &checkpoint, &folder).await {
                // Without an answer a shim may still write to it. A change after
                // that sweeps it away.
                if error.kind() == ErrorKind::Unavailable {
                    return Err(error);
                }
                if checkpoint.exit && this.is_all_that_is_left(&target, &place).await {
                    let kept = folder.display();
                    let text = format!(
                        "the container may have ended, and is kept in {kept} until \
                                        checkpoints beside it are made or removed"
                    );
                    return Err(Error::caused(error.kind(), text, error));
                }
                on_disk("remove", place, Place::discard).await.unwrap_or_else(|error| {
                    warn!(error = %error.report(), "what a failed checkpoint left stays");
                });
                return Err(error);
            }
            // The container may have ended with it: the image is kept, whatever
            // happens now.
            on_disk("keep", place, Place::finish).await
        })
        .await
    }

    /// CRIU ends a task last, and its caller may fail after that. When it cannot
    /// be told, it is.
    async fn is_all_that_is_left(&self, target: &Target, place: &Arc<Place>) -> bool {
        let runs = self.tasks.get(target).await.is_ok_and(|process| {
            matches!(process.status, Status::Running | Status::Pausing | Status::Paused)
        });
        let is_begun = on_disk("look for", place.clone(), Place::is_begun);
        !runs && is_begun.await.unwrap_or(true)
    }

    /// The checkpoints of a container, by name.
    ///
    /// # Errors
    /// `NotFound` for the container; those of the disk.
    pub async fn list_checkpoints(&self, container: &str) -> Result<Vec<Checkpoint>> {
        let folder = self.checkpoints(&container_id(container)?).await?;
        blocking("list", folder.display(), {
            let folder = folder.clone();
            move || disk::list(&folder)
        })
        .await
    }

    /// Removes a checkpoint.
    ///
    /// # Errors
    /// `NotFound` for the container or the checkpoint; `InvalidArgument` for
    /// the name; those of the disk.
    pub async fn delete_checkpoint(self: &Arc<Self>, container: &str, name: &str) -> Result<()> {
        let id = container_id(container)?;
        let name = Id::new("checkpoint name", name)?;
        let (this, held) = (self.clone(), self.hold_checkpoints(&id, disk::find).await?);
        self.own(async move {
            let tasks = this.tasks_of(&held).await?;
            let place = Arc::new(Place::new(held.path.clone(), &name));
            on_disk("remove", place, move |place| place.remove(tasks)).await
        })
        .await
    }

    /// Options with which a container starts from a checkpoint in its bundle.
    pub(super) async fn restore_from(&self, bundle: &Path, name: &str) -> Result<Any> {
        let name = Id::new("checkpoint name", name)?;
        let folder = folder_of(bundle).join(name.as_str());
        let found = blocking("look for", folder.display(), {
            let folder = folder.clone();
            move || Ok(folder.is_dir())
        });
        if !found.await? {
            return Err(Error::not_found(format!("checkpoint {name:?} in bundle {bundle:?}")));
        }
        self.checkpointer.restore(&folder).await
    }

    /// The folder of a container's checkpoints, which nobody else changes now:
    /// containers may share a bundle.
    async fn hold_checkpoints(
        &self,
        id: &Id,
        find: fn(&Path) -> Result<FolderId>,
    ) -> Result<HeldFolder> {
        let path = self.checkpoints(id).await?;
        let found = blocking("find", path.display(), {
            let path = path.clone();
            move || find(&path)
        });
        let found = found.await?;
        let of_folder = self.unless_stopping(self.folders.hold(&found)).await?;
        let held = (of_folder, self.hold(id).await?);
        if self.checkpoints(id).await? != path {
            return Err(Error::unavailable(format!("container {id:?} was made anew meanwhile")));
        }
        Ok(HeldFolder { path, found, _held: held })
    }

    /// Whether a task of the bundle with this folder lives. One of which it
    /// cannot be told does.
    async fn tasks_of(&self, folder: &HeldFolder) -> Result<disk::Tasks> {
        let all = self.containers.list::<&str>(&self.config.namespace, &[]).await?;
        let bundles = all.iter().filter_map(Record::read_or_warn);
        let bundles: Vec<_> =
            bundles.filter_map(|record| Some((record.id, record.bundle?))).collect();
        let found = folder.found;
        let sharing = blocking("look for containers of", folder.path.display(), move || {
            let shares = |bundle: &Path| disk::find(&folder_of(bundle)).is_ok_and(|f| f == found);
            let sharing = bundles.into_iter().filter(|(_, bundle)| shares(bundle));
            Ok(sharing.map(|(id, _)| id).collect::<Vec<_>>())
        });
        for id in sharing.await? {
            match self.tasks.get(&self.target(&id, None)).await {
                Ok(process) if process.status == Status::Stopped => {}
                Err(e) if e.is_not_found() => {}
                _ => return Ok(disk::Tasks::Live),
            }
        }
        Ok(disk::Tasks::Ended)
    }

    /// Where the checkpoints of a container are.
    async fn checkpoints(&self, id: &Id) -> Result<PathBuf> {
        let record = self.record(id).await?;
        let bundle = record.bundle.ok_or_else(|| {
            Error::precondition(format!("container {id:?} has no bundle to keep checkpoints in"))
        })?;
        Ok(folder_of(&bundle))
    }
}

fn folder_of(bundle: &Path) -> PathBuf {
    bundle.join("checkpoints")
}

/// Works on a checkpoint's folder, where that may block.
async fn on_disk<T: Send + 'static>(
    doing: &'static str,
    place: Arc<Place>,
    work: impl FnOnce(&Place) -> Result<T> + Send + 'static,
) -> Result<T> {
    let folder = place.folder();
    blocking(doing, folder.display(), move || work(&place)).await
}
