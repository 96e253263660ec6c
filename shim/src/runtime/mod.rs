//! The OCI runtime: what makes, starts and removes containers.
//!
//! [`Runtime`] is what the task code needs; [`embedded`] is the one inside this
//! program, and [`binary`] drives a command line such as runc's.
//! A runtime knows containers and processes, not tasks: no events, no states
//! of ours, no lock. Calls for one container must not overlap unless a method
//! says so.

use std::{
    fmt,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use async_trait::async_trait;
use serde::Deserialize;
use shim_protocol::{Id, Result};
use tokio_util::sync::CancellationToken;

use crate::reaper::ExitFuture;

pub mod binary;
mod call;
mod criu;
pub mod embedded;
mod log;
#[cfg(test)]
mod tests;

/// What a container's process reads from and writes to.
#[derive(Debug)]
pub enum ChildStdio {
    /// Descriptors; an absent one is `/dev/null`.
    Fds {
        /// Standard input.
        stdin: Option<OwnedFd>,
        /// Standard output.
        stdout: Option<OwnedFd>,
        /// Standard error.
        stderr: Option<OwnedFd>,
    },
    /// A terminal, whose controlling side is to be sent to this unix socket.
    Console(PathBuf),
}

impl ChildStdio {
    /// Everything is `/dev/null`.
    pub const NULL: Self = Self::Fds { stdin: None, stdout: None, stderr: None };
}

/// A process of a container that was made. Its exit cannot be missed.
#[derive(Debug)]
pub struct Started {
    /// As seen by this process, not inside the container.
    pub pid: u32,
    /// Its end.
    pub exit: ExitFuture,
}

/// How to make a container out of its bundle.
#[derive(Debug)]
pub struct Create<'a> {
    /// Folder with `config.json` and `rootfs/`.
    pub bundle: &'a Path,
    /// Streams of its first process.
    pub stdio: ChildStdio,
    /// Do not use pivot_root.
    pub no_pivot_root: bool,
    /// Do not give the container a session keyring of its own.
    pub no_new_keyring: bool,
}

/// How to add a process to a running container.
#[derive(Debug)]
pub struct Exec<'a> {
    /// Where its pid is to be written, for who cleans up after a dead shim.
    pub pid_file: &'a Path,
    /// OCI `Process` as JSON.
    pub process: &'a [u8],
    /// Its streams.
    pub stdio: ChildStdio,
}

/// What CRIU is allowed and told at a checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checkpoint {
    /// Folder the images go to.
    pub image_path: PathBuf,
    /// Folder for work files and logs; the runtime's own choice if absent.
    pub work_path: Option<PathBuf>,
    /// A previous checkpoint this one builds upon.
    pub parent_path: Option<PathBuf>,
    /// Stop the container afterwards.
    pub exit: bool,
    /// Keep open TCP connections.
    pub open_tcp: bool,
    /// Keep unix sockets whose other end is outside.
    pub external_unix_sockets: bool,
    /// Allow a process that owns a terminal.
    pub terminal: bool,
    /// Keep file locks.
    pub file_locks: bool,
    /// Namespaces that are restored empty.
    pub empty_namespaces: Vec<String>,
    /// "ignore", "soft", "full" or "strict"; the runtime's own choice if empty.
    pub cgroups_mode: String,
}

/// How to bring a container back from a checkpoint.
#[derive(Debug)]
pub struct Restore<'a> {
    /// Folder with `config.json` and `rootfs/`.
    pub bundle: &'a Path,
    /// Folder with the images.
    pub image_path: &'a Path,
    /// Folder for work files and logs; the runtime's own choice if absent.
    pub work_path: Option<&'a Path>,
    /// Streams of its first process.
    pub stdio: ChildStdio,
    /// Do not use pivot_root.
    pub no_pivot_root: bool,
    /// When this is cancelled, it is to fail soon, and to leave nothing.
    pub give_up: &'a CancellationToken,
}

