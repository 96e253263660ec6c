//! What is sent to a registry: blobs that it does not have, then the manifests
//! that name them.

use std::sync::Arc;

use bytes::Bytes;
use reqwest::{Method, Response, StatusCode, header};
use shim_protocol::{Error, ErrorKind, Result};

use super::{
    Registry,
    endpoint::{Call, Endpoint, Place},
    resolve::content_digest,
    upload::{Started, Upload},
};
use crate::{Descriptor, Digest, Reference, media_type, store::ContentStore};

/// Called with the number of bytes of a blob that were sent so far.
pub type Progress = Arc<dyn Fn(u64) + Send + Sync>;

/// How a blob came into a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// It was there.
    Existed,
    /// The registry has it in another repository.
    Mounted,
    /// It was sent.
    Uploaded,
}

impl Registry {
    /// The host that takes what is sent: the first that does at all.
    async fn taker(&self, reference: &Reference) -> Result<Arc<Endpoint>> {
        let endpoints = self.endpoints(reference, |can| can.push).await?;
        endpoints.into_iter().next().ok_or_else(|| Error::internal("no host takes images"))
    }

    /// Whether the repository of `reference` has this content, at the host that
    /// it would be sent to. A manifest must also have the tag of `reference`,
    /// if it is the one that is named.
    ///
    /// # Errors
    /// As for [`Self::resolve`].
    pub async fn exists(&self, reference: &Reference, descriptor: &Descriptor) -> Result<bool> {
        let endpoint = self.taker(reference).await?;
        exists_at(&endpoint, reference, descriptor).await
    }

    /// Sends a blob from `store`, unless it is there, or can be had from one of
    /// the repositories `mount_from` (paths such as `library/redis`) of the same
    /// host.
    ///
    /// # Errors
    /// As for [`Self::resolve`]; what the store answers.
    pub async fn push_blob(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        mount_from: &[String],
        store: &dyn ContentStore,
        progress: Option<Progress>,
    ) -> Result<Pushed> {
        let endpoint = self.taker(reference).await?;
        let pushed = push_to(endpoint, reference, descriptor, mount_from, store, progress).await;
        let what = || format!("push {} to {}", descriptor.digest, reference.name());
        pushed.map_err(|error| Error::caused(error.kind(), what(), error))
    }

    /// Sends an index or manifest. It gets the tag of `reference`, unless that
    /// names the digest of another one: `reference.with_digest(root)` tags the
    /// root and not the manifests below it. If it is about another one, the
    /// registry can tell afterwards.
    ///
    /// # Errors
    /// As for [`Self::resolve`]; `DataLoss` when the registry took it for
    /// something else.
    pub async fn put_manifest(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        bytes: Bytes,
    ) -> Result<()> {
        super::resolve::check_digest(&descriptor.digest, &bytes)?;
        let endpoint = self.taker(reference).await?;
        let put = async {
            let place = manifest_place(reference, &descriptor.digest);
            let response =
                put_at(&endpoint, reference, place, &descriptor.media_type, bytes.clone()).await?;
            check_taken(&response, &descriptor.digest)?;
            super::referrers::announce(&endpoint, reference, descriptor, &bytes, &response).await
        };
        let what = || format!("push {} to {}", descriptor.digest, reference.name());
        put.await.map_err(|error| Error::caused(error.kind(), what(), error))
    }
}

/// Sends a document.
pub(super) async fn put_at(
    endpoint: &Endpoint,
    reference: &Reference,
    place: String,
    media_type: &str,
    bytes: Bytes,
) -> Result<Response> {
    let mut call = Call::write(Method::PUT, reference, Place::Repository(place))
        .header(header::CONTENT_TYPE, media_type)?;
    call.body = Some(bytes);
    endpoint.send(&call, &[]).await
}

