//! One small process per container, or per group of containers: it creates
//! the container through an OCI runtime, keeps its streams, notices its end,
//! and outlives the daemon.
//!
//! Downwards it speaks to the OCI runtime, upwards it serves the ttrpc task
//! service and delivers events. It knows nothing of images, snapshots or the
//! daemon's database: rootfs comes as a list of mounts, everything else as a
//! bundle.
//!
//! Everything runs on one thread; work that may block gets a short-lived one.

pub mod bootstrap;
pub mod bundle;
pub mod cgroup;
pub mod cli;
pub mod events;
pub mod io;
mod kernel;
pub mod log;
mod oci;
pub mod options;
pub mod reaper;
pub mod runtime;
pub mod service;
pub mod socket;
mod sys;
pub mod task;
#[cfg(test)]
mod testing;
