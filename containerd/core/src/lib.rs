//! The daemon's domain: namespaces, containers, leases, events and tasks, in
//! plain types.
//!
//! `containerd/server` turns gRPC requests into calls of this crate, and this
//! crate drives shims through `runtime-v2`. Records live in one database
//! ([`metadata`]), where a change is durable before its caller gets an answer.
//!
//! What it deliberately does not know: gRPC, ttrpc and their messages (none is
//! in any signature), configuration files, sockets, and how a shim is found or
//! started.

pub mod announce;
pub mod check;
mod claims;
pub mod containers;
pub mod content;
pub mod diff;
pub mod events;
pub mod fault;
pub mod filter;
pub mod gc;
pub mod images;
mod labels;
pub mod leases;
pub mod legacy;
pub mod metadata;
pub mod namespaces;
pub mod restart;
pub mod sandboxes;
pub mod snapshots;
pub mod tasks;
pub mod telemetry;
#[cfg(test)]
mod testing;
pub mod transfer;

pub use runtime_v2::{Any, Mount};
