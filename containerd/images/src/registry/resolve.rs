//! What a reference stands for, and documents as a whole.

use bytes::Bytes;
use reqwest::{Method, Response, StatusCode, header};
use shim_protocol::{Error, ErrorKind, Result};

use super::{
    Body, Failed, Registry,
    endpoint::{Call, Endpoint},
    http::read_all,
};
use crate::{
    Algorithm, Descriptor, Digest, Reference,
    manifest::{DOCUMENT_MAX_BYTES, Index, Manifest, is_schema1, schema1_error},
    media_type,
};

/// Documents that a tag can stand for.
const ACCEPT_MANIFESTS: &str = "application/vnd.docker.distribution.manifest.v2+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, */*";
/// Header with the digest of what is answered.
const CONTENT_DIGEST: &str = "docker-content-digest";
/// What nothing is said of.
const OCTETS: &str = "application/octet-stream";

impl Registry {
    /// What a reference stands for: a manifest or index, or else a blob if it
    /// names a digest.
    ///
    /// # Errors
    /// `NotFound` when it stands for nothing; `PermissionDenied` when we may not
    /// know; `Unavailable` or `DeadlineExceeded` when the registry does not
    /// answer; `InvalidArgument` without tag and digest; `ResourceExhausted`
    /// when it is too large for a document; `Unimplemented` for Docker's first
    /// sort of manifest.
    pub async fn resolve(&self, reference: &Reference) -> Result<Descriptor> {
        let object = reference.object()?;
        let digest = reference.digest();
        // What a tag stands for is only believed of hosts that may say it.
        let endpoints =
            self.endpoints(reference, |can| can.pull && (can.resolve || digest.is_some())).await?;
        let mut places = vec![format!("manifests/{object}")];
        if digest.is_some() {
            places.push(format!("blobs/{object}"));
        }
        let mut failed = Failed::default();
        for place in places {
            for (at, endpoint) in endpoints.iter().enumerate() {
                let patient = at + 1 == endpoints.len();
                match resolve_at(endpoint, reference, &place, patient).await {
                    Ok(descriptor) => return Ok(descriptor),
                    Err(error) => failed.add(endpoint.host(), error),
                }
            }
            // Only where all say that there is no such manifest.
            if !failed.0.as_ref().is_some_and(Error::is_not_found) {
                break;
            }
        }
        let error = failed.into_error();
        Err(Error::caused(error.kind(), format!("resolve {reference}"), error))
    }

    /// Fetches a document (index, manifest, configuration) as a whole, and
    /// checks its digest.
    ///
    /// # Errors
    /// As for [`Self::fetch`]; `ResourceExhausted` when it has more than
    /// [`DOCUMENT_MAX_BYTES`]; `DataLoss` when it has another digest.
    pub async fn fetch_document(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
    ) -> Result<Bytes> {
        check_size(&descriptor.digest.to_string(), descriptor.size)?;
        let mut body: Body = self.fetch(reference, descriptor, 0).await?;
        let mut document = Vec::new();
        while let Some(piece) = body.next().await? {
            document.extend_from_slice(&piece);
        }
        check_digest(&descriptor.digest, &document)?;
        Ok(document.into())
    }
}

