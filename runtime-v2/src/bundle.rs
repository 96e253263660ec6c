//! The folder of one task.
//!
//! ```text
//! <state>/<namespace>/<id>/
//!     config.json        the OCI runtime configuration
//!     rootfs/            what the shim mounts as the container's root
//!     work               link to <root>/<namespace>/<id>/, where there may be
//!         restore/       the images that the task is restored from
//!         checkpoint-…/  images that are on their way to somewhere else
//!     shim-binary-path   the shim that was, or is about to be, started
//!     bootstrap.json     how to reach it; written when it runs
//!     address            the same as a bare address, for older readers
//!     log                FIFO with the shim's messages
//!     …                  what the shim keeps for itself
//! <state>/<namespace>/.<id>   a bundle on its way out
//! ```
//!
//! Go shims and daemons read and write the same files. All of this blocks.

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::{
        ffi::OsStrExt,
        fs::{DirBuilderExt, PermissionsExt, chown, symlink},
    },
    path::{Path, PathBuf},
};

use nix::{sys::stat::Mode, unistd::mkfifo};
use serde::Deserialize;
use shim_protocol::{Context, Error, ErrorKind, Id, Result, note};
use tracing::warn;

use crate::{ManagerConfig, address::Bootstrap, mounts};

mod images;
mod remove;

pub(crate) use self::images::LeftImages;

const CONFIG: &str = "config.json";
const ROOTFS: &str = "rootfs";
const WORK: &str = "work";
const SHIM_BINARY: &str = "shim-binary-path";
const BOOTSTRAP: &str = "bootstrap.json";
const ADDRESS: &str = "address";
const LOG: &str = "log";
/// Where runc's shim keeps the pid of init; so it tells that there was one.
const INIT_PID: &str = "init.pid";
/// Suffix of the files in which runc's shim keeps the pids of execs and init.
const PID_SUFFIX: &str = ".pid";

/// The folder of one task, whether it exists or not.
#[derive(Clone, Debug)]
pub(crate) struct Bundle {
    namespace: Id,
    id: Id,
    path: PathBuf,
    work: PathBuf,
}

