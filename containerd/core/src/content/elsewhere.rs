//! What a writer does differently when another process has what it writes.

use shim_protocol::{Error, ErrorKind, Result};

use super::{
    Digest,
    backend::Backend,
    remote::{Remote, RemoteWriter, copy},
    writer::{Progress, Session, Writer, closed},
};

impl Writer {
    /// Lets another process make content of what has come; answers whether it was
    /// there.
    pub(super) async fn commit_remotely(&mut self, digest: &Digest) -> Result<bool> {
        let status = self.status()?;
        let existed = match self.remote()?.commit(digest).await {
            Err(e) if e.kind() == ErrorKind::AlreadyExists => true,
            Err(e) if e.kind() == ErrorKind::FailedPrecondition => {
                self.give_up().await;
                return Err(e);
            }
            Err(e) => {
                // The other process may have made it content before it was cut off.
                if let Backend::Remote(remote) = self.content.backend() {
                    remote.set_unswept(digest.clone());
                }
                return Err(e);
            }
            Ok(()) => false,
        };
        if let Some(session) = &mut self.session {
            session.progress = Progress::Committed(digest.clone(), status);
        }
        Ok(existed)
    }

    /// Checks what has come, as far as it is known here; answers its length too.
    pub(super) fn check_remotely(
        &self,
        size: u64,
        expected: Option<Digest>,
    ) -> Result<(Result<Digest>, u64)> {
        let offset = self.status()?.offset;
        Ok((check(self.digest()?, offset, size, expected), offset))
    }

    /// Makes shared bytes, up to `length`, into a beginning of its own over there.
    ///
    /// # Errors
    /// `Aborted` when they are gone meanwhile; they have to be written.
    pub(super) async fn unshare_remotely(&mut self, remote: &Remote, length: u64) -> Result<()> {
        let mut session = self.session.take().ok_or_else(closed)?;
        if let Progress::Shared(digest, blob) = &session.progress {
            let store = remote.store();
            let mut writer = store.write(&self.reference.full(), self.total).await?;
            remote.set_leased(&self.reference, self.lease.is_some());
            writer.clear().await?;
            let copied = copy(store, digest, length.min(blob.size()), &mut *writer).await;
            if let Err(error) = copied {
                if !error.is_not_found() {
                    return Err(error);
                }
                // Nobody goes on with nothing.
                session.progress = Progress::Remote(writer);
                self.session = Some(session);
                self.give_up().await;
                return Err(error.with_kind(ErrorKind::Aborted));
            }
            session.progress = Progress::Remote(writer);
        }
        self.session = Some(session);
        Ok(())
    }

    /// Is it being written by another process?
    pub(super) fn is_remote(&self) -> bool {
        matches!(&self.session, Some(Session { progress: Progress::Remote(_), .. }))
    }

    /// What another process writes with.
    pub(super) fn remote(&mut self) -> Result<&mut dyn RemoteWriter> {
        match &mut self.session.as_mut().ok_or_else(closed)?.progress {
            Progress::Remote(writer) => Ok(&mut **writer),
            _ => Err(Error::internal("what is here is not written elsewhere")),
        }
    }
}

/// Is it what it should be (0 and none: whatever it is)?
fn check(found: Digest, offset: u64, size: u64, expected: Option<Digest>) -> Result<Digest> {
    if size != 0 && size != offset {
        let text = format!("content has {offset} bytes, {size} were announced");
        return Err(Error::precondition(text));
    }
    match expected {
        Some(expected) if expected.algorithm() == found.algorithm() && expected != found => {
            let text = format!("content has digest {found}, {expected} was expected");
            Err(Error::precondition(text))
        }
        // Of another sort; whoever has the bytes can tell.
        expected => Ok(expected.unwrap_or(found)),
    }
}
