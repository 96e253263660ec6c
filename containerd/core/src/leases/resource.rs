//! What a lease can hold.

use shim_protocol::{Error, Result};

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
            ["content"] if is_digest(id) => Ok(()),
            ["content"] => Err(Error::invalid(format!("content {id:?} is no digest"))),
            ["images" | "ingests"] => Ok(()),
            ["snapshots", snapshotter] if !snapshotter.is_empty() => Ok(()),
            ["content" | "images" | "ingests" | "snapshots", ..] => {
                Err(Error::invalid(format!("kind of resource {kind:?}")))
            }
            _ => Err(Error::unimplemented(format!("leases that hold {kind:?}"))),
        }
    }
}

/// Whether `text` is a digest of an algorithm that clients use (OCI image
/// specification, "Digests").
fn is_digest(text: &str) -> bool {
    let Some((algorithm, hex)) = text.split_once(':') else { return false };
    let digits = match algorithm {
        "sha256" => 64,
        "sha384" => 96,
        "sha512" => 128,
        _ => return false,
    };
    hex.len() == digits && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}
