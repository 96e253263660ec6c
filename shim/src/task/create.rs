//! Making a container, step by step, each step undone when a later one fails.

use std::{path::PathBuf, sync::Arc};

use containerd_mounts::{Mount, mount_all, unmount_all};
use shim_protocol::{Id, Result};
use tracing::warn;

use super::{Container, Context, blocking, lifecycle::Lifecycle};
use crate::{
    bundle::Bundle,
    cgroup::Cgroup,
    io::Stdio,
    options::RuntimeOptions,
    runtime::{self, Started},
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
    /// `InvalidArgument` for a broken bundle or bad streams; `Unimplemented` or
    /// `FailedPrecondition` when it cannot be restored from a checkpoint; else
    /// those of mounts and of the OCI runtime.
    pub async fn create(context: Arc<Context>, request: Create) -> Result<Arc<Self>> {
        let bundle = Bundle::new(&request.bundle);
        let spec = bundle.spec()?;
        bundle.write_options(&request.options)?;
        let container = Arc::new(Self::new(context, &request, &spec));
        if container.restore.is_some() {
            // What the start could not do is told before anything is done.
            container.runtime.can_checkpoint().await?;
        }
        mount_rootfs(container.rootfs.clone(), &request.rootfs).await?;
        let made = match &container.restore {
            Some(_) => Ok(None),
            None => container.make_init().await.map(Some),
        };
        let init = match made {
            Ok(init) => init,
            Err(error) => {
                let undone = unmount_rootfs(container.rootfs.clone()).await;
                undone.unwrap_or_else(|e| warn!("{}", e.report()));
                return Err(error);
            }
        };
        container.publish_create(&request);
        if let Some(Started { pid, exit }) = init {
            container.found_init(pid);
            container.supervise(None, pid, exit);
        }
        Ok(container)
    }

    /// Opens init's streams and lets the OCI runtime make it.
    async fn make_init(&self) -> Result<Started> {
        let (io, stdio) = self.open_streams(&self.id, &self.stdio).await?;
        let request = runtime::Create {
            bundle: self.bundle.path(),
            stdio,
            no_pivot_root: self.options.no_pivot_root,
            no_new_keyring: self.options.no_new_keyring,
        };
        let created = self.runtime.create(&self.id, request).await;
        let init = self.attach(None, io, created).await?;
        *self.life() = Lifecycle::new(Some(init.pid));
        Ok(init)
    }

    /// To be called once init exists: finds its cgroup, and watches it for
    /// out-of-memory kills.
    pub(super) fn found_init(self: &Arc<Self>, pid: u32) {
        let watcher = Cgroup::of_pid(pid).and_then(|cgroup| {
            let watcher = cgroup.oom_watcher();
            self.set_cgroup(cgroup);
            watcher
        });
        let watcher = match watcher {
            Ok(watcher) => Arc::new(watcher),
            Err(e) => return warn!("no notice of want of memory in {}: {}", self.id, e.report()),
        };
        *self.oom() = Some(Arc::clone(&watcher));
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

async fn mount_rootfs(rootfs: Option<PathBuf>, mounts: &[Mount]) -> Result<()> {
    let Some(rootfs) = rootfs else { return Ok(()) };
    let mounts = mounts.to_vec();
    blocking(move || mount_all(&mounts, &rootfs)).await
}

/// Unmounts what [`mount_rootfs`] has mounted.
pub(super) async fn unmount_rootfs(rootfs: Option<PathBuf>) -> Result<()> {
    match rootfs {
        Some(rootfs) => blocking(move || unmount_all(&rootfs)).await,
        None => Ok(()),
    }
}
