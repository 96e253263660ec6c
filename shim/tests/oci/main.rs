//! The embedded runtime as a command line: what a configuration asks for is
//! what the container's processes see.
#![allow(clippy::unwrap_used)] // A test may panic, and so may its helpers.

mod confinement;
mod harness;
mod hooks;
mod limits;
mod lives;
mod mounts;
mod namespaces;
mod refusals;
mod seccomp;
mod terminal;