/// The part of `config.json` that decides who owns the bundle.
#[derive(Deserialize)]
struct Config {
    linux: Option<Linux>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Linux {
    #[serde(default)]
    gid_mappings: Vec<IdMapping>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct IdMapping {
    #[serde(rename = "containerID")]
    container_id: u32,
    #[serde(rename = "hostID")]
    host_id: u32,
}

impl Bundle {
    /// The bundle of a task, by its place.
    pub(crate) fn at(config: &ManagerConfig, namespace: &Id, id: &Id) -> Self {
        Self {
            namespace: namespace.clone(),
            id: id.clone(),
            path: config.state.join(namespace).join(id),
            work: config.root.join(namespace).join(id),
        }
    }

    /// Makes the bundle, writes the configuration, and notes which shim is
    /// about to be started, so that whoever finds the bundle can clean up. What
    /// was made is removed again if a later step fails.
    ///
    /// # Errors
    /// `AlreadyExists` when there is such a folder, `InvalidArgument` when
    /// `spec` is no runtime configuration, `ResourceExhausted` when the disk
    /// is full.
    pub(crate) fn create(&self, spec: &[u8], binary: &Path) -> Result<()> {
        let owner = group_of_root(spec).context("read runtime configuration of", &self.id)?;
        if let Some(parent) = self.path.parent() {
            make_folders(parent)?;
        }
        match DirBuilder::new().mode(0o700).create(&self.path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                let text = format!("bundle {}", self.path.display());
                return Err(Error::already_exists(text));
            }
            made => made.context("make bundle", self.path.display())?,
        }
        self.fill(spec, owner, binary).map_err(|cause| match self.remove() {
            Ok(()) => cause,
            Err(e) => {
                warn!(error = %e.report(), "unfinished bundle stays");
                cause
            }
        })
    }

    fn fill(&self, spec: &[u8], owner: u32, binary: &Path) -> Result<()> {
        // In a user namespace root must be able to enter its bundle.
        if owner != 0 {
            chown(&self.path, None, Some(owner)).context("give away", self.path.display())?;
            fs::set_permissions(&self.path, fs::Permissions::from_mode(0o710))
                .context("open up", self.path.display())?;
        }
        let rootfs = self.rootfs();
        DirBuilder::new().mode(0o711).create(&rootfs).context("make", rootfs.display())?;
        let link = self.path.join(WORK);
        symlink(&self.work, &link).context("make link", link.display())?;
        self.write(CONFIG, spec)?;
        self.write(SHIM_BINARY, binary.as_os_str().as_bytes())?;
        let log = self.log();
        mkfifo(&log, Mode::S_IRWXU).map_err(io::Error::from).context("make FIFO", log.display())
    }

    /// Makes the work folder, on disk, which takes longer than all the rest and
    /// is not needed before there is a container.
    ///
    /// # Errors
    /// `ResourceExhausted` when the disk is full.
    pub(crate) fn create_work(&self) -> Result<()> {
        if let Some(parent) = self.work.parent() {
            make_folders(parent)?;
        }
        // A folder of the same name is a leftover of a task that is gone.
        remove::tree(&self.work)?;
        DirBuilder::new().mode(0o711).create(&self.work).context("make", self.work.display())?;
        Ok(())
    }

    /// Removes the work folder, when the container is gone. A missing one is
    /// success.
    ///
    /// # Errors
    /// `FailedPrecondition` when a mount stays.
    pub(crate) fn remove_work(&self) -> Result<()> {
        remove::tree(&self.work)
    }

    /// Removes the bundle and its work folder. Nothing is ever removed through
    /// a mount: what is mounted is unmounted first, the root folder must then be
    /// empty, and only a folder that is renamed, and so out of use, is removed
    /// with what is in it.
    ///
    /// # Errors
    /// `FailedPrecondition` when a mount stays, or the root folder has files
    /// of its own.
    pub(crate) fn remove(&self) -> Result<()> {
        let rootfs = self.rootfs();
        // Mostly the shim has left nothing, and then nothing is looked for.
        if remove_folder(&rootfs).is_err() {
            mounts::unmount_below(&self.path)?;
            remove_folder(&rootfs).context_as(
                ErrorKind::FailedPrecondition,
                "remove",
                rootfs.display(),
            )?;
        }
        remove::tree(&self.path)?;
        self.remove_work()
    }

    /// Namespace of the task.
    pub(crate) fn namespace(&self) -> &Id {
        &self.namespace
    }

    /// Id of the task.
    pub(crate) fn id(&self) -> &Id {
        &self.id
    }

    /// The folder.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The FIFO with the shim's messages.
    pub(crate) fn log(&self) -> PathBuf {
        self.path.join(LOG)
    }

    fn rootfs(&self) -> PathBuf {
        self.path.join(ROOTFS)
    }

    /// The shim that holds this task; none when it is not noted.
    pub(crate) fn shim_binary(&self) -> Result<Option<PathBuf>> {
        let Some(text) = self.read(SHIM_BINARY)? else { return Ok(None) };
        let path = std::str::from_utf8(&text).ok().map(|text| PathBuf::from(text.trim()));
        Ok(path.filter(|path| path.is_absolute()))
    }

    /// Notes how to reach the shim.
    pub(crate) fn write_bootstrap(&self, bootstrap: &Bootstrap) -> Result<()> {
        let text = serde_json::to_vec(bootstrap)
            .map_err(|e| Error::caused(ErrorKind::Internal, "encode bootstrap.json", e))?;
        self.write(BOOTSTRAP, &text)?;
        self.write(ADDRESS, bootstrap.address.as_bytes())
    }

    /// How to reach the shim; none when it is not noted.
    ///
    /// # Errors
    /// As [`Bootstrap::parse`], when the note makes no sense.
    pub(crate) fn bootstrap(&self) -> Result<Option<Bootstrap>> {
        let text = match self.read(BOOTSTRAP)? {
            Some(text) => Some(text),
            None => self.read(ADDRESS)?,
        };
        text.map(|text| Bootstrap::parse(&text).context("read address in", self.path.display()))
            .transpose()
    }

    /// Pid of init, as runc's shim notes it; none when there was no init.
    pub(crate) fn init_pid(&self) -> Option<u32> {
        read_pid(&self.path.join(INIT_PID))
    }

    /// Execs of which runc's shim noted the pid. Some of them may be gone.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub(crate) fn noted_execs(&self) -> Result<Vec<(Id, u32)>> {
        let entries = fs::read_dir(&self.path).context("list", self.path.display())?;
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let exec = |name: String| {
            let exec = Id::new("exec id", name.strip_suffix(PID_SUFFIX)?).ok()?;
            Some((exec, read_pid(&self.path.join(&name))?))
        };
        Ok(names.filter(|name| name != INIT_PID).filter_map(exec).collect())
    }

    fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        note::read(&self.path.join(name))
    }

    fn write(&self, name: &str, content: &[u8]) -> Result<()> {
        note::write(&self.path.join(name), content)
    }
}

/// What is in the folder of bundles.
pub(crate) struct Found {
    /// The bundles.
    pub(crate) bundles: Vec<Bundle>,
    /// How many things there are that no daemon made.
    pub(crate) others: usize,
}

/// Finds all bundles, and finishes removals that were cut short.
///
/// # Errors
/// When the folder cannot be read; a missing one is empty.
pub(crate) fn find_all(config: &ManagerConfig) -> Result<Found> {
    let mut found = Found { bundles: Vec::new(), others: 0 };
    for namespace in folders(&config.state, "namespace", &mut found.others)? {
        for id in folders(&config.state.join(&namespace), "container id", &mut found.others)? {
            found.bundles.push(Bundle::at(config, &namespace, &id));
        }
    }
    Ok(found)
}

/// Removes work folders that belong to no bundle: the state folder does not
/// outlive a reboot, they do.
///
/// # Errors
/// When the folder cannot be read; what cannot be removed is logged.
pub(crate) fn remove_unused_work(
    config: &ManagerConfig,
    is_known: impl Fn(&Id, &Id) -> bool,
) -> Result<()> {
    let mut others = 0;
    for namespace in folders(&config.root, "namespace", &mut others)? {
        for id in folders(&config.root.join(&namespace), "container id", &mut others)? {
            let bundle = Bundle::at(config, &namespace, &id);
            if is_known(&namespace, &id) || bundle.path.exists() {
                continue;
            }
            if let Err(error) = remove::tree(&bundle.work) {
                warn!(%id, error = %error.report(), "work folder stays");
            }
        }
    }
    Ok(())
}

/// The folders in `parent` that are named like an identifier. Hidden ones are
/// on their way out, and are removed; others are left alone and counted.
fn folders(parent: &Path, what: &str, others: &mut usize) -> Result<Vec<Id>> {
    let entries = match fs::read_dir(parent) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.context("list", parent.display())?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.context("list", parent.display())?;
        let name = entry.file_name();
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let hidden = name.to_str().and_then(|name| name.strip_prefix('.'));
        if is_folder && hidden.is_some_and(|name| Id::new(what, name).is_ok()) {
            if let Err(error) = remove::hidden(&entry.path()) {
                warn!(error = %error.report(), "removal is not finished");
                *others += 1;
            }
            continue;
        }
        match name.to_str().map(|name| Id::new(what, name)) {
            Some(Ok(id)) if is_folder => names.push(id),
            _ => {
                warn!(path = %entry.path().display(), "no daemon made this, it is left alone");
                *others += 1;
            }
        }
    }
    Ok(names)
}

fn read_pid(path: &Path) -> Option<u32> {
    std::str::from_utf8(&note::read(path).ok()??).ok()?.trim().parse().ok()
}

/// The group that is root's in the container; 0 without a user namespace.
fn group_of_root(spec: &[u8]) -> Result<u32> {
    let config: Config = serde_json::from_slice(spec)
        .map_err(|e| Error::caused(ErrorKind::InvalidArgument, CONFIG, e))?;
    let mappings = config.linux.map(|linux| linux.gid_mappings).unwrap_or_default();
    Ok(mappings.iter().find(|m| m.container_id == 0).map_or(0, |m| m.host_id))
}

/// Makes a folder that everybody may pass, and its parents.
fn make_folders(path: &Path) -> Result<()> {
    DirBuilder::new().recursive(true).mode(0o711).create(path).context("make", path.display())
}

/// Removes an empty folder; one that is not there, or is none, is fine.
fn remove_folder(path: &Path) -> io::Result<()> {
    match fs::remove_dir(path) {
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(())
        }
        removed => removed,
    }
}

#[cfg(test)]
mod tests;
