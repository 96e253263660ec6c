//! What can go wrong with a request, as an error with a kind, and whether
//! trying again may help.

use std::{error::Error as StdError, io, time::Duration};

use reqwest::{Response, StatusCode, Url, header};
use serde::Deserialize;
use shim_protocol::{Error, ErrorKind};
use tokio::time::timeout;

/// How much of an answer that tells an error is read, in bytes.
const BODY_MAX_BYTES: usize = 16 << 10;
/// How much of what a host says is shown, in characters.
const MESSAGE_MAX_CHARS: usize = 512;
/// How many of its errors are shown.
const ERRORS_MAX: usize = 5;

/// A request that failed.
pub(super) struct Failure {
    pub(super) error: Error,
    pub(super) again: Again,
}

/// Whether trying again may help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Again {
    /// It would end in the same way.
    No,
    /// After a while, or after as long as the host asks for.
    Later(Option<Duration>),
    /// Without TLS, which the host does not seem to speak.
    Plain,
}

impl Failure {
    /// No answer came.
    pub(super) fn from_request(what: &str, error: reqwest::Error) -> Self {
        let (kind, again) = match tls_trouble(&error) {
            Some(TlsTrouble::Unheard) => (ErrorKind::Unavailable, Again::Plain),
            Some(TlsTrouble::Refused) => (ErrorKind::Unavailable, Again::No),
            None if error.is_timeout() => (ErrorKind::DeadlineExceeded, Again::Later(None)),
            None if error.is_builder() => (ErrorKind::InvalidArgument, Again::No),
            None => (ErrorKind::Unavailable, Again::Later(None)),
        };
        // The address is in `what`, without its secrets.
        Self { error: Error::caused(kind, what.to_owned(), error.without_url()), again }
    }

    /// No answer came in time.
    pub(super) fn timeout(what: &str, limit: Duration) -> Self {
        let error = Error::new(
            ErrorKind::DeadlineExceeded,
            format!("{what}: nothing came for {} seconds", limit.as_secs_f64()),
        );
        Self { error, again: Again::Later(None) }
    }

    /// The answer says that it failed. What it says of why is read.
    pub(super) async fn from_answer(what: &str, response: Response, idle: Duration) -> Self {
        let status = response.status();
        let mut text = format!("{what}: {status}");
        let again = match status.as_u16() {
            408 | 429 | 500 | 502..=504 => Again::Later(retry_after(&response)),
            _ => Again::No,
        };
        if let Again::Later(Some(wait)) = again {
            text = format!("{text}, try again in {} seconds", wait.as_secs());
        }
        if let Some(message) = message(response, idle).await {
            text = format!("{text}: {message}");
        }
        Self { error: Error::new(kind(status), text), again }
    }

    /// It would end in the same way when tried again.
    pub(super) fn fatal(error: Error) -> Self {
        Self { error, again: Again::No }
    }
}

/// The kind of error that an answer tells.
fn kind(status: StatusCode) -> ErrorKind {
    match status.as_u16() {
        401 | 403 => ErrorKind::PermissionDenied,
        404 => ErrorKind::NotFound,
        405 | 501 => ErrorKind::Unimplemented,
        408 | 504 => ErrorKind::DeadlineExceeded,
        409 => ErrorKind::Aborted,
        412 => ErrorKind::FailedPrecondition,
        413 | 507 => ErrorKind::ResourceExhausted,
        416 => ErrorKind::OutOfRange,
        429 | 500 | 502 | 503 => ErrorKind::Unavailable,
        400..=499 => ErrorKind::InvalidArgument,
        _ => ErrorKind::Unknown,
    }
}

/// An address as it is shown: what stands behind `?` may be a secret.
pub(super) fn shown(url: &Url) -> String {
    let authority = url.authority().rsplit('@').next().unwrap_or_default();
    format!("{}://{authority}{}", url.scheme(), url.path())
}

enum TlsTrouble {
    /// The other side answered with something else than TLS, or not at all.
    Unheard,
    /// The other side is not the one that is meant, or will not speak to us.
    Refused,
}

/// Finds what went wrong with TLS in the causes of an error.
fn tls_trouble(error: &reqwest::Error) -> Option<TlsTrouble> {
    let judge = |tls: &rustls::Error| match tls {
        rustls::Error::InvalidMessage(_) => TlsTrouble::Unheard,
        _ => TlsTrouble::Refused,
    };
    let mut next: Option<&(dyn StdError + 'static)> = error.source();
    while let Some(cause) = next {
        if let Some(tls) = cause.downcast_ref::<rustls::Error>() {
            return Some(judge(tls));
        }
        if let Some(io) = cause.downcast_ref::<io::Error>() {
            // Its `source` is the cause of what it holds, and passes that over.
            match io.get_ref() {
                Some(inner) => {
                    next = Some(inner);
                    continue;
                }
                None if error.is_connect() && io.kind() == io::ErrorKind::UnexpectedEof => {
                    return Some(TlsTrouble::Unheard);
                }
                None => {}
            }
        }
        next = cause.source();
    }
    None
}

/// How long a host wants us to wait.
fn retry_after(response: &Response) -> Option<Duration> {
    let value = response.headers().get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let then = httpdate::parse_http_date(value).ok()?;
    // A time that is past is no wait.
    Some(then.duration_since(std::time::SystemTime::now()).unwrap_or_default())
}

/// What a host says of an error (distribution specification, "Error Codes").
#[derive(Deserialize)]
struct Told {
    errors: Vec<ToldError>,
}

#[derive(Deserialize)]
struct ToldError {
    code: Option<String>,
    message: Option<String>,
}

/// What a host says of an error, made fit to be shown.
async fn message(mut response: Response, idle: Duration) -> Option<String> {
    let mut body = Vec::new();
    // Best effort: that it failed is known, and only the reason may be missing.
    while body.len() < BODY_MAX_BYTES {
        match timeout(idle, response.chunk()).await {
            Ok(Ok(Some(piece))) => {
                let room = BODY_MAX_BYTES - body.len();
                body.extend_from_slice(&piece[..piece.len().min(room)]);
            }
            _ => break,
        }
    }
    let text = match serde_json::from_slice::<Told>(&body) {
        Ok(told) => {
            let one = |error: &ToldError| {
                let parts = [error.code.as_deref(), error.message.as_deref()];
                parts.into_iter().flatten().collect::<Vec<_>>().join(": ")
            };
            told.errors.iter().take(ERRORS_MAX).map(one).collect::<Vec<_>>().join("; ")
        }
        Err(_) => String::from_utf8_lossy(&body).into_owned(),
    };
    let text = printable(&text);
    (!text.is_empty()).then_some(text)
}

/// A host's words in one line of bounded length.
fn printable(text: &str) -> String {
    let clean = |c: char| if c.is_control() || c.is_whitespace() { ' ' } else { c };
    let text: String = text.trim().chars().map(clean).take(MESSAGE_MAX_CHARS).collect();
    text.trim().to_owned()
}
