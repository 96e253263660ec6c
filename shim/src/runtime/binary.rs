//! A runtime that is a command line: runc, crun, youki and what looks like
//! them (the flags are runc's, `man 8 runc`).
//!
//! A command line tells success from failure and no more. Why something
//! failed is found out by asking for the container's state, never by reading
//! the message.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use containerd_mounts::unmount_all;
use shim_protocol::{Context, Error, ErrorKind, Id, Result};

use super::{
    Checkpoint, ContainerState, Create, Exec, Restore, Runtime, Started, Status,
    call::{Call, TempFile, read_pid},
    criu::{self, Allowed},
};
use crate::{kernel::is_exiting, reaper::Reaper};

/// How often a runtime is asked to freeze a container that it fails to freeze.
const PAUSE_TRIES: u32 = 3;
/// Where the pid of a container's first process is kept in its bundle
/// (containerd's `InitPidFile`).
pub const INIT_PID_FILE: &str = "init.pid";

/// The command and what is the same in all its calls for one container.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name or path of the program.
    pub binary: PathBuf,
    /// Its state folder (`--root`).
    pub root: PathBuf,
    /// Folder for logs, pid files and process files: the bundle.
    pub work: PathBuf,
    /// Let systemd make the cgroups.
    pub systemd_cgroup: bool,
}

/// Drives a command line.
pub struct BinaryRuntime {
    config: Config,
    reaper: Arc<Reaper>,
}

impl BinaryRuntime {
    /// Does not look whether the program is there.
    pub fn new(config: Config, reaper: Arc<Reaper>) -> Self {
        Self { config, reaper }
    }

    fn call(&self, verb: &'static str) -> Result<Call> {
        let Config { binary, root, work, systemd_cgroup } = &self.config;
        let mut call = Call::new(binary, root, work, verb)?;
        call.flag("--systemd-cgroup", *systemd_cgroup).arg(verb);
        Ok(call)
    }

    /// Runs a call about a container that should be there.
    async fn run(&self, id: &Id, mut call: Call, verb: &'static str) -> Result<Vec<u8>> {
        call.arg(&**id);
        match call.run(&self.reaper).await {
            Ok(output) => Ok(output),
            Err(error) => Err(self.explain(id, verb, error).await),
        }
    }

    async fn simple(&self, id: &Id, verb: &'static str) -> Result<()> {
        self.run(id, self.call(verb)?, verb).await.map(drop)
    }

    /// Gives a refusal its kind.
    async fn explain(&self, id: &Id, verb: &'static str, error: Error) -> Error {
        if error.kind() != ErrorKind::Unknown {
            return error;
        }
        match self.query_state(id).await {
            Ok(state) => error.with_kind(refusal(verb, state.status)),
            Err(_) if !self.knows(id) => error.with_kind(ErrorKind::NotFound),
            // The state cannot be had either; the first message says more.
            Err(_) => error,
        }
    }

    async fn query_state(&self, id: &Id) -> Result<ContainerState> {
        let mut call = self.call("state")?;
        call.capture().arg(&**id);
        let output = call.run(&self.reaper).await?;
        serde_json::from_slice(&output).map_err(std::io::Error::from).context_as(
            ErrorKind::DataLoss,
            "read state of container",
            id,
        )
    }

    /// Whether it is crun, whatever it is called: its restore has flags of its own.
    async fn is_crun(&self) -> Result<bool> {
        let mut call = self.call("--version")?;
        call.capture();
        Ok(call.run(&self.reaper).await?.starts_with(b"crun "))
    }

    /// All runc-like runtimes keep a folder per container.
    fn knows(&self, id: &Id) -> bool {
        self.config.root.join(id).exists()
    }

    /// Runs a call that makes a container, and leaves nothing if it fails.
    async fn make(&self, id: &Id, mut call: Call) -> Result<Started> {
        if self.knows(id) {
            return Err(Error::already_exists(format!("container {id}")));
        }
        let pid_file = self.config.work.join(INIT_PID_FILE);
        call.option("--pid-file", &pid_file).arg(&**id);
        let made = self.start_process(call, &pid_file).await;
        if made.is_err()
            && self.knows(id)
            && let Err(error) = self.delete(id, true).await
        {
            tracing::error!(container = %id, error = %error.report(), "undo create");
        }
        made
    }

