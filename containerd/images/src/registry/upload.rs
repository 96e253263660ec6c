//! One upload of a blob: in one piece, in several, or the rest of one that was
//! cut (distribution specification, "Pushing blobs").

use std::{
    pin::pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::{Stream, stream};
use reqwest::{
    Body, Method, Response, StatusCode, Url,
    header::{self, HeaderValue},
};
use shim_protocol::{Error, ErrorKind, Result};
use tokio::time::timeout;

use super::{
    Progress,
    endpoint::{Call, Endpoint, Place},
    failure::{Again, Failure, shown},
    http::location,
};
use crate::{
    Descriptor, Digest, Reference,
    store::{ContentReader, ContentStore},
};

/// What the beginning of an upload led to.
pub(super) enum Started {
    /// The registry has the blob now.
    Done,
    /// It takes the blob there.
    At(Url),
}

/// An upload that has begun.
pub(super) struct Upload {
    endpoint: Arc<Endpoint>,
    reference: Reference,
    descriptor: Descriptor,
    location: Url,
    /// How much the registry has, in bytes.
    offset: u64,
}

impl Upload {
    /// Begins an upload.
    pub(super) async fn start(endpoint: &Endpoint, reference: &Reference) -> Result<Started> {
        Self::begin(endpoint, Self::call(reference)).await
    }

    /// Asks for the blob of another repository; begins an upload if that cannot
    /// be had.
    pub(super) async fn mount(
        endpoint: &Endpoint,
        reference: &Reference,
        digest: &Digest,
        from: &str,
    ) -> Result<Started> {
        let mut call = Self::call(reference);
        call.scopes.push(format!("repository:{from}:pull"));
        call.query = vec![("mount", digest.to_string()), ("from", from.to_owned())];
        Self::begin(endpoint, call).await
    }

    fn call(reference: &Reference) -> Call {
        let place = Place::Repository("blobs/uploads/".to_owned());
        let mut call = Call::write(Method::POST, reference, place);
        call.body = Some(Bytes::new());
        call
    }

    async fn begin(endpoint: &Endpoint, call: Call) -> Result<Started> {
        let response = endpoint.send(&call, &[]).await?;
        if response.status() == StatusCode::CREATED {
            return Ok(Started::Done);
        }
        match location(&response) {
            Some(Ok(location)) => Ok(Started::At(location)),
            _ => Err(Error::new(
                ErrorKind::DataLoss,
                format!("{}: the registry does not say where a blob goes", endpoint.host()),
            )),
        }
    }

    /// Nothing was sent yet.
    pub(super) fn new(
        endpoint: &Arc<Endpoint>,
        reference: &Reference,
        descriptor: &Descriptor,
        location: Url,
    ) -> Self {
        Self {
            endpoint: endpoint.clone(),
            reference: reference.clone(),
            descriptor: descriptor.clone(),
            location,
            offset: 0,
        }
    }

    /// Sends what the registry does not have yet.
    pub(super) async fn send(
        &mut self,
        store: &dyn ContentStore,
        progress: Option<&Progress>,
    ) -> Result<Response, Failure> {
        let size = self.descriptor.size;
        let chunk = self.endpoint.http.limits.upload_chunk.unwrap_or(u64::MAX).max(1);
        if self.offset == 0 && size <= chunk {
            let url = self.commit_url();
            return self.stream(Method::PUT, url, size, store, progress).await;
        }
        while self.offset < size {
            let length = chunk.min(size - self.offset);
            let url = self.location.clone();
            let response = self.stream(Method::PATCH, url, length, store, progress).await?;
            self.go_on(&response).map_err(Failure::fatal)?;
            self.offset += length;
        }
        let mut call = Call::write(Method::PUT, &self.reference, Place::At(self.commit_url()));
        call.body = Some(Bytes::new());
        // Asked once more by whoever sends the whole.
        self.endpoint.send(&call, &[]).await.map_err(Failure::fatal)
    }

    /// Asks how much the registry has. Whether the upload can go on.
    pub(super) async fn resume(&mut self) -> bool {
        let call = Call::write(Method::GET, &self.reference, Place::At(self.location.clone()));
        let response = match self.endpoint.send(&call, &[]).await {
            Ok(response) => response,
            Err(error) => {
                tracing::debug!(error = %error.report(), "the upload is lost");
                return false;
            }
        };
        let range = response.headers().get(header::RANGE).and_then(|value| value.to_str().ok());
        let end = range.and_then(|range| range.rsplit('-').next()?.parse::<u64>().ok());
        // `0-0` is also said of an upload that has nothing.
        match end {
            Some(end) if end > 0 && end < self.descriptor.size => {
                self.offset = end + 1;
                self.go_on(&response).is_ok()
            }
            _ => false,
        }
    }

    /// Tells the registry that nothing will come. It would notice by itself,
    /// some days later.
    pub(super) async fn cancel(self) {
        let mut call = Call::write(Method::DELETE, &self.reference, Place::At(self.location));
        call.patient = false;
        if let Err(error) = self.endpoint.send(&call, &[]).await {
            tracing::debug!(error = %error.report(), "an upload stays, unused");
        }
    }

    /// The place of an upload may change with each answer.
    fn go_on(&mut self, response: &Response) -> Result<()> {
        match location(response) {
            None => Ok(()),
            Some(Ok(location)) => {
                self.location = location;
                Ok(())
            }
            Some(Err(why)) => Err(Error::new(ErrorKind::DataLoss, why)),
        }
    }

    fn commit_url(&self) -> Url {
        let mut url = self.location.clone();
        url.query_pairs_mut().append_pair("digest", &self.descriptor.digest.to_string());
        url
    }

    /// Sends the next `length` bytes.
    async fn stream(
        &self,
        method: Method,
        url: Url,
        length: u64,
        store: &dyn ContentStore,
        progress: Option<&Progress>,
    ) -> Result<Response, Failure> {
        let what = format!("{method} {}", shown(&url));
        let digest = &self.descriptor.digest;
        let reader = store.read(digest, self.offset).await.map_err(Failure::fatal)?;
        let sent = Arc::new(Sent::default());
        let pieces = pieces(reader, self.offset, length, sent.clone(), progress.cloned());
        let scopes = [format!("repository:{}:pull,push", self.reference.path())];
        let private = self.endpoint.private_headers(&url, &scopes).await.map_err(Failure::fatal)?;
        let used = private.get(header::AUTHORIZATION).cloned();
        let mut request = self
            .endpoint
            .http
            .client
            .request(method.clone(), url)
            .header(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"))
            .header(header::CONTENT_LENGTH, length)
            .headers(private)
            .body(Body::wrap_stream(pieces));
        if method == Method::PATCH {
            let range = format!("{}-{}", self.offset, self.offset + length - 1);
            request = request.header(header::CONTENT_RANGE, range);
        }
        let answer = self.unless_stuck(&what, request, length, &sent).await;
        if let Some(error) = sent.take_error() {
            return Err(Failure::fatal(error));
        }
        let response = answer?;
        if response.status().is_success() {
            return Ok(response);
        }
        if response.status() == StatusCode::UNAUTHORIZED {
            let call = Call::write(method, &self.reference, Place::At(self.location.clone()));
            self.endpoint
                .learn(&response, &call, &scopes, used.as_ref())
                .await
                .map_err(Failure::fatal)?;
            let error = Error::new(ErrorKind::PermissionDenied, format!("{what}: not authorized"));
            return Err(Failure { error, again: Again::Later(Some(Duration::ZERO)) });
        }
        Err(Failure::from_answer(&what, response, self.endpoint.http.limits.idle).await)
    }

    /// Waits for the answer as long as bytes go out, and then as long as a
    /// registry may need to check them.
    async fn unless_stuck(
        &self,
        what: &str,
        request: reqwest::RequestBuilder,
        length: u64,
        sent: &Sent,
    ) -> Result<Response, Failure> {
        let limits = &self.endpoint.http.limits;
        let mut answer = pin!(request.send());
        loop {
            let before = sent.bytes.load(Ordering::Relaxed);
            let limit = if before == length { limits.request } else { limits.idle };
            match timeout(limit, &mut answer).await {
                Ok(answer) => {
                    return answer.map_err(|error| Failure::from_request(what, error));
                }
                Err(_) if sent.bytes.load(Ordering::Relaxed) != before => {}
                Err(_) => return Err(Failure::timeout(what, limit)),
            }
        }
    }
}

/// What became of the pieces of a stream that another task reads.
#[derive(Default)]
struct Sent {
    bytes: AtomicU64,
    error: Mutex<Option<Error>>,
}

impl Sent {
    fn take_error(&self) -> Option<Error> {
        self.error.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn fail(&self, error: Error) -> std::io::Error {
        *self.error.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        std::io::Error::other("content cannot be read")
    }
}

/// Exactly `length` bytes of a reader that begins at `offset`.
fn pieces(
    reader: Box<dyn ContentReader>,
    offset: u64,
    length: u64,
    sent: Arc<Sent>,
    progress: Option<Progress>,
) -> impl Stream<Item = std::io::Result<Bytes>> + Send + 'static {
    stream::try_unfold((reader, 0), move |(mut reader, done)| {
        let (sent, progress) = (sent.clone(), progress.clone());
        async move {
            if done == length {
                return Ok(None);
            }
            let mut piece = match reader.next().await {
                Ok(Some(piece)) => piece,
                Ok(None) => {
                    let text = format!("content ends {} bytes too early", length - done);
                    return Err(sent.fail(Error::new(ErrorKind::DataLoss, text)));
                }
                Err(error) => return Err(sent.fail(error)),
            };
            piece.truncate(usize::try_from(length - done).unwrap_or(usize::MAX));
            let done = done + piece.len() as u64;
            sent.bytes.store(done, Ordering::Relaxed);
            if let Some(progress) = progress {
                progress(offset + done);
            }
            Ok(Some((piece, (reader, done))))
        }
    })
}
