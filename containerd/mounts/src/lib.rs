//! Mounts as snapshotters describe them: made, undone and listed.
//!
//! The shim mounts the root filesystem of its container, the daemon the
//! snapshots that it compares, and a client what it wants to look at. All of
//! them do it here. All of it blocks, by milliseconds as a rule.
//!
//! What it deliberately does not know: where mounts come from.

pub mod attributes;
pub mod mountinfo;
pub mod tree;

mod idmap;
mod mount;
mod options;
mod overlay;
mod private;
mod sealed;
mod sys;
#[cfg(test)]
mod tests;

pub use mount::{Mount, mount_all, unmount_all};
pub use private::with_mounted;
pub use sealed::sealed;
pub use sys::user_namespace;
