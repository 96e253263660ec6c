//! One container: what it is made of, and how its parts are reached.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use shim_protocol::{Error, Id, Result};
use tokio_util::sync::CancellationToken;

use super::{
    Context, ExecSpec,
    lifecycle::{Announcement, Lifecycle},
};
use crate::{
    bundle::Bundle,
    cgroup::Cgroup,
    io::{Owner, ProcessIo, Stdio},
    options::RuntimeOptions,
    runtime::{ChildStdio, Runtime},
};

/// A container and its processes.
///
/// No lock in here is held across an await: each guards one map or the
/// lifecycle for as long as it takes to look or to change.
pub struct Container {
    pub(super) id: Id,
    pub(super) bundle: Bundle,
    pub(super) options: RuntimeOptions,
    pub(super) runtime: Arc<dyn Runtime>,
    pub(super) context: Arc<Context>,
    /// Streams of init.
    pub(super) stdio: Stdio,
    /// What this shim mounted, and so has to unmount.
    pub(super) rootfs: Option<PathBuf>,
    /// The kernel ends all processes with init.
    pub(super) own_pid_namespace: bool,
    /// The checkpoint that the container is restored from when it is started.
    pub(super) restore: Option<PathBuf>,
    /// Known once init exists.
    pub(super) cgroup: Mutex<Option<Cgroup>>,
    /// Ends the watch for out-of-memory kills.
    pub(super) unwatch: CancellationToken,
    life: Mutex<Lifecycle>,
    execs: Mutex<BTreeMap<Id, Arc<ExecSpec>>>,
    streams: Mutex<BTreeMap<Option<Id>, Arc<ProcessIo>>>,
}

/// What [`Container::new`] takes.
pub(super) struct Parts {
    pub(super) id: Id,
    pub(super) bundle: Bundle,
    pub(super) options: RuntimeOptions,
    pub(super) runtime: Arc<dyn Runtime>,
    pub(super) context: Arc<Context>,
    pub(super) stdio: Stdio,
    pub(super) rootfs: Option<PathBuf>,
    pub(super) own_pid_namespace: bool,
    pub(super) restore: Option<PathBuf>,
}

impl Container {
    /// Puts a container together; `init` is its pid and streams, unless it is
    /// to be restored later.
    pub(super) fn new(parts: Parts, init: Option<(u32, ProcessIo)>) -> Self {
        let pid = init.as_ref().map(|(pid, _)| *pid);
        let streams = init.map(|(_, io)| (None, Arc::new(io)));
        Self {
            id: parts.id,
            bundle: parts.bundle,
            options: parts.options,
            runtime: parts.runtime,
            context: parts.context,
            stdio: parts.stdio,
            rootfs: parts.rootfs,
            own_pid_namespace: parts.own_pid_namespace,
            restore: parts.restore,
            cgroup: Mutex::default(),
            unwatch: CancellationToken::new(),
            life: Mutex::new(Lifecycle::new(pid)),
            execs: Mutex::default(),
            streams: Mutex::new(streams.into_iter().collect()),
        }
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

    /// Opens the streams of a process of this container.
    pub(super) async fn open_streams(
        context: &Context,
        bundle: &Bundle,
        options: &RuntimeOptions,
        id: &Id,
        stdio: &Stdio,
    ) -> Result<(ProcessIo, ChildStdio)> {
        let owner = Owner {
            namespace: &context.namespace,
            id,
            dir: bundle.path(),
            uid: options.io_uid,
            gid: options.io_gid,
        };
        ProcessIo::open(stdio, &owner, &context.reaper).await
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
