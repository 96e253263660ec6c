//! What is kept of a container: a folder for each below the state folder.
//!
//! ```text
//!   <root>/<id>/
//!     embedded.json   the record; its presence says who made the container
//!     seccomp.json    the filter of its processes, for those that are added
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

use oci_spec::runtime::{Hook, LinuxCapabilities, LinuxPersonality, LinuxSeccomp, Process};
use serde::{Deserialize, Serialize};
use shim_protocol::{Context, Error, ErrorKind, Id, Result, note};

use super::{cgroup::Groups, steer};
use crate::{kernel, runtime::Status};

/// The record of a container.
const RECORD: &str = "embedded.json";
/// The filter: long, and of no use to most who read the record.
const SECCOMP: &str = "seccomp.json";
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
    /// Processes that are added are filtered: see [`Store::seccomp`].
    #[serde(default)]
    pub(crate) is_filtered: bool,
    /// The filter, in records of older shims.
    #[serde(default, skip_serializing)]
    pub(super) seccomp: Option<LinuxSeccomp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) personality: Option<LinuxPersonality>,
    #[serde(default)]
    pub(crate) defaults: Defaults,
}

/// How processes that are added are confined if they say nothing else, as with
/// runc: like the container's own.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Defaults {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    apparmor_profile: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    capabilities: Option<LinuxCapabilities>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    no_new_privileges: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    oom_score_adj: Option<i32>,
}

impl Defaults {
    /// Those of a container's first process.
    pub(super) fn of(process: &Process) -> Self {
        Self {
            apparmor_profile: process.apparmor_profile().clone(),
            capabilities: process.capabilities().clone(),
            no_new_privileges: process.no_new_privileges(),
            oom_score_adj: process.oom_score_adj(),
        }
    }

    /// Says what `process` does not say.
    pub(super) fn fill(&self, process: &mut Process) {
        if process.apparmor_profile().as_ref().is_none_or(String::is_empty) {
            process.set_apparmor_profile(self.apparmor_profile.clone());
        }
        if process.capabilities().is_none() {
            process.set_capabilities(self.capabilities.clone());
        }
        if process.no_new_privileges().is_none() {
            process.set_no_new_privileges(self.no_new_privileges);
        }
        if process.oom_score_adj().is_none() {
            process.set_oom_score_adj(self.oom_score_adj);
        }
    }
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
        self.keep(id, RECORD, record)
    }

    /// Keeps the filter of a container that has a record: without one the folder
    /// would be taken for another's.
    ///
    /// # Errors
    /// Those of the file system.
    pub(crate) fn write_seccomp(&self, id: &Id, seccomp: &LinuxSeccomp) -> Result<()> {
        self.keep(id, SECCOMP, seccomp)
    }

    fn keep(&self, id: &Id, name: &str, content: &impl Serialize) -> Result<()> {
        let path = self.folder(id).join(name);
        let json = serde_json::to_vec(content).map_err(|e| {
            Error::caused(ErrorKind::Internal, format!("encode {}", path.display()), e)
        })?;
        note::write(&path, &json)
    }

    /// The filter of processes that are added to a container.
    ///
    /// # Errors
    /// `DataLoss` when it should have one that is not there, or is none.
    pub(crate) fn seccomp(&self, id: &Id, record: &Record) -> Result<Option<LinuxSeccomp>> {
        if !record.is_filtered {
            return Ok(record.seccomp.clone());
        }
        let path = self.folder(id).join(SECCOMP);
        let json = fs::read(&path);
        let seccomp = json.and_then(|json| Ok(serde_json::from_slice(&json)?));
        seccomp.context_as(ErrorKind::DataLoss, "read", path.display()).map(Some)
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

    /// Forgets a container. Gone already is fine. The record goes last: without it
    /// what is left would be taken for another runtime's.
    ///
    /// # Errors
    /// Those of the file system.
    pub(crate) fn remove(&self, id: &Id) -> Result<()> {
        let folder = self.folder(id);
        for name in [NOTIFY, SECCOMP, EXECUTED] {
            note::remove(&folder.join(name))?;
        }
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
        Ok(if waits(&store.notify(id)) { Status::Created } else { Status::Running })
    }
}

/// Does init wait there to be started? Whoever started it may have been killed
/// before the socket was removed, but nobody answers there any more.
fn waits(door: &Path) -> bool {
    door.exists() && steer::knock(door).is_ok()
}

/// When a process began, and whether it has ended.
pub(super) struct Birth {
    pub(super) began: u64,
    is_dead: bool,
}

impl Birth {
    /// `None` when there is no such process (proc_pid_stat(5)).
    pub(super) fn of(pid: u32) -> Option<Self> {
        let stat = kernel::read(format!("/proc/{pid}/stat")).ok()?;
        // The name in parentheses may hold anything, so count from its end.
        let (_, fields) = stat.rsplit_once(") ")?;
        let mut fields = fields.split(' ');
        let is_dead = matches!(fields.next()?, "Z" | "X" | "x");
        let began = fields.nth(18)?.parse().ok()?;
        Some(Self { began, is_dead })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn store() -> (tempfile::TempDir, Store, Id) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path());
        let id = Id::new("id", "a").unwrap();
        store.reserve(&id).unwrap();
        (folder, store, id)
    }

    #[test]
    fn the_filter_is_kept_beside_the_record() {
        let (_folder, store, id) = store();
        let filter: LinuxSeccomp =
            serde_json::from_value(json!({"defaultAction": "SCMP_ACT_ERRNO"})).unwrap();
        store.write(&id, &Record::default()).unwrap();
        assert_eq!(store.seccomp(&id, &store.read(&id).unwrap()).unwrap(), None);
        store.write(&id, &Record { is_filtered: true, ..Record::default() }).unwrap();
        let record = store.read(&id).unwrap();
        // Nothing runs without the filter that it should have.
        let error = store.seccomp(&id, &record).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DataLoss);
        store.write_seccomp(&id, &filter).unwrap();
        assert_eq!(store.seccomp(&id, &record).unwrap(), Some(filter));
        store.remove(&id).unwrap();
        assert_eq!(store.is_ours(&id), None);
    }

    #[test]
    fn the_filter_in_a_record_of_an_older_shim_counts() {
        let (_folder, store, id) = store();
        let mut record = serde_json::to_value(Record::default()).unwrap();
        record["seccomp"] = json!({"defaultAction": "SCMP_ACT_ERRNO"});
        record.as_object_mut().unwrap().remove("is_filtered");
        fs::write(store.folder(&id).join(RECORD), record.to_string()).unwrap();
        let record = store.read(&id).unwrap();
        assert!(store.seccomp(&id, &record).unwrap().is_some());
    }
}
