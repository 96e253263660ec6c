//! Images apart from where they are stored: their names, descriptors and
//! manifests, the registries and archives that they come from, and the
//! sequences that move them.
//!
//! The daemon and the client library both use this: a daemon moves images for
//! its clients, and a client moves them itself where a daemon does not. What
//! differs is where things are stored, so that is behind the traits of
//! [`store`].
//!
//! What it deliberately does not know: gRPC, the database, snapshotters, and
//! how a layer becomes files.

pub mod adopt;
pub mod archive;
pub mod compression;
pub mod convert;
mod descriptor;
mod digest;
pub mod fetch;
pub mod manifest;
pub mod media_type;
pub mod origin;
mod pipe;
pub mod platform;
pub mod progress;
pub mod pull;
pub mod push;
mod reference;
pub mod registry;
pub mod remote;
pub mod store;
#[cfg(test)]
mod testing;
mod unique;
pub mod unpack;
pub mod walk;

pub use descriptor::{Descriptor, Platform};
pub use digest::{Algorithm, Digest, Hasher};
pub use reference::Reference;
