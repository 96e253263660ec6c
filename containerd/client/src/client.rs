//! The connection to a daemon.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use tonic::transport::{Channel, Endpoint};

use crate::{Context, Error, ErrorKind, Namespace, Result};

/// What Go clients and daemons allow for one message, in bytes. A list of a
/// few thousand containers with their specs is more than tonic's 4 MiB.
pub(crate) const MAX_MESSAGE_BYTES: usize = 16 << 20;

/// A connection to a daemon. Clones share it.
///
/// When the daemon goes away, calls fail with [`ErrorKind::Unavailable`]; when
/// it is back, the next call connects again by itself.
#[derive(Clone, Debug)]
pub struct Client {
    channel: Channel,
}

impl Client {
    /// Connects to the daemon that listens on the unix socket `path`.
    ///
    /// ```no_run
    /// # async fn run() -> containerd_client::Result<()> {
    /// let client = containerd_client::Client::connect("/run/containerd/containerd.sock").await?;
    /// println!("containerd {}", client.version().await?.version);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`ConnectOptions::connect`].
    pub async fn connect(path: impl AsRef<Path>) -> Result<Self> {
        ConnectOptions::new(path).connect().await
    }

    /// A view of one namespace. Nothing is asked of the daemon yet: the
    /// namespace need not exist.
    pub fn namespace(&self, name: impl Into<String>) -> Namespace {
        Namespace::new(self.clone(), name.into())
    }

    /// The channel, for services that this library has no handle for: the
    /// stubs in `containerd_api` take it as it is.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }
}

/// How to connect.
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    path: PathBuf,
    timeout: Duration,
}

impl ConnectOptions {
    /// Options for the unix socket `path`. The default timeout is 10 seconds.
    pub fn new(path: impl AsRef<Path>) -> Self {
        Self { path: path.as_ref().to_owned(), timeout: Duration::from_secs(10) }
    }

    /// How long the connection may take. It bounds the connection alone; calls
    /// take the time they need, for `wait` may take days.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Connects.
    ///
    /// # Errors
    /// - `InvalidArgument`: the path is not UTF-8.
    /// - `NotFound` or `PermissionDenied`: the socket cannot be reached.
    /// - `Unavailable`: nobody listens on it.
    /// - `DeadlineExceeded`: it took too long.
    pub async fn connect(&self) -> Result<Client> {
        let path = self.path.display();
        let Some(text) = self.path.to_str() else {
            return Err(Error::invalid(format!("socket path {path} is not UTF-8")));
        };
        // Tells a missing socket from one that nobody listens on: the
        // transport's error does not.
        std::fs::metadata(text).context("access socket", &path)?;

        let endpoint = Endpoint::from_shared(format!("unix://{text}"))
            .map_err(|e| Error::caused(ErrorKind::InvalidArgument, format!("address {path}"), e))?;
        let channel = tokio::time::timeout(self.timeout, endpoint.connect())
            .await
            .map_err(|_| {
                let context = format!("connect to {path} within {:?}", self.timeout);
                Error::new(ErrorKind::DeadlineExceeded, context)
            })?
            .map_err(|e| Error::caused(ErrorKind::Unavailable, format!("connect to {path}"), e))?;
        Ok(Client { channel })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_missing_socket_is_not_found() {
        let error = Client::connect("/nowhere/containerd.sock").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert_eq!(error.to_string(), "access socket /nowhere/containerd.sock");
    }

    #[tokio::test]
    async fn a_socket_without_listener_is_unavailable() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dead.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let error = Client::connect(&path).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
    }
}
