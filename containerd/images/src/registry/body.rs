//! Content that comes from a registry, over as many connections as it takes.

use std::sync::Arc;

use bytes::{Buf, Bytes};
use reqwest::{
    Method, Response, StatusCode, Url,
    header::{self, HeaderValue},
};
use shim_protocol::{Error, ErrorKind, Result};
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, timeout},
};

use super::{
    Failed, Registry,
    endpoint::{Call, Endpoint},
    failure::Failure,
    http::Outgoing,
};
use crate::{Descriptor, Reference, media_type};

/// A connection that brought this much, in bytes, does not count as a try that
/// failed.
const PROGRESS_BYTES: u64 = 1 << 20;

/// Content that comes from a registry. A broken connection is replaced by
/// another one that goes on where the first ended, a bounded number of times.
pub struct Body {
    registry: Registry,
    reference: Reference,
    descriptor: Descriptor,
    endpoints: Vec<Arc<Endpoint>>,
    /// Which of them is asked first.
    first: usize,
    /// How much has come, or was skipped, in bytes.
    offset: u64,
    open: Option<Open>,
    /// Tries in a row that failed, and where and when the first of them began.
    failures: u32,
    mark: (u64, Instant),
}

/// An answer that is being read.
struct Open {
    response: Response,
    /// What the host sends again although we have it, in bytes.
    skip: u64,
    _permit: OwnedSemaphorePermit,
}

impl Registry {
    /// Opens content for reading, from `offset` on.
    ///
    /// # Errors
    /// As for [`Self::resolve`]; `DataLoss` when it has another length.
    pub async fn fetch(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        offset: u64,
    ) -> Result<Body> {
        if offset > descriptor.size {
            let (digest, size) = (&descriptor.digest, descriptor.size);
            return Err(Error::new(
                ErrorKind::OutOfRange,
                format!("offset {offset} of {digest}, which has {size} bytes"),
            ));
        }
        let endpoints = self.endpoints(reference, |can| can.pull).await?;
        let mut body = Body {
            registry: self.clone(),
            reference: reference.clone(),
            descriptor: descriptor.clone(),
            endpoints,
            first: 0,
            offset,
            open: None,
            failures: 0,
            mark: (offset, Instant::now()),
        };
        if offset < descriptor.size {
            body.open = Some(body.connect().await?);
        }
        Ok(body)
    }
}

