//! Named checkpoints of a container.
//!
//! ```text
//! <bundle>/checkpoints/<name>/config.json   what was asked for, and when
//!                             …             the image, as who restores it needs it
//! ```
//!
//! That is where the daemons of 2015 kept them. Those of 0.0.4 and before
//! wrote no `config.json`: the time is that of the folder then, and the rest
//! is not known.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use containerd_api::runc::v1::{CheckpointOptions, Options};
use prost::{Message, Name};
use prost_types::Timestamp;
use runtime_v2::Undo;
use serde::{Deserialize, Serialize};
use shim_protocol::{Context, Error, ErrorKind, Id, Result};

use super::{Legacy, blocking, container_id};
use crate::{
    Any,
    tasks::{NewCheckpoint, Target, Tasks},
};

/// How long it may take to remove what a checkpoint that failed has left.
const CLEANUP: Duration = Duration::from_secs(30);

/// The biggest `config.json` of a checkpoint, in bytes.
const MAX_CONFIG: u64 = 1 << 20;

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
    /// the task goes on as before; the folder is removed by the caller.
    ///
    /// # Errors
    /// `Unimplemented` when it cannot be done with this runtime, and what the
    /// shim says.
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

/// `config.json`, with the names of the daemons that wrote it first
/// (containerd 0.2, `runtime/runtime.go`).
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    created: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    tcp: bool,
    #[serde(default)]
    unix_sockets: bool,
    #[serde(default)]
    shell: bool,
    #[serde(default)]
    exit: bool,
}

impl Legacy {
    /// Makes a checkpoint; when it was made is for us to say.
    ///
    /// # Errors
    /// `NotFound` for the container; `AlreadyExists` for the checkpoint;
    /// `InvalidArgument` for its name; and what [`Checkpointer::checkpoint`] says.
    pub async fn create_checkpoint(
        self: &Arc<Self>,
        container: &str,
        mut checkpoint: Checkpoint,
    ) -> Result<()> {
        let id = container_id(container)?;
        let name = Id::new("checkpoint name", &checkpoint.name)?;
        let this = self.clone();
        self.own(async move {
            let _held = this.locks.hold(&id).await;
            let folder = this.checkpoints(&id).await?.join(name.as_str());
            let mut undo = Undo::new(&this.work, CLEANUP);
            let path = folder.clone();
            blocking("make", folder.display(), move || make(&path)).await?;
            let path = folder.clone();
            undo.push("checkpoint folder", async move {
                blocking("remove", path.display(), {
                    let path = path.clone();
                    move || remove(&path)
                })
                .await
                .or_else(|e| if e.is_not_found() { Ok(()) } else { Err(e) })
            });
            let target = this.target(&id, None);
            checkpoint.created = SystemTime::now();
            let made = async {
                this.checkpointer.checkpoint(&target, &checkpoint, &folder).await?;
                let path = folder.clone();
                blocking("write", folder.display(), move || write(&path, &checkpoint)).await
            };
            let made = made.await;
            undo.settle(made).await
        })
        .await
    }

