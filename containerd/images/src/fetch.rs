//! One piece of content from somewhere else into the store.

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use futures::FutureExt;
use shim_protocol::{Context, Error, ErrorKind, Result};
use tokio::{sync::Semaphore, time};
use tokio_util::sync::CancellationToken;

use crate::{
    Descriptor, Digest,
    origin::Origin,
    progress::Tracker,
    store::{ContentReader, ContentStore, ContentWriter, give_up},
    unpack::unless,
    walk::reference_key,
};

/// How long to wait between two looks at what somebody else is fetching.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Where content comes from: a repository of a registry.
#[async_trait]
pub trait Source: Send + Sync {
    /// Opens content for reading, from `offset` on.
    ///
    /// # Errors
    /// `NotFound` when it is not there. What may help against others has been
    /// tried.
    async fn open(&self, descriptor: &Descriptor, offset: u64) -> Result<Box<dyn ContentReader>>;
}

/// Fetches content, and remembers what was begun.
#[derive(Clone, Copy)]
pub struct Fetcher<'a> {
    /// Where it goes.
    pub content: &'a dyn ContentStore,
    /// Where it comes from.
    pub source: &'a dyn Source,
    /// What the source is called, if that is to be noted.
    pub origin: Option<&'a Origin>,
    /// How many downloads there may be at once.
    pub downloads: &'a Semaphore,
    /// Who wants to know how far it has come.
    pub tracker: &'a Tracker,
    /// Ends it before its time.
    pub stop: &'a CancellationToken,
}

impl Fetcher<'_> {
    /// Fetches content if it is not there, going on where an earlier try was cut
    /// off.
    ///
    /// # Errors
    /// `FailedPrecondition` when it is other content than it should be;
    /// `Cancelled` when it was ended before its time; those of the source and
    /// of the store. What has come of the right content stays for the next try.
    /// Whoever waits for the end knows that nobody writes any more; whoever
    /// drops it does not.
    pub async fn fetch(&self, descriptor: &Descriptor) -> Result<()> {
        let turn = async {
            let permit = self.downloads.acquire().await;
            permit.map_err(|e| Error::caused(ErrorKind::Cancelled, "download", e))
        };
        let fetched = async {
            let _permit = unless(self.stop, turn).await?;
            self.bring(descriptor).await
        };
        fetched.await.context("fetch", &descriptor.digest)
    }

    async fn bring(&self, descriptor: &Descriptor) -> Result<()> {
        let reference = reference_key(descriptor);
        let labels = self.origin.and_then(|origin| origin.label(&BTreeMap::new()));
        let labels: BTreeMap<_, _> = labels.into_iter().collect();
        let (mut begun_anew, mut lost) = (false, false);
        loop {
            let Some(mut writer) = self.open(&reference, descriptor).await? else {
                return self.existed(descriptor).await;
            };
            let resumed = writer.offset() > 0 && !begun_anew;
            if begun_anew && writer.offset() > 0 {
                // It could not be thrown away, or is somebody else's beginning.
                writer.clear().await?;
            }
            let Descriptor { digest, size, .. } = descriptor;
            let committed = match self.fill(&mut *writer, descriptor).await {
                Ok(()) => writer.commit(*size, Some(digest), labels.clone()).await,
                Err(e) => {
                    drop(writer);
                    Err(e)
                }
            };
            match committed {
                Ok(_) => {
                    self.tracker.complete(digest);
                    return Ok(());
                }
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {
                    return self.existed(descriptor).await;
                }
                Err(e) if e.kind() == ErrorKind::FailedPrecondition => {
                    // Whoever comes again must not be caught in it for ever.
                    // Somebody else may be at it already, and may well end it.
                    give_up(self.content, &reference).await;
                    // What was there before may have been the wrong part.
                    if !resumed {
                        return Err(e);
                    }
                    begun_anew = true;
                }
                // Somebody else had it, and has deleted it since.
                Err(e) if e.kind() == ErrorKind::Aborted && !lost => lost = true,
                Err(e) => return Err(e),
            }
        }
    }

    /// Opens a writer; none if the content is there. Waits for whoever fetches
    /// the same.
    async fn open(
        &self,
        reference: &str,
        descriptor: &Descriptor,
    ) -> Result<Option<Box<dyn ContentWriter>>> {
        let Descriptor { digest, size, .. } = descriptor;
        loop {
            match self.content.write(reference, *size, Some(digest)).await {
                Ok(writer) => return Ok(Some(writer)),
                Err(e) if e.kind() == ErrorKind::AlreadyExists => return Ok(None),
                Err(e) if e.kind() == ErrorKind::Unavailable => {
                    self.look(digest).await?;
                    unless(self.stop, time::sleep(LOOK_AGAIN).map(Ok)).await?;
                }
                Err(e) => return Err(e),
            }
        }
    }

    /// Finds out whether it is somebody else that is waited for.
    ///
    /// # Errors
    /// `Unavailable` when it is the store that is not available.
    async fn look(&self, digest: &Digest) -> Result<()> {
        self.content.info(digest).await?;
        // What the store knows may be elsewhere than what it has.
        match self.content.read(digest, 0).await {
            Err(e) if e.kind() == ErrorKind::Unavailable => Err(e),
            _ => Ok(()),
        }
    }

    /// Brings what is missing.
    async fn fill(&self, writer: &mut dyn ContentWriter, descriptor: &Descriptor) -> Result<()> {
        let Descriptor { digest, size, .. } = descriptor;
        if writer.offset() > *size {
            writer.clear().await?;
        }
        let mut offset = writer.offset();
        if offset == *size {
            return Ok(());
        }
        let mut body = unless(self.stop, self.source.open(descriptor, offset)).await?;
        while let Some(piece) = unless(self.stop, body.next()).await? {
            offset += piece.len() as u64;
            if offset > *size {
                let text = format!("more came than the {size} bytes that it should have");
                return Err(Error::precondition(text));
            }
            writer.write(piece).await?;
            self.tracker.moved(digest, offset);
        }
        if offset < *size {
            let text = format!("only {offset} of {size} bytes came");
            return Err(Error::new(ErrorKind::DataLoss, text));
        }
        Ok(())
    }

    /// Notes of content that was there that it can also be had from the source.
    ///
    /// # Errors
    /// `FailedPrecondition` when it is not as long as the descriptor says.
    async fn existed(&self, descriptor: &Descriptor) -> Result<()> {
        let Descriptor { digest, size, .. } = descriptor;
        let info = self.content.info(digest).await?;
        let info = info.ok_or_else(|| absent(digest))?;
        if info.size != *size {
            let text = format!("content {digest} has {} bytes, not {size}", info.size);
            return Err(Error::precondition(text));
        }
        if let Some(origin) = self.origin
            && let Some(label) = origin.label(&info.labels)
        {
            self.content.set_labels(digest, BTreeMap::from([label])).await?;
        }
        self.tracker.exists(digest);
        Ok(())
    }
}

/// The error of content that is gone.
pub(crate) fn absent(digest: &Digest) -> Error {
    Error::not_found(format!("content {digest}"))
}
