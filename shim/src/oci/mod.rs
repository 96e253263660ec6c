//! An OCI runtime: makes containers and handles them, with no process of its
//! own but the container's.
//!
//! What happens inside a new process between its birth and the user's program
//! is libcontainer's, youki's library. Around it, this module does what decides
//! about cost and safety: control groups, namespaces that exist or are entered
//! before that, system call filters, capabilities, and what is kept on disk.
//!
//! All of it is synchronous. What makes processes ([`create`], [`exec`], and
//! what runs hooks) needs a process with a single thread and no async runtime;
//! the rest works anywhere.

pub(crate) mod cgroup;
mod create;
mod cwd;
mod delete;
mod exec;
mod executor;
mod hooks;
mod idle;
mod init;
mod listener;
mod mounts;
mod process;
mod record;
mod seccomp;
mod spec;
mod steer;
mod streams;

pub(crate) use create::{Create, create};
pub(crate) use delete::delete;
pub(crate) use exec::{Exec, exec};
pub(crate) use record::{Record, Store};
pub(crate) use steer::{kill, pause, ps, resume, start, state, update};
pub(crate) use streams::Streams;

/// How to have what this runtime cannot do.
pub(crate) const REMEDY: &str =
    "not possible with the embedded runtime; name another one (--runc-binary runc)";
