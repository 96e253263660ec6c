//! What is kept of a container: a folder for each below the state folder.
//!
//! ```text
//!   <root>/<id>/
//!     embedded.json   the record; its presence says who made the container
//!     notify.sock     init waits here until it is to start, and is then gone
//!     executed        FIFO that init has open until it is the user's program, if
//!                     there are hooks to be run then
//! ```
//!
//! Other runtimes keep folders of the same names in the same place, but not
//! this file: who finds a folder without it leaves it to its maker.

use std::{
    collections::HashMap,
    ffi::CString,
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    time::SystemTime,
};

use oci_spec::runtime::{Hook, LinuxPersonality, LinuxSeccomp};
use serde::{Deserialize, Serialize};
use shim_protocol::{Context, Error, ErrorKind, Id, Result, note};

use super::cgroup::Groups;
use crate::runtime::Status;

/// The record of a container.
const RECORD: &str = "embedded.json";
/// Where init waits to be started.
const NOTIFY: &str = "notify.sock";
/// What init has open until it executes the user's program.
const EXECUTED: &str = "executed";

/// All containers of a state folder.
#[derive(Clone, Debug)]
pub(crate) struct Store(PathBuf);

/// What is kept of a container.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) oci_version: String,
    pub(crate) bundle: PathBuf,
    pub(crate) rootfs: PathBuf,
    /// When it was made.
    pub(crate) created: Option<SystemTime>,
    /// Init; 0 while there is none.
    pub(crate) pid: u32,
    /// When init began, in clock ticks since boot: a pid alone may be somebody
    /// else's by now.
    pub(crate) began: u64,
    pub(crate) groups: Groups,
    /// It has namespaces of these kinds, by clone flag.
    pub(crate) namespaces: u32,
    /// Its processes have a session keyring of their own.
    #[serde(default)]
    pub(crate) has_keyring: bool,
    #[serde(default, skip_serializing_if = "HashMap::is_empty")]
    pub(crate) annotations: HashMap<String, String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) poststart: Vec<Hook>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) poststop: Vec<Hook>,
    /// For processes that are added later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) seccomp: Option<LinuxSeccomp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) personality: Option<LinuxPersonality>,
}

impl Store {
    /// The state folder of all containers of a namespace.
    pub(crate) fn new(root: impl Into<PathBuf>) -> Self {
        Self(root.into())
    }

    /// The folder of a container.
    pub(crate) fn folder(&self, id: &Id) -> PathBuf {
        self.0.join(id)
    }

    /// Where the container's init waits.
    pub(crate) fn notify(&self, id: &Id) -> PathBuf {
        self.folder(id).join(NOTIFY)
    }

    /// What tells that the container's init has become the user's program.
    pub(super) fn executed(&self, id: &Id) -> PathBuf {
        self.folder(id).join(EXECUTED)
    }

    /// Whose container is it? `None` when there is no such container.
    pub(crate) fn is_ours(&self, id: &Id) -> Option<bool> {
        let folder = self.folder(id);
        folder.is_dir().then(|| folder.join(RECORD).exists() || is_empty(&folder))
    }

