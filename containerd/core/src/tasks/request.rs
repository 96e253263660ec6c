//! What can be asked of [`Tasks`](super::Tasks), and what it answers where
//! `runtime-v2` has no word for it.

use std::{borrow::Cow, fmt, time::SystemTime};

use runtime_v2::{Any, Mount, Stdio, Task};
use shim_protocol::Id;

use crate::{filter::Adaptor, images::Descriptor};

/// One process of a task: init, or one that was added by exec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Namespace of the container.
    pub namespace: Id,
    /// The container.
    pub container: Id,
    /// The exec; none is init. What is asked of a whole task ignores it.
    pub exec: Option<Id>,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "task {:?}", self.container)?;
        self.exec.as_ref().map_or(Ok(()), |exec| write!(f, " exec {exec:?}"))
    }
}

/// A task to be made for a container.
#[derive(Clone, Debug)]
pub struct Create {
    /// Namespace of the container.
    pub namespace: Id,
    /// The container.
    pub container: Id,
    /// What the shim mounts as the container's root.
    pub rootfs: Vec<Mount>,
    /// Standard streams of init.
    pub stdio: Stdio,
    /// Runtime options; none: those of the container.
    pub options: Option<Any>,
    /// Absolute path of the shim; empty: what the container names.
    pub runtime_path: String,
    /// The checkpoint in the content store that it goes on from.
    pub checkpoint: Option<Descriptor>,
    /// Task API that is already served somewhere; empty: start a shim.
    pub task_api_address: String,
}

/// What a task uses.
#[derive(Clone, Debug, PartialEq)]
pub struct Metric {
    /// The container.
    pub container: Id,
    /// When the shim was asked.
    pub at: SystemTime,
    /// `io.containerd.cgroups.v1.Metrics`, `…v2.Metrics`, or what the shim has.
    pub data: Any,
}

/// What filters on metrics can look into: `id` and `namespace` (containerd,
/// `plugins/services/tasks/local.go`).
pub(super) struct TaskFields<'a>(pub &'a Task);

impl Adaptor for TaskFields<'_> {
    fn field(&self, path: &[String]) -> Option<Cow<'_, str>> {
        match path.first()?.as_str() {
            "id" => Some(Cow::Borrowed(self.0.id().as_str())),
            "namespace" => Some(Cow::Borrowed(self.0.namespace().as_str())),
            _ => None,
        }
    }
}
