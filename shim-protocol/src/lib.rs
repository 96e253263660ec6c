//! What a container daemon and its shims agree on: the messages and services
//! on the shim's socket, topics of events, checked identifiers, kinds of
//! errors with their ttrpc codes, and notes and exit records in a bundle.
//!
//! Both `runtime-v2` (the daemon's side) and `shim` build on this crate. It
//! knows nothing of gRPC, of images or of OCI runtimes, and does no I/O but
//! that of [`exits`], [`images`], [`note`] and [`sockets`].

#[cfg(feature = "ttrpc")]
pub mod any;
pub mod error;
#[cfg(feature = "ttrpc")]
pub mod event;
pub mod exits;
pub mod id;
pub mod images;
pub mod note;
#[cfg(feature = "ttrpc")]
pub mod rpc;
pub mod sockets;

pub use error::{Context, Error, ErrorKind, Result};
pub use id::Id;

/// Messages and services made from `proto/`, one module per file.
///
/// A file `x.proto` becomes `x` (messages) and, if it has a service, `x_ttrpc`.
/// `task_v3` has no messages of its own: version 3 differs from version 2 only
/// in the service's name.
#[cfg(feature = "ttrpc")]
#[allow(missing_docs, unreachable_pub, rustdoc::all, clippy::all, clippy::unwrap_used)]
pub mod proto {
    include!(concat!(env!("OUT_DIR"), "/modules.rs"));
}