/// A container's status in the words of the OCI runtime specification, plus
/// "paused" as all runc-like runtimes report it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Being made.
    Creating,
    /// Made; the user's program does not run yet.
    Created,
    /// The user's program runs.
    Running,
    /// On its way to be frozen.
    Pausing,
    /// Frozen.
    Paused,
    /// Its first process has ended.
    Stopped,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Pausing => "pausing",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        })
    }
}

/// What a runtime says about a container.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ContainerState {
    /// Its status.
    pub status: Status,
    /// Its first process, 0 if there is none.
    #[serde(default)]
    pub pid: u32,
}

/// Makes and handles containers.
///
/// Every method fails with `NotFound` when the runtime knows no such
/// container, with `FailedPrecondition` when the runtime itself is missing,
/// and with `Unknown` and the runtime's own message when the runtime refuses
/// for a reason it gives no class for.
///
/// No method has a deadline: hooks and checkpoints take what they take. Who
/// drops the future of one ends the runtime's work on it.
#[async_trait]
pub trait Runtime: Send + Sync {
    /// Makes a container up to the point before the user's program runs.
    ///
    /// # Errors
    /// `AlreadyExists` when there is one of that name. After a failure nothing
    /// is left of the container.
    async fn create(&self, id: &Id, request: Create<'_>) -> Result<Started>;

    /// Lets the user's program run.
    ///
    /// # Errors
    /// See the trait.
    async fn start(&self, id: &Id) -> Result<()>;

    /// Adds a process to a running container. May overlap with other calls.
    ///
    /// # Errors
    /// `FailedPrecondition` when the container is not running.
    async fn exec(&self, id: &Id, request: Exec<'_>) -> Result<Started>;

    /// Sends a signal to the first process, or to all. May overlap with other
    /// calls.
    ///
    /// # Errors
    /// `NotFound` also when the container has ended.
    async fn kill(&self, id: &Id, signal: u32, all: bool) -> Result<()>;

    /// Removes a stopped container. With `force` its processes are killed
    /// first, and a container that is not there is fine.
    ///
    /// # Errors
    /// `FailedPrecondition` when it is not stopped and `force` is not given.
    async fn delete(&self, id: &Id, force: bool) -> Result<()>;

    /// Freezes all processes.
    ///
    /// # Errors
    /// See the trait.
    async fn pause(&self, id: &Id) -> Result<()>;

    /// Thaws all processes.
    ///
    /// # Errors
    /// See the trait.
    async fn resume(&self, id: &Id) -> Result<()>;

    /// Changes limits; `resources` is an OCI `LinuxResources` as JSON.
    ///
    /// # Errors
    /// See the trait.
    async fn update(&self, id: &Id, resources: &[u8]) -> Result<()>;

    /// Whether containers can be written to disk and brought back here. Nothing
    /// is done to any.
    ///
    /// # Errors
    /// `Unimplemented` when this runtime cannot do it; `FailedPrecondition` when
    /// what it takes is missing or too old.
    async fn can_checkpoint(&self) -> Result<()>;

    /// Writes the container's processes to disk. If that fails, they are as they
    /// were, but may be frozen.
    ///
    /// # Errors
    /// As [`Runtime::can_checkpoint`], before anything is done; see the trait.
    async fn checkpoint(&self, id: &Id, request: &Checkpoint) -> Result<()>;

    /// Makes a container from a checkpoint; it runs at once. Whoever calls it has
    /// asked [`Runtime::can_checkpoint`] before.
    ///
    /// # Errors
    /// As [`Runtime::create`]; `InvalidArgument` for images that are none.
    async fn restore(&self, id: &Id, request: Restore<'_>) -> Result<Started>;

    /// All processes of the container, as seen by this process.
    ///
    /// # Errors
    /// See the trait.
    async fn ps(&self, id: &Id) -> Result<Vec<u32>>;

    /// What the runtime says about the container.
    ///
    /// # Errors
    /// `DataLoss` when its answer cannot be read.
    async fn state(&self, id: &Id) -> Result<ContainerState>;

    /// What the runtime can do, as the JSON document of the OCI runtime
    /// specification (`features.md`).
    ///
    /// # Errors
    /// `Unimplemented` when the runtime does not tell.
    async fn features(&self) -> Result<Vec<u8>>;
}
