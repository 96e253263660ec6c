//! `containerd publish`: how older shims deliver an event.

use std::{
    io::{self, Read},
    path::Path,
};

use containerd_api::{
    NAMESPACE_HEADER,
    services::events::v1::{PublishRequest, events_client::EventsClient},
};
use prost::Message;
use shim_protocol::{Context, Error, ErrorKind, Id, Result};
use tonic::{Request, Status, metadata::MetadataValue, transport::Endpoint};

/// Publishes the `Any` on standard input through the daemon at `address`.
///
/// # Errors
/// `InvalidArgument` for malformed input; `Unavailable` when there is no
/// daemon; what the daemon says.
pub(crate) async fn publish(address: &Path, topic: String, namespace: &str) -> Result<()> {
    let namespace = Id::new("namespace", namespace)?;
    let mut input = Vec::new();
    // The process has nothing else to do than wait for this.
    io::stdin().lock().read_to_end(&mut input).context("read", "standard input")?;
    let event = prost_types::Any::decode(input.as_slice())
        .map_err(|e| Error::caused(ErrorKind::InvalidArgument, "decode standard input", e))?;

    let shown = address.display();
    let unreachable =
        |e| Error::caused(ErrorKind::Unavailable, format!("connect to daemon {shown}"), e);
    let path = address.to_str().map(|path| path.trim_start_matches("unix://"));
    let path = path.ok_or_else(|| Error::invalid(format!("address {shown} is not text")))?;
    let channel = Endpoint::from_shared(format!("unix://{path}"))
        .map_err(unreachable)?
        .connect()
        .await
        .map_err(unreachable)?;
    let mut request = Request::new(PublishRequest { topic, event: Some(event) });
    let header = MetadataValue::try_from(namespace.as_str())
        .map_err(|e| Error::caused(ErrorKind::InvalidArgument, "namespace", e))?;
    request.metadata_mut().insert(NAMESPACE_HEADER, header);
    let refused = |e: Status| Error::caused(ErrorKind::Unknown, "publish", e);
    EventsClient::new(channel).publish(request).await.map_err(refused)?;
    Ok(())
}