/// Asks one host.
async fn resolve_at(
    endpoint: &Endpoint,
    reference: &Reference,
    place: &str,
    patient: bool,
) -> Result<Descriptor> {
    let wanted = reference.digest();
    let call = Call {
        patient,
        verified: wanted.is_some(),
        ..Call::read(Method::HEAD, reference, place.to_owned())
            .header(header::ACCEPT, ACCEPT_MANIFESTS)?
    };
    // Some do not know HEAD; and what is denied is explained to GET only.
    let accept =
        [StatusCode::METHOD_NOT_ALLOWED, StatusCode::NOT_IMPLEMENTED, StatusCode::FORBIDDEN];
    let head = endpoint.send(&call, &accept).await?;
    if head.status().is_success()
        && let (Some(digest), Some(size), Some(media_type)) =
            (content_digest(&head, wanted)?, length(&head), content_type(&head))
    {
        return described(reference, media_type, digest, size);
    }
    let call = Call { method: Method::GET, ..call };
    let response = endpoint.send(&call, &[]).await?;
    let told = content_type(&response);
    if wanted.is_some() && place.starts_with("blobs/") {
        // Not a document; how long it is must be said.
        let size = length(&response).ok_or_else(|| {
            Error::new(ErrorKind::DataLoss, format!("{reference}: the host does not say how long"))
        })?;
        let digest = wanted.cloned().ok_or_else(|| Error::internal("a blob without digest"))?;
        return Ok(Descriptor::new(OCTETS, digest, size));
    }
    let claimed = content_digest(&response, wanted)?;
    let what = format!("GET {place}");
    let idle = endpoint.http.limits.idle;
    let body = read_all(&what, response, DOCUMENT_MAX_BYTES, idle)
        .await
        .map_err(|failure| failure.error)?;
    let digest = match claimed {
        Some(claimed) => {
            check_digest(&claimed, &body)?;
            claimed
        }
        None => Digest::of(Algorithm::Sha256, &body),
    };
    let media_type = match told {
        Some(told) => told,
        None => own_media_type(&body)?,
    };
    described(reference, media_type, digest, body.len() as u64)
}

/// Puts together what is known.
fn described(
    reference: &Reference,
    media_type: String,
    digest: Digest,
    size: u64,
) -> Result<Descriptor> {
    // One registry calls the old manifests plain text.
    if is_schema1(&media_type) || media_type == "text/plain" {
        return Err(schema1_error());
    }
    if media_type::is_index(&media_type) || media_type::is_manifest(&media_type) {
        check_size(&reference.to_string(), size)?;
    }
    Ok(Descriptor::new(media_type, digest, size))
}

/// The digest that is wanted, or else what the host says; none if it says none.
pub(super) fn content_digest(
    response: &Response,
    wanted: Option<&Digest>,
) -> Result<Option<Digest>> {
    if let Some(wanted) = wanted {
        return Ok(Some(wanted.clone()));
    }
    let Some(value) = response.headers().get(CONTENT_DIGEST) else { return Ok(None) };
    let text = String::from_utf8_lossy(value.as_bytes());
    Digest::parse(&text)
        .map(Some)
        .map_err(|error| Error::caused(ErrorKind::DataLoss, "bad digest in the answer", error))
}

/// How long content is by what the host says; of HEAD, too.
fn length(response: &Response) -> Option<u64> {
    response.headers().get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Media type without parameters; none if the host knows nothing better than
/// that there are bytes.
fn content_type(response: &Response) -> Option<String> {
    let value = response.headers().get(header::CONTENT_TYPE)?.to_str().ok()?;
    let media_type = value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    (!media_type.is_empty() && media_type != OCTETS && media_type != "application/json")
        .then_some(media_type)
}

/// The media type that a document says it has, or else has by its form.
fn own_media_type(document: &[u8]) -> Result<String> {
    let by_form = |own: String, form: &str| if own.is_empty() { form.to_owned() } else { own };
    match Manifest::parse(document) {
        Ok(manifest) => Ok(by_form(manifest.media_type, media_type::OCI_MANIFEST)),
        Err(error) if error.kind() == ErrorKind::Unimplemented => Err(error),
        Err(_) => Ok(by_form(Index::parse(document)?.media_type, media_type::OCI_INDEX)),
    }
}

fn check_size(what: &str, size: u64) -> Result<()> {
    if size > DOCUMENT_MAX_BYTES {
        return Err(Error::new(
            ErrorKind::ResourceExhausted,
            format!("{what}: {size} bytes, and at most {DOCUMENT_MAX_BYTES} are read"),
        ));
    }
    Ok(())
}

/// Is it the content of that digest?
pub(super) fn check_digest(expected: &Digest, content: &[u8]) -> Result<()> {
    let actual = Digest::of(expected.algorithm(), content);
    if actual != *expected {
        return Err(Error::new(
            ErrorKind::DataLoss,
            format!("content of {expected} was expected, and that of {actual} came"),
        ));
    }
    Ok(())
}
