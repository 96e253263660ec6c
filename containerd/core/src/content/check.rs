//! Whether content is what its records and its names say.

use std::{collections::HashMap, path::PathBuf};

use containerd_images::Hasher;
use shim_protocol::{Context, Id, Result};

use super::{
    Blob, Digest,
    backend::Backend,
    blobs::Blobs,
    ingest, record,
    store::{Content, blocking},
};

/// How much is hashed at once.
const READ_BYTES: usize = 1 << 20;

/// What was found of content.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Findings {
    /// Recorded by a namespace, but not there.
    pub(crate) lost: Vec<(Id, Digest)>,
    /// Recorded with another length, in bytes.
    pub(crate) wrong_length: Vec<(Id, Digest, u64)>,
    /// Blobs that have another digest than their name says.
    pub(crate) wrong: Vec<(Digest, Digest)>,
    /// Blobs that no namespace has.
    pub(crate) strays: Vec<Digest>,
    /// Folders of ingests that nobody can go on with.
    pub(crate) odd: Vec<PathBuf>,
    /// How many blobs there are, and their bytes.
    pub(crate) blobs: (usize, u64),
    /// How many ingests there are.
    pub(crate) ingests: usize,
}

impl Content {
    /// Compares records and disk; with `digests`, reads all blobs, unless another
    /// process has them. Nobody may write meanwhile.
    ///
    /// # Errors
    /// Those of the disk.
    pub(crate) async fn check(&self, digests: bool) -> Result<Findings> {
        let recorded = self.db().read(|db| record::every(db)).await?;
        let (blobs, foreign) = match self.backend() {
            Backend::Local(blobs) => (blobs.clone(), self.is_foreign()),
            Backend::Remote(remote) => {
                // Its blobs are its own to check, and others may use it, too.
                let there = remote.store().list().await?;
                let mut found = Findings::default();
                compare(&recorded, &there, &mut found);
                found.blobs = (there.len(), there.values().sum());
                return Ok(found);
            }
        };
        blocking(move || {
            let mut found = Findings::default();
            let there = blobs.list()?;
            compare(&recorded, &there, &mut found);
            if !foreign {
                let known: HashMap<_, _> =
                    recorded.iter().map(|(_, digest, size)| (digest, size)).collect();
                let strays = there.keys().filter(|digest| !known.contains_key(digest));
                found.strays = strays.cloned().collect();
                found.strays.sort();
            }
            if digests {
                found.wrong = wrong(&blobs, there.keys())?;
            }
            found.blobs = (there.len(), there.values().sum());
            (found.ingests, found.odd) = ingest::odd(&blobs.ingests())?;
            Ok(found)
        })
        .await
    }
}

fn compare(recorded: &[(Id, Digest, u64)], there: &HashMap<Digest, u64>, found: &mut Findings) {
    for (namespace, digest, size) in recorded {
        match there.get(digest) {
            None => found.lost.push((namespace.clone(), digest.clone())),
            Some(length) if length != size => {
                found.wrong_length.push((namespace.clone(), digest.clone(), *length));
            }
            Some(_) => {}
        }
    }
}

/// Reads blobs; answers those whose bytes have another digest, and that.
fn wrong<'a>(
    blobs: &Blobs,
    digests: impl Iterator<Item = &'a Digest>,
) -> Result<Vec<(Digest, Digest)>> {
    let mut wrong = Vec::new();
    for digest in digests {
        // It is there: nobody else is.
        let Some(blob) = blobs.get(digest)? else { continue };
        let found = hash(&blob, digest).context("read content", digest)?;
        if found != *digest {
            wrong.push((digest.clone(), found));
        }
    }
    wrong.sort();
    Ok(wrong)
}

fn hash(blob: &Blob, digest: &Digest) -> Result<Digest> {
    let mut hasher = Hasher::new(digest.algorithm());
    let mut buffer = vec![0; READ_BYTES];
    let mut offset = 0;
    loop {
        let read = blob.read_at(offset, &mut buffer)?;
        hasher.update(&buffer[..read]);
        offset += read as u64;
        if read < buffer.len() {
            return Ok(hasher.digest());
        }
    }
}
