//! Manifests that are about another one: signatures, lists of what is inside
//! (distribution specification, "Listing Referrers"). Registries that do not
//! know how to list them have a tag with an index of them instead.

use bytes::Bytes;
use reqwest::{Method, Response, StatusCode, Url, header};
use shim_protocol::{Error, ErrorKind, Result};

use super::{
    Failed, Registry,
    endpoint::{Call, Endpoint, Place},
    http::{read_all, same_origin},
    push::put_at,
};
use crate::{
    Descriptor, Digest, Reference,
    manifest::{DOCUMENT_MAX_BYTES, Index, Manifest},
    media_type,
};

/// How many pages of a list are read.
const PAGES_MAX: usize = 64;
/// Header by which a registry says that it lists what it was sent.
const SUBJECT: &str = "oci-subject";

impl Registry {
    /// Manifests that are about the one of this digest, all or only those of
    /// one sort. None is not an error.
    ///
    /// # Errors
    /// As for [`Self::resolve`], without `NotFound`.
    pub async fn referrers(
        &self,
        reference: &Reference,
        digest: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Descriptor>> {
        let endpoints = self.endpoints(reference, |can| can.referrers || can.resolve).await?;
        let mut failed = Failed::default();
        for endpoint in &endpoints {
            match referrers_at(endpoint, reference, digest, artifact_type).await {
                Ok(mut found) => {
                    // Not all registries do this for us.
                    let wanted = |one: &Descriptor| {
                        artifact_type.is_none_or(|sort| one.artifact_type.as_deref() == Some(sort))
                    };
                    found.retain(wanted);
                    return Ok(found);
                }
                Err(error) => failed.add(endpoint.host(), error),
            }
        }
        let error = failed.into_error();
        let what = format!("list what is about {digest} in {}", reference.name());
        Err(Error::caused(error.kind(), what, error))
    }
}

async fn referrers_at(
    endpoint: &Endpoint,
    reference: &Reference,
    digest: &Digest,
    artifact_type: Option<&str>,
) -> Result<Vec<Descriptor>> {
    let listed = match endpoint.capabilities.referrers {
        true => listed(endpoint, reference, digest, artifact_type).await?,
        false => None,
    };
    match listed {
        Some(found) => Ok(found),
        None => Ok(tagged(endpoint, reference, digest).await?.map_or(Vec::new(), |i| i.manifests)),
    }
}

/// Asks for the list; none if the registry does not know how.
async fn listed(
    endpoint: &Endpoint,
    reference: &Reference,
    digest: &Digest,
    artifact_type: Option<&str>,
) -> Result<Option<Vec<Descriptor>>> {
    let mut call = Call::read(Method::GET, reference, format!("referrers/{digest}"))
        .header(header::ACCEPT, media_type::OCI_INDEX)?;
    if let Some(sort) = artifact_type {
        call.query.push(("artifactType", sort.to_owned()));
    }
    let mut found = Vec::new();
    for _ in 0..PAGES_MAX {
        let unknown = [
            StatusCode::NOT_FOUND,
            StatusCode::METHOD_NOT_ALLOWED,
            StatusCode::NOT_IMPLEMENTED,
            StatusCode::BAD_REQUEST,
        ];
        let response = endpoint.send(&call, &unknown).await?;
        // A page for people is no list either.
        if !response.status().is_success() || !is_index(&response) {
            return Ok(None);
        }
        let next = next_page(&response);
        found.extend(read_index(endpoint, response).await?.manifests);
        match next {
            Some(next) => call.place = Place::At(next),
            None => return Ok(Some(found)),
        }
    }
    Err(Error::new(ErrorKind::ResourceExhausted, format!("more than {PAGES_MAX} pages")))
}

/// The index under the tag that stands for a list.
async fn tagged(
    endpoint: &Endpoint,
    reference: &Reference,
    digest: &Digest,
) -> Result<Option<Index>> {
    let call = Call::read(Method::GET, reference, format!("manifests/{}", tag(digest)))
        .header(header::ACCEPT, media_type::OCI_INDEX)?;
    let response = endpoint.send(&call, &[StatusCode::NOT_FOUND]).await?;
    if response.status() == StatusCode::NOT_FOUND {
        return Ok(None);
    }
    read_index(endpoint, response).await.map(Some)
}

/// The tag that stands for a list (distribution specification, "Referrers Tag
/// Schema").
fn tag(digest: &Digest) -> String {
    const HEX_MAX: usize = 64;
    let hex = digest.hex();
    format!("{}-{}", digest.algorithm().name(), &hex[..hex.len().min(HEX_MAX)])
}

fn is_index(response: &Response) -> bool {
    let value = response.headers().get(header::CONTENT_TYPE);
    let text = value.and_then(|value| value.to_str().ok()).unwrap_or_default();
    text.split(';').next().unwrap_or_default().trim() == media_type::OCI_INDEX
}

async fn read_index(endpoint: &Endpoint, response: Response) -> Result<Index> {
    let idle = endpoint.http.limits.idle;
    let body = read_all("list", response, DOCUMENT_MAX_BYTES, idle).await;
    Index::parse(&body.map_err(|failure| failure.error)?)
}

/// Where the list goes on (RFC 8288); never at another host.
fn next_page(response: &Response) -> Option<Url> {
    let text = response.headers().get(header::LINK)?.to_str().ok()?;
    let (target, parameters) = text.trim().strip_prefix('<')?.split_once('>')?;
    let is_next = parameters.split(';').any(|one| {
        let one = one.trim();
        one == "rel=next" || one == "rel=\"next\""
    });
    let url = response.url().join(target).ok()?;
    (is_next && same_origin(&url, response.url())).then_some(url)
}

/// Puts a manifest into the index that stands for a list, if it is about
/// another one and the registry has not said that it lists it.
pub(super) async fn announce(
    endpoint: &Endpoint,
    reference: &Reference,
    descriptor: &Descriptor,
    bytes: &[u8],
    response: &Response,
) -> Result<()> {
    if response.headers().contains_key(SUBJECT) {
        return Ok(());
    }
    let (subject, mut own) = match media_type::is_index(&descriptor.media_type) {
        true => {
            let index = Index::parse(bytes)?;
            (index.subject, with_facts(descriptor, index.artifact_type, index.annotations))
        }
        false if media_type::is_manifest(&descriptor.media_type) => {
            let manifest = Manifest::parse(bytes)?;
            let sort = manifest.artifact_type.unwrap_or(manifest.config.media_type);
            (manifest.subject, with_facts(descriptor, Some(sort), manifest.annotations))
        }
        false => return Ok(()),
    };
    let Some(subject) = subject else { return Ok(()) };
    own.artifact_type = own.artifact_type.filter(|sort| !sort.is_empty());
    let mut index = tagged(endpoint, reference, &subject.digest).await?.unwrap_or_else(|| Index {
        media_type: media_type::OCI_INDEX.to_owned(),
        artifact_type: None,
        manifests: Vec::new(),
        subject: None,
        annotations: Default::default(),
    });
    if index.manifests.iter().any(|known| known.digest == own.digest) {
        return Ok(());
    }
    index.manifests.push(own);
    let document = Bytes::from(index.to_json()?);
    let place = format!("manifests/{}", tag(&subject.digest));
    put_at(endpoint, reference, place, media_type::OCI_INDEX, document).await.map(drop)
}

/// What a list says of a manifest.
fn with_facts(
    descriptor: &Descriptor,
    artifact_type: Option<String>,
    annotations: std::collections::BTreeMap<String, String>,
) -> Descriptor {
    let Descriptor { media_type, digest, size, .. } = descriptor.clone();
    Descriptor { annotations, artifact_type, ..Descriptor::new(media_type, digest, size) }
}