impl Body {
    /// The next piece, which is not empty; none at the end. A call that was cut
    /// short has lost nothing.
    ///
    /// # Errors
    /// As for [`Registry::fetch`].
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        while self.offset < self.descriptor.size {
            let Some(open) = &mut self.open else {
                self.open = Some(self.connect().await?);
                continue;
            };
            let what = || format!("read {}", self.descriptor.digest);
            let idle = self.registry.limits().idle;
            let failure = match timeout(idle, open.response.chunk()).await {
                Ok(Ok(Some(mut piece))) => {
                    let known = open.skip.min(piece.len() as u64);
                    open.skip -= known;
                    piece.advance(usize::try_from(known).unwrap_or(piece.len()));
                    if piece.is_empty() {
                        continue;
                    }
                    return self.count(piece).map(Some);
                }
                Ok(Ok(None)) => Failure::fatal(Error::new(
                    ErrorKind::DataLoss,
                    format!("{}: it ended after {} bytes", what(), self.offset),
                )),
                Ok(Err(error)) => Failure::from_request(&what(), error),
                Err(_) => Failure::timeout(&what(), idle),
            };
            self.broken(failure.error).await?;
        }
        self.end().await.map(|()| None)
    }

    /// All has come. A host that does not say how long its answer is may have
    /// more; it is not read any further.
    async fn end(&mut self) -> Result<()> {
        let Some(mut open) = self.open.take() else { return Ok(()) };
        if open.response.content_length().is_some() {
            return Ok(());
        }
        match timeout(self.registry.limits().idle, open.response.chunk()).await {
            Ok(Ok(Some(piece))) if !piece.is_empty() => Err(self.other_length("more than")),
            // However it ends, what was wanted is here.
            _ => Ok(()),
        }
    }

    /// How much of the content has come, in bytes, with what was skipped.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    fn count(&mut self, piece: Bytes) -> Result<Bytes> {
        let length = piece.len() as u64;
        if length > self.descriptor.size - self.offset {
            self.open = None;
            return Err(self.other_length("more than"));
        }
        self.offset += length;
        Ok(piece)
    }

    fn other_length(&self, more: &str) -> Error {
        let (digest, size) = (&self.descriptor.digest, self.descriptor.size);
        Error::new(
            ErrorKind::DataLoss,
            format!("{digest} must have {size} bytes: {more} that came"),
        )
    }

    /// The connection broke. Waits, unless it broke too often.
    async fn broken(&mut self, error: Error) -> Result<()> {
        self.open = None;
        let (offset, since) = self.mark;
        if self.offset - offset >= PROGRESS_BYTES {
            (self.failures, self.mark) = (0, (self.offset, Instant::now()));
        }
        self.failures += 1;
        // Perhaps another one has it whole.
        self.first = (self.first + 1) % self.endpoints.len();
        let limits = self.registry.limits();
        if self.failures >= limits.tries || (self.failures > 1 && since.elapsed() >= limits.request)
        {
            return Err(error);
        }
        let (digest, offset) = (&self.descriptor.digest, self.offset);
        tracing::debug!(%digest, offset, error = %error.report(), "reading on over a new connection");
        limits.wait(self.failures, None).await;
        Ok(())
    }

    /// Asks the hosts for the rest, first the one that answered last.
    async fn connect(&mut self) -> Result<Open> {
        let count = self.endpoints.len();
        let mut failed = Failed::default();
        for step in 0..count {
            let at = (self.first + step) % count;
            let endpoint = self.endpoints[at].clone();
            match self.connect_to(&endpoint, step + 1 == count).await {
                Ok(open) => {
                    self.first = at;
                    return Ok(open);
                }
                Err(error) => failed.add(endpoint.host(), error),
            }
        }
        if failed.0.as_ref().is_some_and(Error::is_not_found) {
            for url in &self.descriptor.urls {
                match self.connect_elsewhere(url).await {
                    Ok(open) => return Ok(open),
                    Err(error) => failed.add(url, error),
                }
            }
        }
        let error = failed.into_error();
        let what = format!("fetch {} of {}", self.descriptor.digest, self.reference.name());
        Err(Error::caused(error.kind(), what, error))
    }

    async fn connect_to(&self, endpoint: &Endpoint, patient: bool) -> Result<Open> {
        let Descriptor { media_type, digest, .. } = &self.descriptor;
        let document = media_type::is_manifest(media_type) || media_type::is_index(media_type);
        let folder = if document { "manifests" } else { "blobs" };
        let mut call = Call::read(Method::GET, &self.reference, format!("{folder}/{digest}"))
            .header(header::ACCEPT, &accept(media_type))?;
        if self.offset > 0 {
            call = call.header(header::RANGE, &format!("bytes={}-", self.offset))?;
        }
        call.verified = true;
        call.patient = patient;
        let permit = turn(endpoint).await?;
        let response = endpoint.send(&call, &[]).await?;
        self.opened(response, permit)
    }

    /// Asks for content where its descriptor says that it can be had, too: some
    /// may not be passed on by others. They get to know nothing of us.
    async fn connect_elsewhere(&self, address: &str) -> Result<Open> {
        let bad = || Error::invalid(format!("bad address {address:?} of content"));
        let url = Url::parse(address).map_err(|_| bad())?;
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return Err(bad());
        }
        let endpoint = self.endpoints.last().ok_or_else(|| Error::internal("no host"))?;
        let mut outgoing = Outgoing { verified: true, ..Outgoing::new(Method::GET, url) };
        if self.offset > 0 {
            let range = HeaderValue::from_str(&format!("bytes={}-", self.offset));
            outgoing.headers.insert(header::RANGE, range.map_err(|_| bad())?);
        }
        let permit = turn(endpoint).await?;
        let http = &endpoint.http;
        let response = http.follow(&outgoing).await.map_err(|failure| failure.error)?;
        if !response.status().is_success() {
            let (what, idle) = (outgoing.what(), http.limits.idle);
            return Err(Failure::from_answer(&what, response, idle).await.error);
        }
        self.opened(response, permit)
    }

    /// Checks what an answer says of itself.
    fn opened(&self, response: Response, permit: OwnedSemaphorePermit) -> Result<Open> {
        let digest = &self.descriptor.digest;
        if let Some(coding) = response.headers().get(header::CONTENT_ENCODING)
            && coding != "identity"
        {
            return Err(Error::new(
                ErrorKind::DataLoss,
                format!("{digest} came in a coding {coding:?} that was not asked for"),
            ));
        }
        let skip = if response.status() == StatusCode::PARTIAL_CONTENT {
            self.check_range(&response)?;
            0
        } else {
            self.offset
        };
        // What is announced wrong need not be read.
        if let Some(length) = response.content_length()
            && length != self.descriptor.size - self.offset + skip
        {
            return Err(self.other_length(&format!("{} of", length + self.offset - skip)));
        }
        Ok(Open { response, skip, _permit: permit })
    }

    /// Does the answer go on where we asked for (RFC 9110, section 14.4)?
    fn check_range(&self, response: &Response) -> Result<()> {
        let header = response.headers().get(header::CONTENT_RANGE);
        let text = header.and_then(|value| value.to_str().ok()).unwrap_or_default();
        let good = || {
            let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
            let (start, _) = range.split_once('-')?;
            let total_good = total == "*" || total.parse() == Ok(self.descriptor.size);
            Some(start.parse() == Ok(self.offset) && total_good)
        };
        if good() == Some(true) {
            return Ok(());
        }
        let (digest, offset) = (&self.descriptor.digest, self.offset);
        Err(Error::new(
            ErrorKind::DataLoss,
            format!("{digest} was asked for from byte {offset} on, and {text:?} came"),
        ))
    }
}

/// Waits until one more blob may be read from a host.
async fn turn(endpoint: &Endpoint) -> Result<OwnedSemaphorePermit> {
    let turn = endpoint.bodies.clone().acquire_owned().await;
    turn.map_err(|error| Error::caused(ErrorKind::Internal, "wait for one's turn", error))
}

/// What we want, and that we take what there is.
fn accept(media_type: &str) -> String {
    // From a manifest, so it may be anything.
    let good = media_type.bytes().all(|b| b.is_ascii_graphic() && b != b',');
    if media_type.is_empty() || !good { "*/*".to_owned() } else { format!("{media_type}, */*") }
}
