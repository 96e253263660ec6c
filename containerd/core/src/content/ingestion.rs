//! Content on its way in, as clients see it.

use std::time::{Duration, SystemTime};

use shim_protocol::{Error, Id, Result};

use super::{
    Algorithm, Digest, Status,
    backend::Backend,
    claims::Claim,
    ingest::Ingest,
    record,
    reference::Ref,
    store::{Content, blocking, held},
    writer::{Progress, Session, Writer},
};
use crate::{
    fault,
    filter::Filter,
    leases::{self, Resource},
    metadata::Change,
};

/// How long somebody waits for a reference that another writer has.
const PATIENCE: Duration = Duration::from_secs(1);

/// What somebody wants to write.
#[derive(Clone, Debug, Default)]
pub struct Ingestion {
    /// What the writer calls it, in at most 4 KiB. Whoever comes with the same
    /// name goes on with what was written to it.
    pub reference: String,
    /// How many bytes it will be; 0 when that is not known.
    pub total: u64,
    /// The digest that it will have, if that is known.
    pub expected: Option<Digest>,
    /// The lease that holds it, while it is written and after.
    pub lease: Option<String>,
}

impl Content {
    /// Opens a writer.
    ///
    /// # Errors
    /// - `InvalidArgument` without a reference, or with one that is too long or
    ///   has a NUL byte;
    /// - `AlreadyExists` when the namespace has the expected content (the
    ///   lease then holds it);
    /// - `Unavailable` when somebody else writes to the reference;
    /// - `NotFound` when there is no such lease; those of the disk.
    pub async fn writer(&self, namespace: &Id, ingestion: Ingestion) -> Result<Writer> {
        let Ingestion { reference, total, expected, lease } = ingestion;
        let reference = Ref::new(namespace.clone(), reference)?;
        let this = self.clone();
        // Should the caller go away, the reference is free when all that was
        // begun is over, and not before.
        self.own(async move { this.open_writer(reference, total, expected, lease).await }).await
    }

