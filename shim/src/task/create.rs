//! Making a container, step by step, each step undone when a later one fails.

use std::{path::PathBuf, sync::Arc};

use shim_protocol::{Id, Result};
use tracing::warn;

use super::{Container, Context, blocking, container::Parts};
use crate::{
    bundle::Bundle,
    cgroup::Cgroup,
    io::{ProcessIo, Stdio},
    mount::{self, Mount},
    options::RuntimeOptions,
    reaper::ExitFuture,
    runtime,
};

/// A container to be created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Create {
    /// Its id.
    pub id: Id,
    /// Folder with its `config.json`.
    pub bundle: PathBuf,
    /// Mounted on the bundle's `rootfs`, in this order.
    pub rootfs: Vec<Mount>,
    /// Streams of init.
    pub stdio: Stdio,
    /// Folder of a checkpoint to restore it from when it is started.
    pub restore: Option<PathBuf>,
    /// How to use the OCI runtime.
    pub options: RuntimeOptions,
}

impl Container {
    /// Mounts the root filesystem and lets the OCI runtime make the container
    /// up to the point before the user's program runs. When a step fails, those
    /// before it are undone.
    ///
    /// # Errors
    /// `InvalidArgument` for a broken bundle or bad streams; else those of
    /// mounts and of the OCI runtime.
    pub async fn create(context: Arc<Context>, request: Create) -> Result<Arc<Self>> {
        let bundle = Bundle::new(&request.bundle);
        let spec = bundle.spec()?;
        bundle.write_options(&request.options)?;
        let rootfs = mount_rootfs(&bundle, &request.rootfs).await?;
        let parts = Parts {
            runtime: (context.runtimes)(&bundle, &request.options),
            id: request.id.clone(),
            bundle,
            options: request.options.clone(),
            context,
            stdio: request.stdio.clone(),
            rootfs: rootfs.clone(),
            own_pid_namespace: spec.has_own_pid_namespace(),
            restore: request.restore.clone(),
        };
        let init = match &parts.restore {
            Some(_) => None,
            None => match make_init(&parts).await {
                Ok(init) => Some(init),
                Err(error) => {
                    unmount_rootfs(rootfs).await.unwrap_or_else(|e| warn!("{}", e.report()));
                    return Err(error);
                }
            },
        };
        let (init, exit) = match init {
            Some((pid, io, exit)) => (Some((pid, io)), Some((pid, exit))),
            None => (None, None),
        };
        let container = Arc::new(Self::new(parts, init));
        container.publish_create(&request);
        if let Some((pid, exit)) = exit {
            container.found_init(pid);
            container.supervise(None, pid, exit);
        }
        Ok(container)
    }

    /// To be called once init exists: finds its cgroup, and watches it for
    /// out-of-memory kills.
    pub(super) fn found_init(self: &Arc<Self>, pid: u32) {
        let watcher = Cgroup::of_pid(pid).and_then(|cgroup| {
            let watcher = cgroup.oom_watcher();
            self.set_cgroup(cgroup);
            watcher
        });
        let mut watcher = match watcher {
            Ok(watcher) => watcher,
            Err(e) => return warn!("no notice of want of memory in {}: {}", self.id, e.report()),
        };
        let container = Arc::clone(self);
        self.context.background.spawn(async move {
            let watch = async {
                while watcher.next().await {
                    container.publish_oom();
                }
            };
            container.unwatch.run_until_cancelled(watch).await;
        });
    }
}

/// Opens init's streams and lets the OCI runtime make it.
async fn make_init(parts: &Parts) -> Result<(u32, ProcessIo, ExitFuture)> {
    let Parts { context, bundle, options, id, stdio, runtime, .. } = parts;
    let (io, child) = Container::open_streams(context, bundle, options, id, stdio).await?;
    let request = runtime::Create {
        bundle: bundle.path(),
        stdio: child,
        no_pivot_root: options.no_pivot_root,
        no_new_keyring: options.no_new_keyring,
    };
    let started = match runtime.create(id, request).await {
        Ok(started) => started,
        Err(error) => {
            io.close().await;
            return Err(error);
        }
    };
    if let Err(error) = io.attach_console().await {
        runtime.delete(id, true).await.unwrap_or_else(|e| warn!("{}", e.report()));
        io.close().await;
        return Err(error);
    }
    Ok((started.pid, io, started.exit))
}

async fn mount_rootfs(bundle: &Bundle, mounts: &[Mount]) -> Result<Option<PathBuf>> {
    if mounts.is_empty() {
        return Ok(None);
    }
    let (mounts, rootfs) = (mounts.to_vec(), bundle.rootfs());
    blocking(move || mount::mount_all(&mounts, &rootfs).map(|()| Some(rootfs))).await
}

/// Unmounts what [`mount_rootfs`] has mounted.
pub(super) async fn unmount_rootfs(rootfs: Option<PathBuf>) -> Result<()> {
    match rootfs {
        Some(rootfs) => blocking(move || mount::unmount_all(&rootfs)).await,
        None => Ok(()),
    }
}