/// Where a manifest goes: to the tag of the reference, if that names this
/// digest or none.
fn manifest_place(reference: &Reference, digest: &Digest) -> String {
    match (reference.tag(), reference.digest()) {
        (Some(tag), None) => format!("manifests/{tag}"),
        (Some(tag), Some(named)) if named == digest => format!("manifests/{tag}"),
        _ => format!("manifests/{digest}"),
    }
}

async fn exists_at(
    endpoint: &Endpoint,
    reference: &Reference,
    descriptor: &Descriptor,
) -> Result<bool> {
    let Descriptor { media_type, digest, .. } = descriptor;
    let document = media_type::is_manifest(media_type) || media_type::is_index(media_type);
    let place = match document {
        true => manifest_place(reference, digest),
        false => format!("blobs/{digest}"),
    };
    let by_tag = document && !place.ends_with(&digest.to_string());
    let accept =
        if media_type.is_empty() { "*/*".to_owned() } else { format!("{media_type}, */*") };
    let mut call = Call::write(Method::HEAD, reference, Place::Repository(place))
        .header(header::ACCEPT, &accept)?;
    call.verified = true;
    let response = endpoint.send(&call, &[StatusCode::NOT_FOUND]).await?;
    if response.status() == StatusCode::NOT_FOUND {
        return Ok(false);
    }
    if by_tag {
        return Ok(content_digest(&response, None)?.as_ref() == Some(digest));
    }
    Ok(true)
}

async fn push_to(
    endpoint: Arc<Endpoint>,
    reference: &Reference,
    descriptor: &Descriptor,
    mount_from: &[String],
    store: &dyn ContentStore,
    progress: Option<Progress>,
) -> Result<Pushed> {
    // Who may write need not be allowed to look.
    let exists = async || match exists_at(&endpoint, reference, descriptor).await {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Ok(false),
        other => other,
    };
    if exists().await? {
        return Ok(Pushed::Existed);
    }
    let limits = endpoint.http.limits.clone();
    let mut upload: Option<Upload> = None;
    for from in mount_from.iter().filter(|from| *from != reference.path()) {
        match Upload::mount(&endpoint, reference, &descriptor.digest, from).await {
            Ok(Started::Done) => {
                if let Some(unused) = upload {
                    unused.cancel().await;
                }
                return Ok(Pushed::Mounted);
            }
            // It would rather have it sent.
            Ok(Started::At(location)) => {
                let another = Upload::new(&endpoint, reference, descriptor, location);
                if let Some(unused) = upload.replace(another) {
                    unused.cancel().await;
                }
            }
            Err(error) => tracing::debug!(from, error = %error.report(), "cannot be mounted"),
        }
    }
    let mut tries = 0;
    loop {
        tries += 1;
        let mut current = match upload.take() {
            Some(upload) => upload,
            None => match Upload::start(&endpoint, reference).await? {
                Started::Done => return Ok(Pushed::Existed),
                Started::At(location) => Upload::new(&endpoint, reference, descriptor, location),
            },
        };
        let failure = match current.send(store, progress.as_ref()).await {
            Ok(response) => {
                check_taken(&response, &descriptor.digest)?;
                return Ok(Pushed::Uploaded);
            }
            Err(failure) => failure,
        };
        let super::failure::Again::Later(asked) = failure.again else { return Err(failure.error) };
        if tries >= limits.tries {
            return Err(failure.error);
        }
        tracing::debug!(error = %failure.error.report(), tries, "sending it again");
        limits.wait(tries, asked).await;
        // Perhaps only the answer was lost.
        if exists().await? {
            return Ok(Pushed::Uploaded);
        }
        upload = current.resume().await.then_some(current);
    }
}

/// Did the registry take it for what it is?
fn check_taken(response: &Response, digest: &Digest) -> Result<()> {
    match content_digest(response, None)? {
        Some(taken) if taken.algorithm() == digest.algorithm() && taken != *digest => {
            let text = format!("the registry took {digest} for {taken}");
            Err(Error::new(ErrorKind::DataLoss, text))
        }
        _ => Ok(()),
    }
}
