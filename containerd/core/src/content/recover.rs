//! What a daemon that was killed left behind.

use shim_protocol::Result;

use super::{
    backend::Backend,
    ingest, record,
    store::{Content, blocking},
};

/// What was found at boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Blobs that no namespace has, and that were removed.
    pub removed: usize,
    /// Content that is recorded, but whose blob is not there, or has another
    /// length. Whoever writes it again mends that.
    pub lost: usize,
}

impl Content {
    /// Removes what a daemon that was killed left behind. To be called once,
    /// before anybody is served.
    ///
    /// # Errors
    /// Those of the disk.
    pub async fn recover(&self) -> Result<Recovered> {
        let (blobs, foreign) = match self.backend() {
            Backend::Local(blobs) => (blobs.clone(), self.is_foreign()),
            // It may come later, and what it has that we do not know may be of use
            // to somebody else.
            Backend::Remote(_) => return Ok(Recovered::default()),
        };
        let recorded = self.db().read(|db| record::all(db)).await?;
        blocking(move || {
            ingest::remove_broken(&blobs.ingests())?;
            let mut recovered = Recovered::default();
            let there = blobs.list()?;
            for (digest, size) in &recorded {
                let found = there.get(digest);
                if found != Some(size) {
                    tracing::error!(%digest, size, ?found, "content is recorded, but not there");
                    recovered.lost += 1;
                }
            }
            if !foreign {
                for digest in there.keys().filter(|digest| !recorded.contains_key(digest)) {
                    blobs.remove(digest)?;
                    recovered.removed += 1;
                }
            }
            Ok(recovered)
        })
        .await
    }
}