    async fn start_process(&self, call: Call, pid_file: &Path) -> Result<Started> {
        let expectation = self.reaper.expect();
        call.run(&self.reaper).await?;
        let pid = read_pid(pid_file)?;
        Ok(Started { pid, exit: expectation.watch(pid)? })
    }
}

/// What CRIU is allowed, at a checkpoint and at its restore.
fn allow(call: &mut Call, allowed: &Allowed) {
    call.flag("--tcp-established", allowed.open_tcp)
        .flag("--ext-unix-sk", allowed.external_unix_sockets)
        .flag("--shell-job", allowed.terminal)
        .flag("--file-locks", allowed.file_locks);
    for namespace in &allowed.empty_namespaces {
        call.option("--empty-ns", namespace);
    }
    if !allowed.cgroups_mode.is_empty() {
        call.option("--manage-cgroups-mode", &allowed.cgroups_mode);
    }
}

/// A failure with what CRIU says of it: runtimes tell only where its log is.
fn told(error: Error, work: Option<&Path>, log: &str) -> Error {
    match work.and_then(|work| criu::complaint(work, log)) {
        Some(complaint) => {
            let kind = error.kind();
            Error::caused(kind, format!("CRIU: {complaint}"), error)
        }
        None => error,
    }
}

/// The kind of a refusal, by what was asked for and the state it met.
fn refusal(verb: &str, status: Status) -> ErrorKind {
    use Status::{Created, Creating, Paused, Pausing, Running, Stopped};
    match (verb, status) {
        // Clients take it for "no such process", which is what they wanted.
        ("kill", Stopped) => ErrorKind::NotFound,
        ("delete", Stopped) => ErrorKind::Unknown,
        ("delete", Creating | Created | Running | Pausing | Paused) | (_, Stopped) => {
            ErrorKind::FailedPrecondition
        }
        ("exec", Creating | Pausing | Paused)
        | ("start", Running | Pausing | Paused)
        | ("pause", Pausing | Paused)
        | ("resume", Created | Running) => ErrorKind::FailedPrecondition,
        _ => ErrorKind::Unknown,
    }
}

#[async_trait]
impl Runtime for BinaryRuntime {
    async fn create(&self, id: &Id, request: Create<'_>) -> Result<Started> {
        let mut call = self.call("create")?;
        call.option("--bundle", request.bundle)
            .flag("--no-pivot", request.no_pivot_root)
            .flag("--no-new-keyring", request.no_new_keyring)
            .stdio(request.stdio);
        self.make(id, call).await
    }

    async fn start(&self, id: &Id) -> Result<()> {
        self.simple(id, "start").await
    }

    async fn exec(&self, id: &Id, request: Exec<'_>) -> Result<Started> {
        let process = TempFile::with(&self.config.work, "process", request.process)?;
        let mut call = self.call("exec")?;
        call.option("--process", process.path())
            .arg("--detach")
            .option("--pid-file", request.pid_file)
            .stdio(request.stdio)
            .arg(&**id);
        match self.start_process(call, request.pid_file).await {
            Ok(started) => Ok(started),
            Err(error) => Err(self.explain(id, "exec", error).await),
        }
    }

    async fn kill(&self, id: &Id, signal: u32, all: bool) -> Result<()> {
        let mut call = self.call("kill")?;
        call.flag("--all", all).arg(&**id).arg(signal.to_string());
        match call.run(&self.reaper).await {
            Ok(_) => Ok(()),
            Err(error) => Err(self.explain(id, "kill", error).await),
        }
    }

    async fn delete(&self, id: &Id, force: bool) -> Result<()> {
        if force {
            // The root of a container that runc was about to restore: it would remove
            // what is in it with its own folder.
            let criu_root = self.config.root.join(id).join("criu-root");
            let unmounted = tokio::task::spawn_blocking(move || unmount_all(&criu_root)).await;
            unmounted.map_err(|e| Error::caused(ErrorKind::Internal, "unmount", e))??;
        }
        let mut call = self.call("delete")?;
        call.flag("--force", force);
        match self.run(id, call, "delete").await {
            // Such as a runtime that was never there.
            Err(_) if force && !self.knows(id) => Ok(()),
            result => result.map(drop),
        }
    }