    async fn open_writer(
        &self,
        reference: Ref,
        total: u64,
        expected: Option<Digest>,
        lease: Option<String>,
    ) -> Result<Writer> {
        let claim = self.claim(&reference).await?;
        if let Some(digest) = &expected
            && self.hold_existing(&reference.namespace, digest, lease.as_deref()).await?
        {
            return Err(Error::already_exists(format!("content {digest}")));
        }
        if let Some(lease) = lease.clone() {
            let reference = reference.clone();
            let change = move |change: &mut Change<'_>| {
                let resource = ingest_resource(&reference.name);
                leases::hold(change, &reference.namespace, &lease, &resource)
            };
            self.db().write(change).await?;
        }
        let progress = match self.shared(expected.as_ref(), total).await? {
            Some(shared) => shared,
            None => {
                let algorithm = expected.as_ref().map(Digest::algorithm).unwrap_or_default();
                self.open_ingest(&reference, total, algorithm, lease.is_some()).await?
            }
        };
        let session = Session { progress, started_at: SystemTime::now(), _claim: claim };
        Ok(Writer::new(self.clone(), reference, total, lease, session))
    }

    async fn open_ingest(
        &self,
        reference: &Ref,
        total: u64,
        algorithm: Algorithm,
        leased: bool,
    ) -> Result<Progress> {
        match self.backend() {
            Backend::Local(blobs) => {
                let (ingests, reference) = (blobs.ingests(), reference.clone());
                let open = move || {
                    let ingest = Ingest::open(&ingests, &reference, total, algorithm)?;
                    ingest.set_leased(leased)?;
                    Ok(ingest)
                };
                Ok(Progress::Own(Box::new(blocking(open).await?)))
            }
            Backend::Remote(remote) => {
                let writer = remote.store().write(&reference.full(), total).await?;
                remote.set_leased(reference, leased);
                Ok(Progress::Remote(writer))
            }
        }
    }

    /// What another namespace has already, if it may be had by naming it.
    async fn shared(&self, expected: Option<&Digest>, total: u64) -> Result<Option<Progress>> {
        let Some(digest) = expected else { return Ok(None) };
        let blob = self.blob(digest).await?;
        match blob.filter(|blob| total == 0 || total == blob.size()) {
            Some(blob) if self.is_shared(digest).await? => {
                Ok(Some(Progress::Shared(digest.clone(), blob)))
            }
            _ => Ok(None),
        }
    }

    /// Whether a namespace has content, record and bytes; `lease` then holds it.
    ///
    /// # Errors
    /// `NotFound` when there is no such lease; those of the disk.
    pub async fn hold_existing(
        &self,
        namespace: &Id,
        digest: &Digest,
        lease: Option<&str>,
    ) -> Result<bool> {
        if self.blob(digest).await?.is_none() {
            return Ok(false);
        }
        let (room, named, lease) = (namespace.clone(), digest.clone(), lease.map(str::to_owned));
        let change = move |change: &mut Change<'_>| {
            let exists = record::get(change, &room, &named)?.is_some();
            match lease {
                Some(lease) if exists => leases::hold(change, &room, &lease, &held(&named))?,
                _ => {}
            }
            Ok(exists)
        };
        self.db().write(change).await
    }

    /// How far the writer of a reference has come.
    ///
    /// # Errors
    /// `NotFound` when nothing was written to it.
    pub async fn status(&self, namespace: &Id, reference: &str) -> Result<Status> {
        let reference = Ref { namespace: namespace.clone(), name: reference.to_owned() };
        self.backend().status(&reference).await?.ok_or_else(|| absent(&reference))
    }

    /// What is being written in a namespace and any of `filters` matches, by
    /// reference; all without filters. Field: `ref`.
    ///
    /// # Errors
    /// `InvalidArgument` when a filter cannot be parsed.
    pub async fn statuses<S: AsRef<str>>(
        &self,
        namespace: &Id,
        filters: &[S],
    ) -> Result<Vec<Status>> {
        let filter = Filter::parse(filters)?;
        let mut found = self.backend().statuses(namespace).await?;
        found.retain(|status| filter.matches(status));
        found.sort_by(|a, b| a.reference.cmp(&b.reference));
        Ok(found)
    }

    /// Removes what was written to a reference, and lets go of it in `lease`.
    /// Goes on if the caller goes away.
    ///
    /// # Errors
    /// `NotFound` when nothing was; `Unavailable` while somebody writes to it.
    pub async fn abort(&self, namespace: &Id, reference: &str, lease: Option<&str>) -> Result<()> {
        let reference = Ref { namespace: namespace.clone(), name: reference.to_owned() };
        let (this, lease) = (self.clone(), lease.map(str::to_owned));
        self.own(async move {
            let _claim = this.claim(&reference).await?;
            // A writer that wrote nothing is held all the same.
            this.let_go(&reference, lease).await?;
            fault::point("content.abort.let-go");
            match this.backend().status(&reference).await? {
                Some(_) => this.backend().remove_ingest(&reference).await,
                None => Err(absent(&reference)),
            }
        })
        .await
    }

    /// Takes a reference from `lease`, if there is one.
    pub(super) async fn let_go(&self, reference: &Ref, lease: Option<String>) -> Result<()> {
        let Some(lease) = lease else { return Ok(()) };
        let Ref { namespace, name } = reference.clone();
        let change = move |change: &mut Change<'_>| {
            leases::let_go(change, &namespace, &lease, &ingest_resource(&name))
        };
        self.db().write(change).await
    }

    /// Takes a reference, to write to it.
    ///
    /// # Errors
    /// `Unavailable` when somebody else has it.
    async fn claim(&self, reference: &Ref) -> Result<Claim<Ref>> {
        let taken = tokio::time::timeout(PATIENCE, self.writing().take(reference)).await;
        taken.map_err(|_| {
            let name = &reference.name;
            Error::unavailable(format!("reference {name:?} is being written to by somebody else"))
        })
    }
}

/// What a lease holds that holds what is being written.
pub(super) fn ingest_resource(reference: &str) -> Resource {
    Resource { id: reference.to_owned(), kind: "ingests".into() }
}

fn absent(reference: &Ref) -> Error {
    let Ref { namespace, name } = reference;
    Error::not_found(format!("reference {name:?} in namespace {namespace:?}"))
}
