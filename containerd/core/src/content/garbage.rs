//! What of content the collector of garbage removes from disk, when it has
//! removed the records.

use std::{
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use shim_protocol::{Error, ErrorKind, Result};

use super::{
    Digest,
    backend::Backend,
    ingest::{self, Old},
    ingestion::ingest_resource,
    reference::Ref,
    remote::Remote,
    store::{Content, blocking},
};
use crate::{
    leases,
    metadata::{Change, Read, Snapshot},
};

/// How long an ingest is kept that nobody goes on with, if its writer had no
/// lease (containerd, `core/metadata/content.go`).
const INGEST_LIFE: Duration = Duration::from_secs(24 * 60 * 60);

impl Content {
    /// Removes a blob, unless a namespace has it, or may have it.
    ///
    /// # Errors
    /// Those of the disk.
    pub(crate) async fn sweep_blob(&self, digest: &Digest) -> Result<()> {
        let claim = self.hold(digest).await;
        self.sweep(&claim, digest.clone()).await
    }

    /// Removes ingests that no lease holds and nobody writes to, if their writer
    /// had a lease, or is away for a day; answers how many. Where another
    /// daemon's leases may hold some, none is removed.
    ///
    /// # Errors
    /// Those of the disk.
    pub(crate) async fn sweep_ingests(&self, now: SystemTime) -> Result<usize> {
        if self.is_foreign() {
            return Ok(0);
        }
        // Whoever gave up just now does not write to it any more.
        self.closed().await;
        let ingests = match self.backend() {
            Backend::Local(blobs) => blobs.ingests(),
            Backend::Remote(remote) => return self.sweep_remote(remote, now).await,
        };
        let mut old = {
            let ingests = ingests.clone();
            blocking(move || ingest::all(&ingests)).await?
        };
        old.retain(|old| is_over(old, now));
        if old.is_empty() {
            return Ok(0);
        }
        let held = self.db().read(|db| leases::all_held(db, &ingest_resource("").kind)).await?;
        let mut removed = 0;
        for Old { reference, .. } in old {
            let name = (reference.namespace.to_string(), reference.name.clone());
            let folder = reference.folder(&ingests);
            if !held.contains(&name) && self.sweep_ingest(&reference, folder, now).await? {
                removed += 1;
            }
        }
        Ok(removed)
    }

    /// Removes one ingest, if it is still as it was found; says whether it was.
    async fn sweep_ingest(
        &self,
        reference: &Ref,
        folder: PathBuf,
        now: SystemTime,
    ) -> Result<bool> {
        // Whoever has it, writes to it.
        let Some(_claim) = self.writing().try_take(reference) else { return Ok(false) };
        let named = reference.clone();
        let found = {
            let folder = folder.clone();
            blocking(move || ingest::look(&folder)).await?
        };
        if !found.is_some_and(|old| old.reference == named && is_over(&old, now)) {
            return Ok(false);
        }
        // Where changes are made one after the other, so that no lease can begin
        // to hold it meanwhile.
        let spoil = {
            let folder = folder.clone();
            move |change: &mut Change<'_>| spoil(change, &named, &folder)
        };
        if !self.db().write(spoil).await? {
            return Ok(false);
        }
        blocking(move || ingest::remove(&folder)).await?;
        tracing::debug!(reference = reference.name, "removed an ingest");
        Ok(true)
    }
}

impl Content {
    /// Does the same where another process has them. A blob that could not be
    /// removed then is removed now.
    async fn sweep_remote(&self, remote: &Remote, now: SystemTime) -> Result<usize> {
        let mut outcome = Ok(());
        let mut unswept = remote.take_unswept().into_iter();
        while let Some(digest) = unswept.next() {
            if let Err(error) = self.sweep_blob(&digest).await {
                let is_away = is_away(&error);
                remote.set_unswept(digest);
                outcome = Err(error);
                if is_away {
                    unswept.for_each(|digest| remote.set_unswept(digest));
                    return outcome.map(|()| 0);
                }
            }
        }
        let before = now.checked_sub(INGEST_LIFE).unwrap_or(SystemTime::UNIX_EPOCH);
        let mut removed = 0;
        for reference in remote.old(before).await? {
            // Whoever has it, writes to it.
            let Some(_claim) = self.writing().try_take(&reference) else { continue };
            let named = reference.clone();
            let is_held = move |db: &Snapshot<'_>| {
                leases::is_held(db, &named.namespace, &ingest_resource(&named.name))
            };
            // Somebody may have gone on with it since.
            if self.db().read(is_held).await? || !remote.is_old(&reference, before).await? {
                continue;
            }
            remote.store().abort(&reference.full()).await?;
            tracing::debug!(reference = reference.name, "removed an ingest");
            removed += 1;
        }
        outcome.map(|()| removed)
    }
}

/// Whether another process that has the bytes does not answer: then there is no
/// use in asking it for more.
pub(crate) fn is_away(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::DeadlineExceeded)
}

/// Makes it no ingest any more, unless a lease holds it.
fn spoil(db: &impl Read, reference: &Ref, folder: &Path) -> Result<bool> {
    let Ref { namespace, name } = reference;
    if leases::is_held(db, namespace, &ingest_resource(name))? {
        return Ok(false);
    }
    ingest::spoil(folder).map(|()| true)
}

fn is_over(ingest: &Old, now: SystemTime) -> bool {
    ingest.leased || now.duration_since(ingest.updated_at).is_ok_and(|age| age > INGEST_LIFE)
}
