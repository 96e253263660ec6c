//! The daemon's ttrpc endpoint for events.

use std::{
    collections::HashMap,
    path::Path,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use shim_protocol::{
    Context, Error, ErrorKind, Result,
    proto::{events_ttrpc::ForwardRequest, events_ttrpc_ttrpc::EventsClient},
    rpc::NAMESPACE_KEY,
};
use tokio::net::UnixStream;
use ttrpc::{r#async::Client, asynchronous::transport::Socket};

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
        // Not by `Client::connect`: that blocks the thread while the backlog of
        // a daemon that is stopped is full, and with it all containers.
        let stream = UnixStream::connect(&path).await.context_as(
            ErrorKind::Unavailable,
            "connect to",
            &path,
        )?;
        Ok(EventsClient::new(Client::new(Socket::from(stream))))
    }

    fn may_come_back(&self) -> bool {
        let path = self.path();
        let folder = path.as_deref().and_then(|path| Path::new(path).parent());
        // What cannot be looked at may be there.
        folder.is_some_and(|folder| folder.try_exists().unwrap_or(true))
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

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixListener, UnixStream as Blocking};

    use nix::sys::socket::{Backlog, listen};

    use super::*;

    #[tokio::test]
    async fn a_daemon_that_accepts_nobody_blocks_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        listen(&listener, Backlog::new(0).unwrap()).unwrap();
        let _first = Blocking::connect(&path).unwrap();
        let endpoint = Endpoint::new(path.to_str());
        assert_eq!(endpoint.connect().await.err().unwrap().kind(), ErrorKind::Unavailable);
    }

    #[test]
    fn a_daemon_comes_back_where_its_socket_can_be() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        assert!(!Endpoint::new(None).may_come_back());
        let endpoint = Endpoint::new(path.to_str());
        assert!(endpoint.may_come_back());
        folder.close().unwrap();
        assert!(!endpoint.may_come_back());
    }
}
