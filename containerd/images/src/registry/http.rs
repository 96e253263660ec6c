//! One request and its answer, over as many redirections as are allowed.
//!
//! What is only for one host never goes to another: a registry often sends us
//! on to a store of blobs that belongs to somebody else.

use std::{
    collections::HashSet,
    hash::{BuildHasher, RandomState},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use reqwest::{
    Client, Method, Response, StatusCode, Url,
    header::{self, HeaderMap, HeaderValue},
};
use shim_protocol::{Error, ErrorKind, Result};
use tokio::time::timeout;

use super::{
    Limits,
    failure::{Failure, shown},
};

/// Makes requests, with one host's settings.
#[derive(Clone)]
pub(super) struct Http {
    pub(super) client: Client,
    pub(super) limits: Limits,
}

/// A request.
pub(super) struct Outgoing {
    pub(super) method: Method,
    pub(super) url: Url,
    /// For whoever answers.
    pub(super) headers: HeaderMap,
    /// Only for the host that is named in `url`.
    pub(super) private: HeaderMap,
    pub(super) body: Option<Bytes>,
    /// What comes is checked against its digest, so it may come from anywhere.
    pub(super) verified: bool,
}

impl Outgoing {
    /// A request with nothing but an address.
    pub(super) fn new(method: Method, url: Url) -> Self {
        let (headers, private) = (HeaderMap::new(), HeaderMap::new());
        Self { method, url, headers, private, body: None, verified: false }
    }

    /// Names it in messages.
    pub(super) fn what(&self) -> String {
        format!("{} {}", self.method, shown(&self.url))
    }
}

impl Http {
    /// Makes a request, and follows where the answer points.
    pub(super) async fn follow(&self, outgoing: &Outgoing) -> Result<Response, Failure> {
        let what = outgoing.what();
        let refuse = |why: &str| {
            Failure::fatal(Error::new(ErrorKind::Unavailable, format!("{what}: {why}")))
        };
        let mut url = outgoing.url.clone();
        let mut seen = HashSet::new();
        loop {
            let mut request = self
                .client
                .request(outgoing.method.clone(), url.clone())
                // What is meant are the bytes that have the digest.
                .header(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"))
                .headers(outgoing.headers.clone());
            if same_origin(&url, &outgoing.url) {
                request = request.headers(outgoing.private.clone());
            }
            if let Some(body) = &outgoing.body {
                request = request.body(body.clone());
            }
            let response = timeout(self.limits.response, request.send())
                .await
                .map_err(|_| Failure::timeout(&what, self.limits.response))?
                .map_err(|error| Failure::from_request(&what, error))?;
            if !is_redirection(response.status(), &outgoing.method) {
                return Ok(response);
            }
            let Some(next) = location(&response) else { return Ok(response) };
            let next = next.map_err(&refuse)?;
            if url.scheme() == "https" && next.scheme() != "https" && !outgoing.verified {
                return Err(refuse("redirected to an address without TLS"));
            }
            // A form of a token server has our secret in it.
            if outgoing.body.is_some() && !same_origin(&next, &outgoing.url) {
                return Err(refuse("redirected to another host, which gets nothing from us"));
            }
            if !seen.insert(url) || seen.contains(&next) {
                return Err(refuse("redirected in a circle"));
            }
            if seen.len() > self.limits.redirects {
                return Err(refuse("redirected too often"));
            }
            url = next;
        }
    }
}

/// Same scheme, name and port?
pub(super) fn same_origin(a: &Url, b: &Url) -> bool {
    a.scheme() == b.scheme()
        && a.host_str() == b.host_str()
        && a.port_or_known_default() == b.port_or_known_default()
}

/// Requests that change something are only repeated where the status asks for
/// exactly that.
fn is_redirection(status: StatusCode, method: &Method) -> bool {
    match status.as_u16() {
        307 | 308 => true,
        301..=303 => matches!(*method, Method::GET | Method::HEAD),
        _ => false,
    }
}

/// Where an answer points, if anywhere.
pub(super) fn location(response: &Response) -> Option<Result<Url, &'static str>> {
    let value = response.headers().get(header::LOCATION)?;
    let Ok(text) = value.to_str() else { return Some(Err("bad address in Location")) };
    let url = match response.url().join(text) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => url,
        _ => return Some(Err("bad address in Location")),
    };
    if !url.username().is_empty() || url.password().is_some() {
        return Some(Err("a password in Location"));
    }
    Some(Ok(url))
}

/// Reads an answer as a whole.
///
/// # Errors
/// `ResourceExhausted` when it has more than `max_bytes`; `DeadlineExceeded`
/// when nothing comes for `idle`.
pub(super) async fn read_all(
    what: &str,
    mut response: Response,
    max_bytes: u64,
    idle: Duration,
) -> Result<Bytes, Failure> {
    let too_long = || {
        Failure::fatal(Error::new(
            ErrorKind::ResourceExhausted,
            format!("{what}: the answer has more than {max_bytes} bytes"),
        ))
    };
    if response.content_length().is_some_and(|length| length > max_bytes) {
        return Err(too_long());
    }
    let mut body = BytesMut::new();
    loop {
        let piece = timeout(idle, response.chunk())
            .await
            .map_err(|_| Failure::timeout(what, idle))?
            .map_err(|error| Failure::from_request(what, error))?;
        let Some(piece) = piece else { return Ok(body.freeze()) };
        if (body.len() + piece.len()) as u64 > max_bytes {
            return Err(too_long());
        }
        body.extend_from_slice(&piece);
    }
}

impl Limits {
    /// Waits before a try; `tries` were made, and the host may have asked for a
    /// longer wait. Many who wait for the same host do not all come back at
    /// once.
    pub(super) async fn wait(&self, tries: u32, asked: Option<Duration>) {
        let doubled = self.backoff.saturating_mul(1 << tries.saturating_sub(1).min(16));
        let longest = doubled.max(asked.unwrap_or_default()).min(self.backoff_max);
        // Each state is made with other numbers.
        let random = RandomState::new().hash_one(tries) % 256;
        let part = longest / 512 * u32::try_from(random).unwrap_or_default();
        // What the host asked for is not made shorter.
        let wait = if asked.is_some() { longest + part } else { longest - part };
        tokio::time::sleep(wait.min(self.backoff_max)).await;
    }
}
