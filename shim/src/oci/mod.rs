//! An OCI runtime: makes containers and handles them, with no process of its
//! own but the container's.
//!
//! The way of a process from its birth to the user's program, the order of its
//! steps and its tree of files are this module's, as are control groups, system
//! call filters and what is kept on disk: they decide about cost and safety.
//! What is the same in every runtime comes from libcontainer, youki's library:
//! hooks, capabilities, AppArmor, memory policies, checks of a configuration.
//!
//! All of it is synchronous. What makes processes ([`create`], [`exec`], and
//! what runs hooks) needs a process with a single thread and no async runtime;
//! the rest works anywhere.

mod capabilities;
pub(crate) mod cgroup;
mod create;
mod cwd;
mod delete;
mod exec;
mod executed;
mod hooks;
mod idle;
mod init;
mod inside;
mod line;
mod listener;
mod prepared;
mod process;
mod program;
mod record;
mod rootfs;
mod scheduling;
mod seccomp;
mod spec;
mod steer;
mod streams;
mod terminal;

pub(crate) use create::{Create, create};
pub(crate) use delete::{delete, delete_read};
pub(crate) use exec::{Exec, exec};
pub(crate) use prepared::Prepared;
pub(crate) use record::{Record, Store};
pub(crate) use steer::{kill, pause, ps, resume, start, start_read, state, update};
pub(crate) use streams::Streams;

/// How to have what this runtime cannot do.
pub(crate) const REMEDY: &str =
    "not possible with the embedded runtime; name another one (--runc-binary runc)";

/// A system error in the kernel's words alone, in lower case as Go has them.
fn words(error: &std::io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => nix::errno::Errno::from_raw(number).desc().to_lowercase(),
        None => error.to_string(),
    }
}
