//! Keeps containers with restart labels running, or stopped.
//!
//! | label | meaning |
//! | --- | --- |
//! | `containerd.io/restart.status` | `running` or `stopped`: what the task should be; without it the monitor leaves the container alone |
//! | `containerd.io/restart.policy` | `always` (also when absent), `unless-stopped`, `on-failure[:n]`, `no` |
//! | `containerd.io/restart.count` | how often the monitor has started it |
//! | `containerd.io/restart.loguri` | where the output of a restarted task goes |
//! | `containerd.io/restart.explicitly-stopped` | `true`: a person stopped it |
//!
//! Labels and their meaning are containerd's (`core/runtime/restart`). Other
//! than there, an exit is acted upon at once, a container that ends again and
//! again is given time before its next start, and one that is being made by a
//! client is not interfered with.

mod backoff;
mod monitor;
mod policy;
mod start;

pub use monitor::{Monitor, MonitorConfig};

/// Label: what the task should be.
pub const STATUS_LABEL: &str = "containerd.io/restart.status";
/// Label: when to start it again.
pub const POLICY_LABEL: &str = "containerd.io/restart.policy";
/// Label: how often it was started.
pub const COUNT_LABEL: &str = "containerd.io/restart.count";
/// Label: where its output goes.
pub const LOG_URI_LABEL: &str = "containerd.io/restart.loguri";
/// Label: a person stopped it.
pub const EXPLICITLY_STOPPED_LABEL: &str = "containerd.io/restart.explicitly-stopped";
