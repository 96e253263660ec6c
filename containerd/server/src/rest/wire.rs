//! Requests and answers as JSON (containerd before 0.0.4, `api/v1/types.go`).

use std::time::SystemTime;

use containerd_core::legacy as core;
use prost_types::Timestamp;
use serde::{Deserialize, Serialize};

/// A container to be made.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
pub(super) struct NewContainer {
    bundle_path: String,
    checkpoint: String,
    stdout: String,
    stderr: String,
}

/// What a container is to become.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Update {
    pub(super) status: String,
    pub(super) signal: i64,
}

/// A signal for a process.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Signal {
    pub(super) signal: i64,
}

/// A checkpoint to be made.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct NewCheckpoint {
    exit: bool,
    tcp: bool,
    unix_sockets: bool,
    shell: bool,
}

/// A process, to be added or as it is.
#[derive(Default, Deserialize, Serialize)]
#[serde(default)]
pub(super) struct Process {
    /// What a client says is not looked at.
    #[serde(skip_deserializing)]
    pid: u32,
    terminal: bool,
    user: User,
    args: Vec<String>,
    env: Vec<String>,
    cwd: String,
}

#[derive(Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
struct User {
    uid: u32,
    gid: u32,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    additional_gids: Vec<u32>,
}

/// All there is.
#[derive(Serialize)]
pub(super) struct State {
    containers: Vec<Container>,
    machine: Machine,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Container {
    id: String,
    bundle_path: String,
    state: ContainerState,
    processes: Vec<Process>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ContainerState {
    status: &'static str,
    /// Of one that ended while the daemon was away: that is new.
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_status: Option<u32>,
}

#[derive(Serialize)]
struct Machine {
    id: String,
    cpus: u32,
    memory: u64,
}

/// A checkpoint that there is.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Checkpoint {
    name: String,
    tcp: bool,
    unix_sockets: bool,
    shell: bool,
    /// As in RFC 3339.
    timestamp: String,
}

/// A container has ended.
#[derive(Serialize)]
pub(super) struct Event {
    r#type: &'static str,
    id: String,
    status: u32,
}

impl NewContainer {
    pub(super) fn into_create(self, id: String) -> core::Create {
        let Self { bundle_path, checkpoint, stdout, stderr } = self;
        // The original made files for the output; that of gRPC did not.
        let streams = core::Streams { stdout, stderr, make_files: true, ..Default::default() };
        core::Create { id, bundle: bundle_path, streams, checkpoint }
    }
}

impl NewCheckpoint {
    pub(super) fn into_checkpoint(self, name: String) -> core::Checkpoint {
        let Self { exit, tcp, unix_sockets, shell } = self;
        core::Checkpoint { name, created: SystemTime::UNIX_EPOCH, exit, tcp, unix_sockets, shell }
    }
}

impl From<Process> for core::ProcessSpec {
    fn from(process: Process) -> Self {
        let Process { pid: _, terminal, user, args, env, cwd } = process;
        let User { uid, gid, additional_gids } = user;
        Self { terminal, user: core::User { uid, gid, additional_gids }, args, env, cwd }
    }
}

impl From<core::Process> for Process {
    fn from(process: core::Process) -> Self {
        let core::ProcessSpec { terminal, user, args, env, cwd } = process.spec;
        let core::User { uid, gid, additional_gids } = user;
        let user = User { uid, gid, additional_gids };
        Self { pid: process.pid, terminal, user, args, env, cwd }
    }
}

impl State {
    pub(super) fn new(containers: Vec<core::Container>, machine: core::Machine) -> Self {
        let core::Machine { id, cpus, memory } = machine;
        let containers = containers.into_iter().map(Container::from).collect();
        Self { containers, machine: Machine { id, cpus, memory } }
    }
}

impl From<core::Container> for Container {
    fn from(container: core::Container) -> Self {
        let exit_status = match container.status {
            core::Status::Stopped(status) => Some(status),
            _ => None,
        };
        Self {
            id: container.id.to_string(),
            bundle_path: container.bundle.to_string_lossy().into_owned(),
            state: ContainerState { status: container.status.name(), exit_status },
            processes: container.processes.into_iter().map(Process::from).collect(),
        }
    }
}

impl From<core::Checkpoint> for Checkpoint {
    fn from(checkpoint: core::Checkpoint) -> Self {
        let core::Checkpoint { name, created, exit: _, tcp, unix_sockets, shell } = checkpoint;
        let timestamp = Timestamp::from(created).to_string();
        Self { name, tcp, unix_sockets, shell, timestamp }
    }
}

impl Event {
    /// None for what the API does not tell.
    pub(super) fn of(event: &core::Event) -> Option<Self> {
        (event.kind == core::EventKind::Exit).then(|| Self {
            r#type: event.kind.name(),
            id: event.id.to_string(),
            status: event.status,
        })
    }
}
