//! What content is called while it is written.

use std::path::{Path, PathBuf};

use shim_protocol::{Error, Id, Result};

use super::{Algorithm, Digest};

/// The longest reference, in bytes. Any list of ingests reads them all.
const MAX_REF_BYTES: usize = 4 << 10;

/// A reference as a client of a namespace knows it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Ref {
    pub(super) namespace: Id,
    pub(super) name: String,
}

impl Ref {
    /// A reference that may be written to.
    ///
    /// # Errors
    /// `InvalidArgument` when there is none, it is too long, or has a NUL byte.
    pub(super) fn new(namespace: Id, name: String) -> Result<Self> {
        match name.len() {
            0 => Err(Error::invalid("content is written to a reference, which is missing")),
            length if length > MAX_REF_BYTES => Err(Error::invalid(format!(
                "reference has {length} bytes, {MAX_REF_BYTES} are allowed"
            ))),
            _ if name.contains('\0') => {
                Err(Error::invalid(format!("NUL byte in the reference {name:?}")))
            }
            _ => Ok(Self { namespace, name }),
        }
    }

    /// Its name among those of all namespaces. The number in it is containerd's,
    /// where it is always one (`createKey` in `core/metadata/snapshot.go`).
    pub(super) fn full(&self) -> String {
        format!("{}/1/{}", self.namespace, self.name)
    }

    /// The reference of such a name.
    pub(super) fn parse(full: &str) -> Option<Self> {
        let mut parts = full.splitn(3, '/');
        let namespace = Id::new("namespace", parts.next()?).ok()?;
        parts.next()?.parse::<u64>().ok()?;
        Some(Self { namespace, name: parts.next()?.to_owned() })
    }

    /// The folder of its ingest below `ingests`.
    pub(super) fn folder(&self, ingests: &Path) -> PathBuf {
        ingests.join(Digest::of(Algorithm::Sha256, self.full().as_bytes()).hex())
    }
}
