//! Shims as the daemon sees them: bundles, finding and starting shim binaries,
//! talking to them, and cleaning up behind them.
//!
//! The daemon's core builds on this crate. It does not know images, snapshots
//! or the database, and what it must announce goes to an [`EventSink`]. No
//! type of ttrpc or protobuf is in its signatures.

mod address;
mod bundle;
mod cgroups;
mod cleanup;
mod client;
mod command;
mod convert;
mod create;
mod launch;
mod learn;
mod log;
mod manager;
mod mounts;
mod program;
mod recover;
mod registry;
mod strays;
mod supervise;
mod sys;
mod task;
mod types;
mod undo;

pub use manager::Manager;
pub use task::{CheckpointFolder, Task};
pub use types::{
    Any, Checkpoint, CreateTask, Deleted, EventSink, ExecProcess, Exit, Images, ManagerConfig,
    Mount, Process, ProcessInfo, Recovered, RuntimeInfo, Status, Stdio, Timeouts,
};
pub use undo::Undo;
