//! Folders of checkpoints. One that is listed is whole: it is made and removed
//! under another name, and what a daemon that died has left there is swept
//! away by a change after that, unless a shim may still write to it. Whoever
//! changes something has the lock of the folder that they are in.

#[cfg(test)]
mod tests;

use std::{
    fs::{self, DirBuilder, File},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
    time::SystemTime,
};

use prost_types::Timestamp;
use rustix::fs::syncfs;
use serde::{Deserialize, Serialize};
use shim_protocol::{Context, Error, ErrorKind, Id, Result, images};
use tracing::warn;

use super::Checkpoint;

/// The biggest `config.json` of a checkpoint, in bytes.
const MAX_CONFIG: u64 = 1 << 20;

/// Name of the file that says what was asked for.
const CONFIG: &str = "config.json";

/// What the names of folders end with that are not whole.
const NEW: &str = ".new";
const REMOVED: &str = ".removed";

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

/// Device and inode of a folder: the same by whatever path it is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in super::super) struct FolderId(u64, u64);

/// Whether a task may write to the folder for a daemon that is no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tasks {
    /// One of the bundle lives, as far as can be told.
    Live,
    /// None does.
    Ended,
}

/// Makes the folder of all checkpoints, if it is not there.
///
/// # Errors
/// Those of the disk.
pub(super) fn make(all: &Path) -> Result<FolderId> {
    fs::create_dir_all(all).context("make folder", all.display())?;
    find(all)
}

/// The folder of all checkpoints.
///
/// # Errors
/// `NotFound`; those of the disk.
pub(super) fn find(all: &Path) -> Result<FolderId> {
    match fs::metadata(all) {
        Ok(found) => Ok(FolderId(found.dev(), found.ino())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            Err(Error::not_found(format!("folder {} of checkpoints", all.display())))
        }
        Err(e) => Err(e).context("look for", all.display()),
    }
}

/// Where one checkpoint is.
pub(super) struct Place {
    all: PathBuf,
    name: Id,
}

impl Place {
    /// The checkpoint called `name` among `all` of a container.
    pub(super) fn new(all: PathBuf, name: &Id) -> Self {
        Self { all, name: name.clone() }
    }

    /// Its folder, once it is whole.
    pub(super) fn folder(&self) -> PathBuf {
        self.all.join(self.name.as_str())
    }

    fn hidden(&self, end: &str) -> PathBuf {
        self.all.join(format!(".{}{end}", self.name))
    }

    /// Makes the folder for an image, and says in it what was asked for. That of
    /// all checkpoints is there.
    ///
    /// # Errors
    /// `AlreadyExists`; `Unavailable` when a shim may still make one of that
    /// name; those of the disk.
    pub(super) fn begin(&self, checkpoint: &Checkpoint, tasks: Tasks) -> Result<PathBuf> {
        sweep(&self.all, tasks)?;
        let (folder, new) = (self.folder(), self.hidden(NEW));
        if fs::symlink_metadata(&folder).is_ok() {
            return Err(Error::already_exists(format!("checkpoint {}", folder.display())));
        }
        if fs::symlink_metadata(&new).is_ok() {
            let new = new.display();
            let text = format!("{new} is still being made, as far as can be told");
            return Err(Error::unavailable(text));
        }
        // What is in a process's memory is nobody else's concern.
        DirBuilder::new().mode(0o700).create(&new).context("make folder", new.display())?;
        let written = write(&new, checkpoint).and_then(|()| sync(&new));
        if written.is_err() {
            // The first error says more, and the next change tries again.
            let _ = self.discard();
        }
        written.map(|()| new)
    }

