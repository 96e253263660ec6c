//! Messages and services of containerd's gRPC API, version 1.
//!
//! This crate is the contract between the daemon and its clients and nothing
//! else: all of it but [`to_any`] and [`from_any`] is generated from `.proto`
//! files. Packages, names and field numbers are containerd's, so that its
//! clients can talk to our daemon and ours to theirs.
//!
//! With the feature `serde`, events and metrics can be made into JSON, under the
//! names that they have in the `.proto` files.
//!
//! Messages that shims use as well are described once, in
//! `shim-protocol/proto`. That crate makes types of its own from them: ttrpc
//! has another protobuf library than tonic.

mod any;
#[cfg(feature = "serde")]
pub mod json;
mod methods;

pub use any::{AnyError, from_any, to_any};
pub use methods::{METHODS, Method};

/// Metadata key that says which namespace a request is about.
pub const NAMESPACE_HEADER: &str = "containerd-namespace";

/// Metadata key that says which lease holds what a request creates.
pub const LEASE_HEADER: &str = "containerd-lease";

/// Generated code. References between packages follow the nesting of the
/// packages, so it stays as it is in here; the root has the parts we name.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    clippy::unwrap_used,
    rustdoc::all
)]
mod proto {
    include!(concat!(env!("OUT_DIR"), "/mod.rs"));
}

/// `containerd.events`: what the daemon and its shims publish.
#[doc(inline)]
pub use proto::containerd::events;

/// `containerd.runc`: options and details of runc's shim.
#[doc(inline)]
pub use proto::containerd::runc;

/// `containerd.services`: a client and a server for each service.
#[doc(inline)]
pub use proto::containerd::services;

/// `containerd.types`: what several services share.
#[doc(inline)]
pub use proto::containerd::types;

/// `containerd.v1`: tasks and their processes, in [`v1::types`].
#[doc(inline)]
pub use proto::containerd::v1;

/// `google`: errors as values, in [`google::rpc`].
#[doc(inline)]
pub use proto::google;

/// `grpc`: the health service, in [`grpc::health::v1`].
#[doc(inline)]
pub use proto::grpc;

/// `io.containerd.cgroups`: resource use, for each version of cgroups.
#[doc(inline)]
pub use proto::io::containerd::cgroups;

/// `types`: the API of containerd 0.0.4, messages and service.
#[doc(inline)]
pub use proto::types as legacy;

/// `runtimeoptions`: options of shims with a configuration file.
#[doc(inline)]
pub use proto::runtimeoptions;