    /// Reserves a name.
    ///
    /// # Errors
    /// `AlreadyExists` when it is taken, by whatever runtime.
    pub(crate) fn reserve(&self, id: &Id) -> Result<()> {
        let folder = self.folder(id);
        let mut private = DirBuilder::new();
        private.mode(0o700);
        let made = match private.create(&folder) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(&self.0).and_then(|()| private.create(&folder))
            }
            made => made,
        };
        match made {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                Err(Error::already_exists(format!("container {id}")))
            }
            made => made.context("make", folder.display()),
        }
    }

    /// Keeps the record of a container, instead of an older one.
    ///
    /// # Errors
    /// Those of the file system.
    pub(crate) fn write(&self, id: &Id, record: &Record) -> Result<()> {
        let path = self.folder(id).join(RECORD);
        let json = serde_json::to_vec(record).map_err(|e| {
            Error::caused(ErrorKind::Internal, "encode the record of a container", e)
        })?;
        note::write(&path, &json)
    }

    /// Reads the record of a container.
    ///
    /// # Errors
    /// `NotFound` when there is no such container, `DataLoss` when its record
    /// is none.
    pub(crate) fn read(&self, id: &Id) -> Result<Record> {
        let path = self.folder(id).join(RECORD);
        match fs::read(&path) {
            Ok(json) => serde_json::from_slice(&json).map_err(io::Error::from).context_as(
                ErrorKind::DataLoss,
                "decode",
                path.display(),
            ),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                Err(Error::not_found(format!("container {id}")))
            }
            Err(e) => Err(e).context("read", path.display()),
        }
    }

    /// Forgets a container. Gone already is fine.
    ///
    /// # Errors
    /// Those of the file system.
    pub(crate) fn remove(&self, id: &Id) -> Result<()> {
        let folder = self.folder(id);
        match fs::remove_dir_all(&folder) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(e).context("remove", folder.display())
            }
            _ => Ok(()),
        }
    }

    /// Names of all containers of this runtime.
    ///
    /// # Errors
    /// Those of the file system.
    pub(crate) fn list(&self) -> Result<Vec<Id>> {
        let entries = match fs::read_dir(&self.0) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.context("list", self.0.display())?,
        };
        let mut ids = Vec::new();
        for entry in entries {
            let name = entry.context("list", self.0.display())?.file_name();
            // What has no such name is no container of ours.
            let Ok(id) = Id::new("container id", &name.to_string_lossy()) else { continue };
            if self.folder(&id).join(RECORD).exists() {
                ids.push(id);
            }
        }
        ids.sort();
        Ok(ids)
    }
}

/// A maker that died between two steps leaves such a folder, or one with a
/// record that was not finished.
fn is_empty(folder: &Path) -> bool {
    let unfinished = note::unfinished(Path::new(RECORD));
    let is_nothing = |entry: io::Result<fs::DirEntry>| {
        entry.is_ok_and(|entry| Path::new(&entry.file_name()) == unfinished)
    };
    fs::read_dir(folder).is_ok_and(|mut entries| entries.all(is_nothing))
}

impl Record {
    /// The name of the session keyring of the container's processes, if they have
    /// one: the first one makes it, and those that are added join it.
    pub(super) fn keyring(&self, id: &Id) -> Option<CString> {
        // An id has no zero byte.
        self.has_keyring.then(|| CString::new(format!("_ses.{id}")).ok()).flatten()
    }

    /// Is init alive? A zombie is not.
    pub(crate) fn is_alive(&self) -> bool {
        self.pid != 0
            && Birth::of(self.pid).is_some_and(|birth| !birth.is_dead && birth.began == self.began)
    }

    /// The container's status.
    ///
    /// # Errors
    /// Those of the file system.
    pub(crate) fn status(&self, store: &Store, id: &Id) -> Result<Status> {
        if self.pid == 0 {
            return Ok(Status::Creating);
        }
        if !self.is_alive() {
            return Ok(Status::Stopped);
        }
        // One that waits to be started can be paused, too.
        if self.groups.is_frozen().unwrap_or_default() {
            return Ok(Status::Paused);
        }
        Ok(if store.notify(id).exists() { Status::Created } else { Status::Running })
    }
}

/// When a process began, and whether it has ended.
pub(super) struct Birth {
    pub(super) began: u64,
    is_dead: bool,
}

impl Birth {
    /// `None` when there is no such process (proc_pid_stat(5)).
    pub(super) fn of(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name in parentheses may hold anything, so count from its end.
        let (_, fields) = stat.rsplit_once(") ")?;
        let mut fields = fields.split(' ');
        let is_dead = matches!(fields.next()?, "Z" | "X" | "x");
        let began = fields.nth(18)?.parse().ok()?;
        Some(Self { began, is_dead })
    }
}