    /// The checkpoints of a container, by name.
    ///
    /// # Errors
    /// `NotFound` for the container; those of the disk.
    pub async fn list_checkpoints(&self, container: &str) -> Result<Vec<Checkpoint>> {
        let folder = self.checkpoints(&container_id(container)?).await?;
        blocking("list", folder.display(), {
            let folder = folder.clone();
            move || list(&folder)
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
        let this = self.clone();
        self.own(async move {
            let _held = this.locks.hold(&id).await;
            let folder = this.checkpoints(&id).await?.join(name.as_str());
            blocking("remove", folder.display(), {
                let folder = folder.clone();
                move || remove(&folder)
            })
            .await
        })
        .await
    }

    /// Options with which a container starts from a checkpoint in its bundle.
    pub(super) async fn restore_from(&self, bundle: &Path, name: &str) -> Result<Any> {
        let name = Id::new("checkpoint name", name)?;
        let folder = folder_of(bundle).join(name.as_str());
        let found = tokio::task::spawn_blocking({
            let folder = folder.clone();
            move || folder.is_dir()
        });
        if !found.await.unwrap_or_default() {
            return Err(Error::not_found(format!("checkpoint {name:?} in bundle {bundle:?}")));
        }
        self.checkpointer.restore(&folder).await
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

fn make(folder: &Path) -> Result<()> {
    if let Some(parent) = folder.parent() {
        fs::create_dir_all(parent).context("make folder", parent.display())?;
    }
    match fs::create_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Err(Error::caused(
            ErrorKind::AlreadyExists,
            format!("checkpoint {}", folder.display()),
            e,
        )),
        made => made.context("make folder", folder.display()),
    }
}

fn write(folder: &Path, checkpoint: &Checkpoint) -> Result<()> {
    let config = Config {
        created: Timestamp::from(checkpoint.created).to_string(),
        name: checkpoint.name.clone(),
        tcp: checkpoint.tcp,
        unix_sockets: checkpoint.unix_sockets,
        shell: checkpoint.shell,
        exit: checkpoint.exit,
    };
    let text = serde_json::to_vec(&config)
        .map_err(|e| Error::caused(ErrorKind::Internal, "encode a checkpoint", e))?;
    let path = folder.join("config.json");
    fs::write(&path, text).context("write", path.display())
}

/// What has no name that could be asked for is no checkpoint, nor is a file.
fn list(folder: &Path) -> Result<Vec<Checkpoint>> {
    let entries = match fs::read_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.context("read folder", folder.display())?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.context("read folder", folder.display())?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let Ok(metadata) = entry.metadata() else { continue };
        if !metadata.is_dir() || Id::new("checkpoint name", &name).is_err() {
            continue;
        }
        let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        found.push(read(&entry.path(), name, modified)?);
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

fn read(folder: &Path, name: String, modified: SystemTime) -> Result<Checkpoint> {
    let path = folder.join("config.json");
    let mut checkpoint = Checkpoint {
        name,
        created: modified,
        exit: false,
        tcp: false,
        unix_sockets: false,
        shell: false,
    };
    let is_small_file = |m: fs::Metadata| m.is_file() && m.len() <= MAX_CONFIG;
    if !fs::symlink_metadata(&path).is_ok_and(is_small_file) {
        return Ok(checkpoint);
    }
    let bytes = fs::read(&path).context("read", path.display())?;
    let config: Config = serde_json::from_slice(&bytes)
        .map_err(|e| Error::caused(ErrorKind::DataLoss, format!("checkpoint {path:?}"), e))?;
    let created = config.created.parse::<Timestamp>().ok();
    if let Some(created) = created.and_then(|created| SystemTime::try_from(created).ok()) {
        checkpoint.created = created;
    }
    checkpoint.exit = config.exit;
    checkpoint.tcp = config.tcp;
    checkpoint.unix_sockets = config.unix_sockets;
    checkpoint.shell = config.shell;
    Ok(checkpoint)
}

/// Out of sight first: one that is half removed is none.
fn remove(folder: &Path) -> Result<()> {
    let is_folder = fs::symlink_metadata(folder).is_ok_and(|metadata| metadata.is_dir());
    let (Some(name), true) = (folder.file_name(), is_folder) else {
        return Err(Error::not_found(format!("checkpoint {}", folder.display())));
    };
    let hidden = folder.with_file_name(format!(".{}.removed", name.to_string_lossy()));
    // Of one that was not removed to its end.
    match fs::remove_dir_all(&hidden) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        removed => removed.context("remove", hidden.display())?,
    }
    fs::rename(folder, &hidden).context("hide", folder.display())?;
    fs::remove_dir_all(&hidden).context("remove", hidden.display())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn checkpoint(name: &str) -> Checkpoint {
        Checkpoint {
            name: name.into(),
            created: SystemTime::UNIX_EPOCH + Duration::from_nanos(1_449_270_554_915_868_934),
            exit: true,
            tcp: false,
            unix_sockets: true,
            shell: false,
        }
    }

    #[test]
    fn made_listed_and_removed() {
        let bundle = tempfile::tempdir().unwrap();
        let folder = folder_of(bundle.path());
        assert_eq!(list(&folder).unwrap(), []);
        for name in ["b", "a"] {
            make(&folder.join(name)).unwrap();
            write(&folder.join(name), &checkpoint(name)).unwrap();
        }
        assert_eq!(make(&folder.join("a")).unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert_eq!(list(&folder).unwrap(), [checkpoint("a"), checkpoint("b")]);
        remove(&folder.join("a")).unwrap();
        assert!(remove(&folder.join("a")).unwrap_err().is_not_found());
        assert_eq!(list(&folder).unwrap(), [checkpoint("b")]);
    }

    #[test]
    fn one_without_a_configuration_has_the_time_of_its_folder() {
        let bundle = tempfile::tempdir().unwrap();
        let folder = folder_of(bundle.path());
        make(&folder.join("old")).unwrap();
        let modified = fs::metadata(folder.join("old")).unwrap().modified().unwrap();
        let listed = list(&folder).unwrap();
        assert_eq!((listed[0].name.as_str(), listed[0].created), ("old", modified));
        assert!(!listed[0].exit && !listed[0].unix_sockets);
    }

    #[test]
    fn go_times_with_an_offset_are_read() {
        let bundle = tempfile::tempdir().unwrap();
        let folder = folder_of(bundle.path());
        make(&folder.join("a")).unwrap();
        let text = r#"{"created":"2015-12-04T15:09:14.915868934-08:00","name":"a","tcp":true}"#;
        fs::write(folder.join("a/config.json"), text).unwrap();
        let listed = list(&folder).unwrap();
        assert_eq!(listed[0].created, checkpoint("a").created);
        assert!(listed[0].tcp);
    }

    #[test]
    fn links_lead_nowhere() {
        let bundle = tempfile::tempdir().unwrap();
        let precious = bundle.path().join("precious");
        fs::create_dir(&precious).unwrap();
        fs::write(precious.join("file"), "").unwrap();
        let folder = folder_of(bundle.path());
        make(&folder.join("a")).unwrap();
        symlink(&precious, folder.join("link")).unwrap();
        symlink(&precious, folder.join("a/link")).unwrap();
        assert!(remove(&folder.join("link")).unwrap_err().is_not_found());
        assert_eq!(list(&folder).unwrap().len(), 1);
        remove(&folder.join("a")).unwrap();
        assert!(precious.join("file").exists());
    }
}
