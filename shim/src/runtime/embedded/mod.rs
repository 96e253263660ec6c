//! The runtime inside this program: the `oci` module, from a serving shim.
//!
//! What makes processes is asked of a helper, a process of this program with
//! one thread that ends when it has answered. The first one waits while the shim
//! begins to serve: it was forked before the shim had anything that a fork must
//! not have. Later ones are forked as well, unless the shim has threads then. If
//! the shim's program is within reach of containers, all are executed, from
//! where it is not. So while a container runs there is nothing of it in memory.
//! The rest is files, and done here, on a thread where it may take its time.

use std::{
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use shim_protocol::{Error, ErrorKind, Id, Result, note};
use tokio::sync::RwLock;

use super::{Checkpoint, ChildStdio, ContainerState, Create, Exec, Restore, Runtime, Started};
use crate::{
    oci::{self, Store},
    reaper::Reaper,
    sys::{process, wait},
};

mod features;
pub mod helper;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod wire;

pub(crate) use features::json as features;
use helper::{Forked, Helper};
use wire::{Request, Work};

/// Where the pid of a container's first process is kept in its bundle
/// (containerd's `InitPidFile`).
const INIT_PID_FILE: &str = super::binary::INIT_PID_FILE;

/// What the containers of a shim share: who waits for helpers, and the first of
/// them.
pub struct Helpers {
    reaper: Arc<Reaper>,
    first: Mutex<Option<Helper>>,
    /// What later ones execute, if not this program.
    program: Option<PathBuf>,
}

impl Helpers {
    /// `forked` is the first helper, if one could be forked before there was a
    /// runtime.
    pub fn new(reaper: Arc<Reaper>, forked: Option<Forked>) -> Self {
        let first = forked.and_then(|forked| Helper::adopt(forked, &reaper));
        Self { reaper, first: Mutex::new(first), program: None }
    }

    /// Has the first helper wait, so that the first container does not.
    pub fn prepare(&self) {
        let mut first = self.lock();
        if first.is_none() {
            match Helper::new(self.program.as_deref(), &self.reaper) {
                Ok(helper) => *first = Some(helper),
                // It is tried again when one is needed, and said to whom it concerns.
                Err(error) => tracing::warn!("no helper yet: {}", error.report()),
            }
        }
    }

    /// Lets the first helper go, if nobody has used it.
    pub fn dismiss(&self) {
        drop(self.lock().take());
    }

    fn lock(&self) -> MutexGuard<'_, Option<Helper>> {
        self.first.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self) -> Result<Helper> {
        match self.lock().take() {
            Some(helper) => Ok(helper),
            None => Helper::new(self.program.as_deref(), &self.reaper),
        }
    }
}

/// Makes and handles containers without another program.
pub struct EmbeddedRuntime {
    store: Store,
    root: PathBuf,
    bundle: PathBuf,
    helpers: Arc<Helpers>,
    systemd_cgroup: bool,
    /// Whoever changes limits may freeze the container meanwhile, which is no
    /// reason to refuse it another process.
    limits: RwLock<()>,
}

impl EmbeddedRuntime {
    /// Keeps containers below `root`; `bundle` is where the pid of init is
    /// written.
    pub fn new(root: PathBuf, bundle: &Path, helpers: Arc<Helpers>) -> Self {
        let bundle = bundle.to_owned();
        let limits = RwLock::new(());
        Self { store: Store::new(&root), root, bundle, helpers, systemd_cgroup: false, limits }
    }

    /// Has systemd make the control groups of new containers.
    pub fn with_systemd_cgroup(self, systemd_cgroup: bool) -> Self {
        Self { systemd_cgroup, ..self }
    }

    /// Was the container `id` below `root` made by this runtime? `None` when
    /// there is none.
    pub fn made(root: &Path, id: &Id) -> Option<bool> {
        Store::new(root).is_ours(id)
    }

    async fn ask(&self, id: &Id, work: Work, stdio: ChildStdio) -> Result<u32> {
        let (fds, console) = match stdio {
            ChildStdio::Fds { stdin, stdout, stderr } => ([stdin, stdout, stderr], None),
            ChildStdio::Console(socket) => ([None, None, None], Some(socket)),
        };
        let streams = [0, 1, 2].map(|index: usize| fds[index].is_some());
        let fds: Vec<OwnedFd> = fds.into_iter().flatten().collect();
        let root = self.root.clone();
        let request = Request { id: id.to_string(), root, streams, console, work };
        self.helpers.get()?.ask(&request, fds).await
    }

    async fn make(&self, id: &Id, work: Work, stdio: ChildStdio) -> Result<Started> {
        let expectation = self.helpers.reaper.expect();
        let pid = self.ask(id, work, stdio).await?;
        Ok(Started { pid, exit: expectation.watch(pid)? })
    }

