//! The daemon's ttrpc endpoint for events.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use shim_protocol::{
    Context, Error, Result,
    proto::{events_ttrpc::ForwardRequest, events_ttrpc_ttrpc::EventsClient},
    rpc::NAMESPACE_KEY,
};
use ttrpc::r#async::Client;

use super::delivery::{Connection, Daemon};

/// How long the daemon may take for one event.
const FORWARD_TIMEOUT: Duration = Duration::from_secs(5);

/// A daemon known by the path of its ttrpc socket, which may move.
pub struct Endpoint {
    path: Mutex<Option<String>>,
}

impl Endpoint {
    /// `address` is what `TTRPC_ADDRESS` says: a path, or a `unix://` URI.
    /// Without one, events wait until somebody tells it.
    pub fn new(address: Option<&str>) -> Self {
        let endpoint = Self { path: Mutex::default() };
        if let Some(address) = address {
            endpoint.set(address);
        }
        endpoint
    }

    /// The daemon is there from now on. An empty address changes nothing.
    pub fn set(&self, address: &str) {
        let path = address.strip_prefix("unix://").unwrap_or(address);
        if !path.is_empty() {
            *self.path.lock().unwrap_or_else(PoisonError::into_inner) = Some(path.into());
        }
    }

    /// Where the daemon is, if anybody has said.
    pub fn path(&self) -> Option<String> {
        self.path.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[async_trait]
impl Daemon for Endpoint {
    type Connection = EventsClient;

    async fn connect(&self) -> Result<EventsClient> {
        let path = self.path().ok_or_else(|| Error::unavailable("no address to send events to"))?;
        let client = Client::connect(&format!("unix://{path}"))
            .await
            .map_err(Error::from)
            .context("connect to", &path)?;
        Ok(EventsClient::new(client))
    }
}

#[async_trait]
impl Connection for EventsClient {
    async fn forward(&self, event: &ForwardRequest) -> Result<()> {
        let namespace = event.envelope.namespace.clone();
        let mut context = ttrpc::context::with_duration(FORWARD_TIMEOUT);
        context.metadata = HashMap::from([(NAMESPACE_KEY.to_owned(), vec![namespace])]);
        EventsClient::forward(self, context, event).await?;
        Ok(())
    }
}
