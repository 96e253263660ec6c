//! What a lease can hold.

use shim_protocol::{Error, Result};

use crate::content::Digest;

/// An object that a lease holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// The object's name within its kind: a digest, a snapshot's key, ….
    pub id: String,
    /// `content`, `images`, `ingests`, or `snapshots/<snapshotter>`.
    pub kind: String,
}

impl Resource {
    /// # Errors
    /// `InvalidArgument` when the id is empty, no digest although the kind is
    /// `content`, or the kind has more or fewer parts than it must;
    /// `Unimplemented` for other kinds (containerd, `core/metadata/leases.go`).
    pub(super) fn validate(&self) -> Result<()> {
        let Self { id, kind } = self;
        if id.is_empty() {
            return Err(Error::invalid(format!("resource of kind {kind:?} has no id")));
        }
        match kind.split('/').collect::<Vec<_>>()[..] {
            ["content"] => Digest::parse(id).map(drop),
            ["images" | "ingests"] => Ok(()),
            ["snapshots", snapshotter] if !snapshotter.is_empty() => Ok(()),
            ["content" | "images" | "ingests" | "snapshots", ..] => {
                Err(Error::invalid(format!("kind of resource {kind:?}")))
            }
            _ => Err(Error::unimplemented(format!("leases that hold {kind:?}"))),
        }
    }
}
