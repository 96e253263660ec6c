//! Where the bytes are: on our disk, or with another process.

use shim_protocol::{Id, Result};

use super::{
    Blob, Digest, Status, blobs::Blobs, ingest, reference::Ref, remote::Remote, store::blocking,
};

#[derive(Clone)]
pub(super) enum Backend {
    Local(Blobs),
    Remote(Remote),
}

impl Backend {
    /// Opens a blob; none if it is not there.
    ///
    /// # Errors
    /// Those of the disk.
    pub(super) async fn get(&self, digest: &Digest) -> Result<Option<Blob>> {
        match self {
            Self::Local(blobs) => {
                let (blobs, digest) = (blobs.clone(), digest.clone());
                blocking(move || blobs.get(&digest)).await
            }
            Self::Remote(remote) => Ok(remote.get(digest).await?.map(Blob::remote)),
        }
    }

    /// Removes a blob; one that is gone is success.
    ///
    /// # Errors
    /// Those of the disk.
    pub(super) async fn remove(&self, digest: Digest) -> Result<()> {
        match self {
            Self::Local(blobs) => {
                let blobs = blobs.clone();
                blocking(move || blobs.remove(&digest)).await
            }
            Self::Remote(remote) => remote.store().remove(&digest).await,
        }
    }

    /// The status of a reference; none if nothing was written to it.
    ///
    /// # Errors
    /// Those of the disk.
    pub(super) async fn status(&self, reference: &Ref) -> Result<Option<Status>> {
        match self {
            Self::Local(blobs) => {
                let (ingests, reference) = (blobs.ingests(), reference.clone());
                blocking(move || ingest::status(&ingests, &reference)).await
            }
            Self::Remote(remote) => remote.status(reference).await,
        }
    }

    /// All ingests of a namespace.
    ///
    /// # Errors
    /// Those of the disk.
    pub(super) async fn statuses(&self, namespace: &Id) -> Result<Vec<Status>> {
        match self {
            Self::Local(blobs) => {
                let (ingests, namespace) = (blobs.ingests(), namespace.clone());
                blocking(move || ingest::list(&ingests, &namespace)).await
            }
            Self::Remote(remote) => remote.statuses(namespace).await,
        }
    }

    /// Removes an ingest; one that is gone is success.
    ///
    /// # Errors
    /// Those of the disk.
    pub(super) async fn remove_ingest(&self, reference: &Ref) -> Result<()> {
        match self {
            Self::Local(blobs) => {
                let folder = reference.folder(&blobs.ingests());
                blocking(move || ingest::remove(&folder)).await
            }
            Self::Remote(remote) => remote.store().abort(&reference.full()).await,
        }
    }
}