    async fn pause(&self, id: &Id) -> Result<()> {
        // runc gives a v1 freezer a quarter of a second, thaws, and fails
        // (`libcontainer/cgroups/fs/freezer.go`): short for a busy machine.
        for _ in 1..PAUSE_TRIES {
            match self.simple(id, "pause").await {
                Err(error) if !error.is_not_found() => {
                    tracing::debug!(error = %error.report(), "pause again");
                }
                paused => return paused,
            }
        }
        self.simple(id, "pause").await
    }

    async fn resume(&self, id: &Id) -> Result<()> {
        self.simple(id, "resume").await
    }

    async fn update(&self, id: &Id, resources: &[u8]) -> Result<()> {
        let file = TempFile::with(&self.config.work, "resources", resources)?;
        let mut call = self.call("update")?;
        call.option("--resources", file.path());
        self.run(id, call, "update").await.map(drop)
    }

    async fn can_checkpoint(&self) -> Result<()> {
        criu::check(&self.reaper, &self.config.work).await
    }

    async fn checkpoint(&self, id: &Id, request: &Checkpoint) -> Result<()> {
        self.can_checkpoint().await?;
        let mut call = self.call("checkpoint")?;
        call.option("--image-path", &request.image_path);
        if let Some(work_path) = &request.work_path {
            criu::forget(work_path, criu::DUMP_LOG)?;
            call.option("--work-path", work_path);
        }
        if let Some(parent_path) = &request.parent_path {
            call.option("--parent-path", parent_path);
        }
        let allowed = Allowed::from(request);
        allow(call.flag("--leave-running", !request.exit), &allowed);
        // While there is something that can still be kept as it is.
        let before = allowed.write(&request.image_path)?;
        if let Err(error) = self.run(id, call, "checkpoint").await {
            // CRIU ends what it has written at last, and the runtime may fail after that.
            let init = read_pid(&self.config.work.join(INIT_PID_FILE));
            if init.is_ok_and(|pid| !is_exiting(pid)) {
                let back = before.put_back();
                back.unwrap_or_else(|e| tracing::warn!(container = %id, "{}", e.report()));
            }
            return Err(told(error, request.work_path.as_deref(), criu::DUMP_LOG));
        }
        Ok(())
    }

    async fn restore(&self, id: &Id, request: Restore<'_>) -> Result<Started> {
        let allowed = Allowed::read(request.image_path)?;
        let mut call = self.call("restore")?;
        call.option("--bundle", request.bundle).option("--image-path", request.image_path);
        if let Some(work_path) = request.work_path {
            criu::forget(work_path, criu::RESTORE_LOG)?;
            call.option("--work-path", work_path);
        }
        allow(&mut call, &allowed);
        // Without --no-subreaper runc would adopt what is ours to reap. crun never
        // does, and does not know the flag.
        call.arg("--detach")
            .flag("--no-subreaper", !self.is_crun().await?)
            .flag("--no-pivot", request.no_pivot_root)
            .give_up(request.give_up)
            .stdio(request.stdio);
        let made = self.make(id, call).await;
        made.map_err(|error| told(error, request.work_path, criu::RESTORE_LOG))
    }

    async fn ps(&self, id: &Id) -> Result<Vec<u32>> {
        let mut call = self.call("ps")?;
        call.capture().option("--format", "json");
        let output = self.run(id, call, "ps").await?;
        // runc prints "null" for a container without processes.
        let pids: Option<Vec<u32>> = serde_json::from_slice(&output)
            .map_err(std::io::Error::from)
            .context_as(ErrorKind::DataLoss, "read process list of container", id)?;
        Ok(pids.unwrap_or_default())
    }

    async fn state(&self, id: &Id) -> Result<ContainerState> {
        match self.query_state(id).await {
            Err(error) if error.kind() == ErrorKind::Unknown && !self.knows(id) => {
                Err(error.with_kind(ErrorKind::NotFound))
            }
            result => result,
        }
    }

    async fn features(&self) -> Result<Vec<u8>> {
        let mut call = self.call("features")?;
        call.capture();
        match call.run(&self.reaper).await {
            Err(error) if error.kind() == ErrorKind::Unknown => {
                Err(error.with_kind(ErrorKind::Unimplemented))
            }
            result => result,
        }
    }
}
