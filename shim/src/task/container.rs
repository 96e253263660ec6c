//! One container: what it is made of, and how its parts are reached.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use shim_protocol::{Error, ErrorKind, Id, Result};
use tokio::sync::Mutex as AsyncMutex;
use tokio_util::sync::CancellationToken;

use super::{
    Context, Create, ExecSpec,
    lifecycle::{Announcement, Lifecycle},
};
use crate::{
    bundle::{Bundle, Spec},
    cgroup::{Cgroup, OomWatcher},
    io::{Owner, ProcessIo, Stdio},
    options::RuntimeOptions,
    runtime::{ChildStdio, Runtime},
};

/// How long a call of the OCI runtime may go on once init has ended.
pub(super) const RUNTIME_GRACE: Duration = Duration::from_secs(10);

/// A container and its processes.
///
/// But for `steering`, no lock in here is held across an await: each guards one
/// map or the lifecycle for as long as it takes to look or to change.
pub struct Container {
    pub(super) id: Id,
    pub(super) bundle: Bundle,
    pub(super) options: RuntimeOptions,
    pub(super) runtime: Arc<dyn Runtime>,
    pub(super) context: Arc<Context>,
    /// Streams of init.
    pub(super) stdio: Stdio,
    /// What this shim mounts, and so has to unmount.
    pub(super) rootfs: Option<PathBuf>,
    /// The kernel ends all processes with init.
    pub(super) own_pid_namespace: bool,
    /// The checkpoint that the container is restored from when it is started.
    pub(super) restore: Option<PathBuf>,
    /// Its latest restore, under way or not.
    restoring: Mutex<Restoring>,
    /// Known once init exists.
    pub(super) cgroup: Mutex<Option<Cgroup>>,
    /// Notice of out-of-memory kills, once init exists.
    oom: Mutex<Option<Arc<OomWatcher>>>,
    /// Init was reaped, whether that is announced or not.
    pub(super) init_gone: CancellationToken,
    /// Ends the watch for out-of-memory kills.
    pub(super) unwatch: CancellationToken,
    /// Held by what must not overlap: freezing, thawing, other limits, and
    /// checkpoints, which freeze and thaw too.
    pub(super) steering: AsyncMutex<()>,
    life: Mutex<Lifecycle>,
    execs: Mutex<BTreeMap<Id, Arc<ExecSpec>>>,
    streams: Mutex<BTreeMap<Option<Id>, Arc<ProcessIo>>>,
}

/// How a restore is given up, and its end waited for.
#[derive(Clone, Debug, Default)]
pub(super) struct Restoring {
    pub(super) give_up: CancellationToken,
    pub(super) ended: CancellationToken,
}

impl Container {
    /// A container without init. What `rootfs` names is still to be mounted.
    pub(super) fn new(context: Arc<Context>, request: &Create, spec: &Spec) -> Self {
        let bundle = Bundle::new(&request.bundle);
        let rootfs = (!request.rootfs.is_empty()).then(|| bundle.rootfs());
        Self {
            id: request.id.clone(),
            options: request.options.clone(),
            runtime: (context.runtimes)(&bundle, &request.options),
            bundle,
            context,
            stdio: request.stdio.clone(),
            rootfs,
            own_pid_namespace: spec.has_own_pid_namespace(),
            restore: request.restore.clone(),
            restoring: Mutex::default(),
            cgroup: Mutex::default(),
            oom: Mutex::default(),
            init_gone: CancellationToken::new(),
            unwatch: CancellationToken::new(),
            steering: AsyncMutex::default(),
            life: Mutex::new(Lifecycle::new(None)),
            execs: Mutex::default(),
            streams: Mutex::default(),
        }
    }

    /// Waits for a call of the OCI runtime. Nothing can come of one that still
    /// goes on a while after init's end, which may be kept back because of it:
    /// it is given up then.
    ///
    /// # Errors
    /// Those of the call; `DeadlineExceeded` when it was given up.
    pub(super) async fn unless_gone<T>(&self, call: impl Future<Output = Result<T>>) -> Result<T> {
        let given_up = async {
            self.init_gone.cancelled().await;
            tokio::time::sleep(RUNTIME_GRACE).await;
        };
        tokio::select! {
            biased;
            result = call => result,
            () = given_up => Err(Error::new(
                ErrorKind::DeadlineExceeded,
                "init has ended, and the OCI runtime has not",
            )),
        }
    }

    pub(super) fn restoring(&self) -> MutexGuard<'_, Restoring> {
        self.restoring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn oom(&self) -> MutexGuard<'_, Option<Arc<OomWatcher>>> {
        self.oom.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the lifecycle, or takes a step that announces nothing.
    pub(super) fn life(&self) -> MutexGuard<'_, Lifecycle> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a step and publishes what comes of it. Both happen under the
    /// lifecycle's lock, so events are queued in the order of the steps.
    pub(super) fn announce(&self, step: impl FnOnce(&mut Lifecycle) -> Vec<Announcement>) {
        let mut life = self.life();
        for announcement in step(&mut life) {
            self.publish(announcement);
        }
    }

    /// As [`Container::announce`], with a step that may be refused.
    pub(super) fn try_announce(
        &self,
        step: impl FnOnce(&mut Lifecycle) -> Result<Vec<Announcement>>,
    ) -> Result<()> {
        let mut life = self.life();
        for announcement in step(&mut life)? {
            self.publish(announcement);
        }
        Ok(())
    }

    /// The description of an exec.
    pub(super) fn exec_spec(&self, id: &Id) -> Result<Arc<ExecSpec>> {
        self.execs().get(id).cloned().ok_or_else(|| Error::not_found(format!("exec {id}")))
    }

    pub(super) fn execs(&self) -> MutexGuard<'_, BTreeMap<Id, Arc<ExecSpec>>> {
        self.execs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens the streams of a process; `id` is its exec's or the container's.
    pub(super) async fn open_streams(
        &self,
        id: &Id,
        stdio: &Stdio,
    ) -> Result<(ProcessIo, ChildStdio)> {
        let owner = Owner {
            namespace: &self.context.namespace,
            id,
            dir: self.bundle.path(),
            uid: self.options.io_uid,
            gid: self.options.io_gid,
        };
        ProcessIo::open(stdio, &owner, &self.context.reaper).await
    }

    /// The streams of a process that was started.
    pub(super) fn streams(&self, exec: Option<&Id>) -> Option<Arc<ProcessIo>> {
        self.lock_streams().get(&exec.cloned()).cloned()
    }

    pub(super) fn keep_streams(&self, exec: Option<&Id>, io: ProcessIo) {
        self.lock_streams().insert(exec.cloned(), Arc::new(io));
    }

    /// Ends the streams of a process and waits for them.
    pub(super) async fn close_streams(&self, exec: Option<&Id>) {
        let io = self.lock_streams().remove(&exec.cloned());
        // Somebody who resizes right now drops the last reference instead.
        if let Some(io) = io.and_then(Arc::into_inner) {
            io.close().await;
        }
    }

    fn lock_streams(&self) -> MutexGuard<'_, BTreeMap<Option<Id>, Arc<ProcessIo>>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
