//! The words in which the rest of the daemon talks about shims: plain types,
//! so that no message of the wire leaves this crate.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
pub use containerd_mounts::Mount;
use shim_protocol::{Id, Result};

/// A message that is passed on as it is, under the name of its type.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Any {
    /// Name of the message, such as `containerd.events.TaskExit`.
    pub type_url: String,
    /// The encoded message.
    pub value: Vec<u8>,
}

/// Where a process's standard streams go: paths of FIFOs, or URIs of loggers.
/// An empty one is `/dev/null`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stdio {
    /// Standard input.
    pub stdin: String,
    /// Standard output; with a terminal, the only output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// The process gets a terminal.
    pub terminal: bool,
}

/// Where a process is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Status {
    /// The shim does not say.
    #[default]
    Unknown,
    /// Made, but the user's program does not run yet.
    Created,
    /// The user's program runs.
    Running,
    /// Ended, and not yet deleted.
    Stopped,
    /// Frozen.
    Paused,
    /// On the way to being frozen.
    Pausing,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Exit code, or 128 plus the number of the signal that ended it.
    pub status: u32,
    /// When it ended.
    pub at: SystemTime,
}

/// A container's init process, or one that was added by exec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// The container.
    pub container_id: Id,
    /// The exec; none for init.
    pub exec_id: Option<Id>,
    /// Its pid on the host; 0 before it has one.
    pub pid: u32,
    /// Where it is in its life.
    pub status: Status,
    /// Its standard streams.
    pub stdio: Stdio,
    /// How it ended, once it has.
    pub exit: Option<Exit>,
    /// The container's bundle.
    pub bundle: PathBuf,
}

/// What is left to say of a process that was deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deleted {
    /// The pid it had.
    pub pid: u32,
    /// How it ended.
    pub exit: Exit,
}

/// One kernel process that lives in a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessInfo {
    /// Its pid on the host.
    pub pid: u32,
    /// What the shim adds, for instance `containerd.runc.v1.ProcessDetails`.
    pub info: Option<Any>,
}

/// A task to be made.
#[derive(Clone, Debug)]
pub struct CreateTask {
    /// Namespace of the container.
    pub namespace: Id,
    /// The container; its task has the same id.
    pub id: Id,
    /// Name of the runtime (`io.containerd.runc.v2`) or absolute path of a shim.
    pub runtime: String,
    /// The OCI runtime configuration as JSON; becomes `config.json`.
    pub spec: Vec<u8>,
    /// Runtime options, such as `containerd.runc.v1.Options`.
    pub options: Option<Any>,
    /// What the shim mounts as the container's root, in this order.
    pub rootfs: Vec<Mount>,
    /// Standard streams of init.
    pub stdio: Stdio,
    /// What it goes on from, in place of a fresh start.
    pub checkpoint: Option<Checkpoint>,
}

/// What a task goes on from.
#[derive(Clone, Debug)]
pub enum Checkpoint {
    /// A folder with images, which is somebody else's.
    Folder(PathBuf),
    /// Images that are brought into a folder of the task.
    Images(Arc<dyn Images>),
}

/// The images of a checkpoint, wherever they are.
#[async_trait]
pub trait Images: fmt::Debug + Send + Sync + 'static {
    /// Brings them into a folder, which is empty. What was brought before a
    /// failure is removed by the caller.
    ///
    /// # Errors
    /// Whatever keeps them from being brought.
    async fn unpack(&self, folder: &Path) -> Result<()>;
}

/// A process to be added to a container.
#[derive(Clone, Debug)]
pub struct ExecProcess {
    /// Its id, unique in the container.
    pub exec_id: Id,
    /// The OCI process, as the client sent it.
    pub spec: Any,
    /// Its standard streams.
    pub stdio: Stdio,
}

/// What a shim binary tells of itself and of the OCI runtime behind it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuntimeInfo {
    /// Name of the runtime.
    pub name: String,
    /// Version of the shim.
    pub version: String,
    /// Source revision that the shim was built from.
    pub revision: String,
    /// The options it understood.
    pub options: Option<Any>,
    /// OCI runtime features, as JSON in an `Any`.
    pub features: Option<Any>,
    /// Further remarks.
    pub annotations: BTreeMap<String, String>,
}

/// What was found at boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Tasks whose init is alive.
    pub live: usize,
    /// Tasks whose init has ended; they wait for a client to delete them.
    pub stopped: usize,
    /// Bundles that were removed: of dead shims, and unfinished ones.
    pub cleaned: usize,
    /// Folders that could not be understood or removed, and were left alone.
    pub left: usize,
}

/// What a [`Manager`](crate::Manager) needs to know of its surroundings.
#[derive(Clone, Debug)]
pub struct ManagerConfig {
    /// Folder of persistent data, `<root>/io.containerd.runtime.v2.task`.
    pub root: PathBuf,
    /// Folder of the bundles, `<state>/io.containerd.runtime.v2.task`.
    pub state: PathBuf,
    /// Path of the daemon's gRPC socket. Shims derive their own from it.
    pub grpc_address: String,
    /// Path of the socket on which shims deliver events.
    pub ttrpc_address: String,
    /// Further environment of shims.
    pub env: Vec<(String, String)>,
    /// Ask shims for debug messages.
    pub debug: bool,
    /// How long to wait for shims.
    pub timeouts: Timeouts,
}

/// How long to wait for shims. Each is the limit of one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Start of a shim: from exec until its address is known.
    pub start: Duration,
    /// Reconnecting to one shim at boot, and asking it for its processes.
    pub load: Duration,
    /// Cleaning up behind a dead shim or an unfinished create.
    pub cleanup: Duration,
    /// End of a shim, once its last task was deleted.
    pub shutdown: Duration,
    /// Asking for the state of one process.
    pub state: Duration,
    /// Any other request. Create runs hooks, which may take their time.
    pub request: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            start: Duration::from_secs(30),
            load: Duration::from_secs(5),
            cleanup: Duration::from_secs(5),
            shutdown: Duration::from_secs(3),
            state: Duration::from_secs(2),
            request: Duration::from_secs(120),
        }
    }
}

/// Takes the events that a shim can no longer send: of dead shims, and of what
/// happened while the daemon was away.
#[async_trait]
pub trait EventSink: Send + Sync + 'static {
    /// Publishes one event. An exit or delete that was announced before is
    /// dropped without an error, so that callers need not remember.
    ///
    /// # Errors
    /// Whatever keeps the event from being recorded.
    async fn publish(&self, namespace: &Id, topic: &str, event: Any) -> Result<()>;

    /// Publishes what is missing until a task is ended and deleted. Nothing is
    /// missing of one that was never announced as made.
    ///
    /// # Errors
    /// Whatever keeps the events from being recorded.
    async fn close_task(&self, namespace: &Id, id: &Id) -> Result<()>;
}