    /// Runs what only touches files, and may have to wait.
    async fn files<T: Send + 'static>(
        &self,
        id: &Id,
        work: impl FnOnce(&Store, &Id) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (store, id) = (self.store.clone(), id.clone());
        tokio::task::spawn_blocking(move || work(&store, &id))
            .await
            .map_err(|e| Error::caused(ErrorKind::Internal, "run on a thread", e))?
    }
}

/// Ends a process whose helper was killed before it could say that it is there.
fn end_stray(pid_file: &Path) {
    let pid = std::fs::read_to_string(pid_file).ok().and_then(|text| text.parse().ok());
    // Its pid is nobody else's until it is reaped, and it is ours to reap.
    if let Some(pid) = pid.filter(|pid| wait::is_child(*pid))
        && let Err(error) = process::kill(pid, nix::libc::SIGKILL as u32)
    {
        tracing::warn!(pid, %error, "end a process nobody knows");
    }
}

fn unable(what: &str) -> Error {
    Error::unimplemented(format!("{what}: {}", oci::REMEDY))
}

#[async_trait]
impl Runtime for EmbeddedRuntime {
    async fn create(&self, id: &Id, request: Create<'_>) -> Result<Started> {
        let work = Work::Create {
            bundle: request.bundle.to_owned(),
            pid_file: self.bundle.join(INIT_PID_FILE),
            no_pivot_root: request.no_pivot_root,
            no_new_keyring: request.no_new_keyring,
            systemd_cgroup: self.systemd_cgroup,
        };
        let taken = self.store.is_ours(id).is_some();
        let made = self.make(id, work, request.stdio).await;
        // A helper that was killed has undone nothing.
        if made.is_err()
            && !taken
            && let Err(error) = self.delete(id, true).await
        {
            tracing::error!(container = %id, error = %error.report(), "undo create");
        }
        made
    }

    async fn start(&self, id: &Id) -> Result<()> {
        let record = self.store.read(id)?;
        if record.poststart.is_empty() {
            // A word into a socket: a thread would cost more than it saves.
            return oci::start_read(&self.store, id, &record);
        }
        // Hooks are processes.
        self.ask(id, Work::Start, ChildStdio::NULL).await.map(drop)
    }

    async fn exec(&self, id: &Id, request: Exec<'_>) -> Result<Started> {
        let process = String::from_utf8(request.process.to_vec())
            .map_err(|e| Error::caused(ErrorKind::InvalidArgument, "decode process", e))?;
        let work = Work::Exec { process, pid_file: request.pid_file.to_owned() };
        note::remove(request.pid_file)?;
        let _unchanged = self.limits.read().await;
        let made = self.make(id, work, request.stdio).await;
        if made.is_err() {
            end_stray(request.pid_file);
        }
        made
    }

    async fn kill(&self, id: &Id, signal: u32, all: bool) -> Result<()> {
        self.files(id, move |store, id| oci::kill(store, id, signal, all)).await
    }

    async fn delete(&self, id: &Id, force: bool) -> Result<()> {
        let without_hooks = move |store: &Store, id: &Id| match store.read(id) {
            Ok(record) if !record.poststop.is_empty() => Ok(false),
            record => oci::delete_read(store, id, record, force).map(|()| true),
        };
        if !self.files(id, without_hooks).await? {
            // Hooks are processes.
            self.ask(id, Work::Delete { force }, ChildStdio::NULL).await?;
        }
        Ok(())
    }

    async fn pause(&self, id: &Id) -> Result<()> {
        self.files(id, oci::pause).await
    }

    async fn resume(&self, id: &Id) -> Result<()> {
        self.files(id, oci::resume).await
    }

    async fn update(&self, id: &Id, resources: &[u8]) -> Result<()> {
        let resources = resources.to_vec();
        let _changing = self.limits.write().await;
        self.files(id, move |store, id| oci::update(store, id, &resources)).await
    }

    async fn can_checkpoint(&self) -> Result<()> {
        Err(unable("checkpoint and restore"))
    }

    async fn checkpoint(&self, _: &Id, _: &Checkpoint) -> Result<()> {
        Err(unable("checkpoint"))
    }

    async fn restore(&self, _: &Id, _: Restore<'_>) -> Result<Started> {
        Err(unable("restore"))
    }

    async fn ps(&self, id: &Id) -> Result<Vec<u32>> {
        self.files(id, oci::ps).await
    }

    async fn state(&self, id: &Id) -> Result<ContainerState> {
        let (status, record) = oci::state(&self.store, id)?;
        Ok(ContainerState { status, pid: record.pid })
    }

    async fn features(&self) -> Result<Vec<u8>> {
        features()
    }
}