    /// Whether somebody has written to what was begun.
    ///
    /// # Errors
    /// Those of the disk.
    pub(super) fn is_begun(&self) -> Result<bool> {
        let new = self.hidden(NEW);
        for entry in fs::read_dir(&new).context("read folder", new.display())? {
            if entry.context("read folder", new.display())?.file_name() != CONFIG {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The image is whole, and is to be seen.
    ///
    /// # Errors
    /// Those of the disk, with the name under which the image is then.
    pub(super) fn finish(&self) -> Result<()> {
        let new = self.hidden(NEW);
        // Nobody else has synced what the shim wrote.
        File::open(&new)
            .and_then(|folder| Ok(syncfs(folder)?))
            .context("the image is made, but may not last, and is still", new.display())?;
        fs::rename(&new, self.folder())
            .context("the image is made, but is still", new.display())?;
        sync_or_warn(&self.all);
        Ok(())
    }

    /// Removes what was begun, if it was. Not to be done while a shim may still
    /// write to it.
    ///
    /// # Errors
    /// Those of the disk.
    pub(super) fn discard(&self) -> Result<()> {
        remove_hidden(&self.hidden(NEW))
    }

    /// Removes it. Out of sight first: one that is half removed is none.
    ///
    /// # Errors
    /// `NotFound`; those of the disk.
    pub(super) fn remove(&self, tasks: Tasks) -> Result<()> {
        let (folder, removed) = (self.folder(), self.hidden(REMOVED));
        if !fs::symlink_metadata(&folder).is_ok_and(|metadata| metadata.is_dir()) {
            return Err(Error::not_found(format!("checkpoint {}", folder.display())));
        }
        sweep(&self.all, tasks)?;
        fs::rename(&folder, &removed).context("hide", folder.display())?;
        sync_or_warn(&self.all);
        remove_hidden(&removed)
    }
}

/// Removes what was not made, or not removed, to its end. What our shim writes to
/// is locked by it; others do not lock, but write only while their task lives.
fn sweep(all: &Path, tasks: Tasks) -> Result<()> {
    for entry in fs::read_dir(all).context("read folder", all.display())? {
        let entry = entry.context("read folder", all.display())?;
        let name = entry.file_name();
        let hidden = name.to_str().and_then(|name| name.strip_prefix('.'));
        let of = hidden.and_then(|hidden| match tasks {
            Tasks::Live => hidden.strip_suffix(REMOVED),
            Tasks::Ended => hidden.strip_suffix(NEW).or_else(|| hidden.strip_suffix(REMOVED)),
        });
        // What else there is is not ours.
        if of.is_some_and(|name| Id::new("checkpoint name", name).is_ok())
            && entry.file_type().is_ok_and(|kind| kind.is_dir())
            && let Some(_lock) =
                images::lock(&entry.path()).context("lock", entry.path().display())?
        {
            remove_hidden(&entry.path())?;
        }
    }
    Ok(())
}

fn remove_hidden(hidden: &Path) -> Result<()> {
    match fs::remove_dir_all(hidden) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.context("remove", hidden.display()),
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
    let path = folder.join(CONFIG);
    let written = || {
        let mut file = File::create_new(&path)?;
        file.write_all(&text)?;
        file.sync_all()
    };
    written().context("write", path.display())
}

fn sync(folder: &Path) -> Result<()> {
    File::open(folder).and_then(|folder| folder.sync_all()).context("sync", folder.display())
}

/// What was renamed cannot be undone by then.
fn sync_or_warn(folder: &Path) {
    if let Err(error) = sync(folder) {
        warn!(error = %error.report(), "a change of checkpoints may not outlive a power failure");
    }
}

/// The checkpoints in a folder, by name. What has no name that could be asked
/// for is none, nor is a file; one whose configuration makes no sense is passed
/// over.
///
/// # Errors
/// Those of the disk.
pub(super) fn list(folder: &Path) -> Result<Vec<Checkpoint>> {
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
        match read(&entry.path(), name, modified) {
            Ok(checkpoint) => found.push(checkpoint),
            Err(error) => warn!(error = %error.report(), "checkpoint makes no sense"),
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

fn read(folder: &Path, name: String, modified: SystemTime) -> Result<Checkpoint> {
    let path = folder.join(CONFIG);
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
