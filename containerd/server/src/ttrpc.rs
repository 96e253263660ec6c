//! The endpoint on which shims deliver their events.
//!
//! A shim may forget an event once it has the answer, so the answer is given
//! when the exchange has recorded the event and not before.

use std::sync::Arc;

use containerd_core::{
    Any,
    events::{Envelope, Exchange, Timestamp},
};
use shim_protocol::{
    Context, Error, Id, Result,
    proto::{
        events_ttrpc::ForwardRequest,
        events_ttrpc_ttrpc::{Events, create_events},
    },
};
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use ttrpc::r#async::{Server, TtrpcContext, transport::Listener};

/// The running endpoint.
pub(crate) struct Endpoint(Server);

impl Endpoint {
    /// Serves `listener`.
    ///
    /// # Errors
    /// When the server does not start.
    pub(crate) async fn start(listener: UnixListener, events: Arc<Exchange>) -> Result<Self> {
        let mut server = Server::new()
            .add_listener(Listener::new(UnixListenerStream::new(listener)))
            .register_service(create_events(Arc::new(Service(events))));
        server.start().await.map_err(Error::from).context("serve", "events of shims")?;
        Ok(Self(server))
    }

    /// Closes all connections. Shims keep what they could not deliver.
    pub(crate) async fn shutdown(mut self) {
        if let Err(e) = self.0.shutdown().await {
            tracing::warn!(error = %e, "the endpoint of shims did not end cleanly");
        }
    }
}

struct Service(Arc<Exchange>);

#[tonic::async_trait]
impl Events for Service {
    async fn forward(
        &self,
        _: &TtrpcContext,
        request: ForwardRequest,
    ) -> ttrpc::Result<protobuf::well_known_types::empty::Empty> {
        let forwarded = decode(request).and_then(|envelope| self.0.forward(envelope));
        if let Err(e) = &forwarded {
            // The shim may drop it now, so this is where it is heard of last.
            tracing::error!(error = %e.report(), "an event of a shim was refused");
        }
        forwarded?;
        Ok(Default::default())
    }
}

fn decode(request: ForwardRequest) -> Result<Envelope> {
    let missing = |what| Error::invalid(format!("{what} is required"));
    let envelope = request.envelope.into_option().ok_or_else(|| missing("envelope"))?;
    let event = envelope.event.into_option().ok_or_else(|| missing("event"))?;
    let timestamp = envelope
        .timestamp
        .into_option()
        .map_or(Timestamp::ZERO, |time| Timestamp::from_parts(time.seconds, time.nanos));
    Ok(Envelope {
        timestamp,
        namespace: Id::new("namespace", &envelope.namespace)?,
        topic: envelope.topic,
        event: Any { type_url: event.type_url, value: event.value },
    })
}
