//! The connection to another process that provides a part of the daemon.

use std::{fmt::Display, time::Duration};

use containerd_api::NAMESPACE_HEADER;
use shim_protocol::{Context, Error, ErrorKind, Id, Result};
use tokio::time::timeout;
use tonic::{
    Request, Status,
    transport::{Channel, Endpoint},
};

use crate::status;

/// How long connecting may take.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);

/// The connection to the socket at `address`, which may come later, and come
/// again: it is made when it is needed.
///
/// # Errors
/// `InvalidArgument` when the address is none of a socket.
pub(super) fn lazy(address: &str) -> Result<Channel> {
    let path = address.strip_prefix("unix://").unwrap_or(address);
    if !path.starts_with('/') {
        return Err(Error::invalid(format!("{address:?} is no path of a socket")));
    }
    let endpoint = Endpoint::from_shared(format!("unix://{path}")).map_err(|e| {
        Error::caused(ErrorKind::InvalidArgument, format!("use the address {address:?}"), e)
    })?;
    Ok(endpoint.connect_timeout(CONNECT_DEADLINE).connect_lazy())
}

/// A request about the snapshot `name`, with a deadline. The namespace that the
/// name begins with goes along, as it does from containerd.
pub(super) fn request<T>(message: T, name: &str, deadline: Duration) -> Request<T> {
    let namespace = name.split('/').next().unwrap_or_default();
    let mut request = match Id::new("namespace", namespace) {
        Ok(namespace) => request_in(&namespace, message),
        Err(_) => Request::new(message),
    };
    request.set_timeout(deadline);
    request
}

/// A request in a namespace.
pub(super) fn request_in<T>(namespace: &Id, message: T) -> Request<T> {
    let mut request = Request::new(message);
    if let Ok(value) = namespace.parse() {
        request.metadata_mut().insert(NAMESPACE_HEADER, value);
    }
    request
}

/// Waits for the whole of an answer. A request's own timeout is over when the
/// answer begins.
///
/// # Errors
/// `DeadlineExceeded` when it takes too long; those of the answer.
pub(super) async fn within<T>(
    deadline: Duration,
    action: &str,
    subject: impl Display,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    timeout(deadline, work).await.unwrap_or_else(|_| {
        let text = format!("{action} {subject}: no answer within {deadline:?}");
        Err(Error::new(ErrorKind::DeadlineExceeded, text))
    })
}

/// What another process answered, as our own error.
pub(super) fn answer<T>(
    answer: Result<T, Status>,
    action: &str,
    subject: impl Display,
) -> Result<T> {
    let outcome = answer.map_err(|status| {
        // Only a failure on this side has a cause: the connection broke, by
        // whatever code the transport calls that.
        let lost = std::error::Error::source(&status).is_some();
        let kind = if lost { ErrorKind::Unavailable } else { status::kind(status.code()) };
        Error::new(kind, status.message().to_owned())
    });
    outcome.context(action, subject)
}
