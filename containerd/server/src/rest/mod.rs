//! The REST API of 2015: containers with nothing but curl.
//!
//! Like the gRPC socket it makes whoever reaches it the owner of the host, and
//! a port has no owner. So it is not served unless the configuration says
//! where, other hosts do not reach it unless that is said as well, and what
//! comes by way of a browser is refused.

mod address;
mod failure;
mod guard;
pub(crate) mod listener;
mod routes;
#[cfg(test)]
mod tests;
mod wire;

use std::{io, net::SocketAddr, sync::Arc};

use containerd_core::legacy::Legacy;
use shim_protocol::{Context, Error, ErrorKind, Result};
use tokio::{
    net::{TcpListener, UnixListener, lookup_host},
    task::JoinHandle,
    time,
};
use tokio_util::sync::CancellationToken;

pub(crate) use address::Address;

use self::listener::{Limited, Listening};
use crate::{
    app::DRAIN_DEADLINE,
    config::{Rest, Socket},
    socket,
};

/// A socket is bound, and nothing is served.
pub(crate) struct Bound {
    listening: Listening,
    /// The socket to be removed.
    socket: Option<Socket>,
    allow_remote: bool,
}

/// Clients are served.
pub(crate) struct Running {
    server: JoinHandle<io::Result<()>>,
    socket: Option<Socket>,
}

impl Bound {
    /// Binds what the configuration says; none if the API is not to be served.
    ///
    /// # Errors
    /// `InvalidArgument` when it is no address of this host; those of
    /// [`socket::bind`] and of the system.
    pub(crate) async fn bind(config: &Rest) -> Result<Option<Self>> {
        let allow_remote = config.allow_remote;
        let (listening, socket) = match Address::of(config)? {
            None => return Ok(None),
            Some(Address::Unix(path)) => {
                let socket = Socket { address: path, uid: 0, gid: 0 };
                let listener: UnixListener = socket::bind(&socket)?;
                (Listening::Unix(listener), Some(socket))
            }
            Some(Address::Tcp { host, port }) => {
                let listener = bind_tcp(&host, port, allow_remote).await;
                (Listening::Tcp(listener.context("serve REST at", &config.address)?), None)
            }
        };
        Ok(Some(Self { listening, socket, allow_remote }))
    }

    /// Serves until `stop` is set.
    pub(crate) fn serve(self, legacy: Arc<Legacy>, stop: CancellationToken) -> Running {
        let Self { listening, socket, allow_remote } = self;
        tracing::info!(address = %listening, "serving REST");
        let hosts = match (&listening, allow_remote) {
            (Listening::Tcp(_), false) => guard::Hosts::Own,
            _ => guard::Hosts::Any,
        };
        let routes = routes::routes(legacy, hosts);
        let server = axum::serve(Limited::new(listening), routes)
            .with_graceful_shutdown(stop.cancelled_owned());
        Running { server: tokio::spawn(server.into_future()), socket }
    }
}

impl Running {
    /// Waits until requests have ended, but not longer than a deadline; `stop`
    /// must be set. Says whether all have.
    pub(crate) async fn drain(mut self) -> bool {
        let clean = time::timeout(DRAIN_DEADLINE, &mut self.server).await.is_ok();
        if !clean {
            self.server.abort();
        }
        if let Some(socket) = &self.socket {
            socket::remove(socket);
        }
        clean
    }
}

/// A name may stand for addresses that are not the host's own.
async fn bind_tcp(host: &str, port: u16, allow_remote: bool) -> Result<TcpListener> {
    let found = lookup_host((host, port)).await.context("look up", host)?;
    let own: Vec<SocketAddr> =
        found.filter(|address| allow_remote || address.ip().is_loopback()).collect();
    if own.is_empty() {
        return Err(Error::invalid(format!("{host} is not this host")));
    }
    TcpListener::bind(own.as_slice()).await.map_err(|e| {
        let kind = match e.kind() {
            io::ErrorKind::AddrInUse => ErrorKind::FailedPrecondition,
            io::ErrorKind::AddrNotAvailable => ErrorKind::InvalidArgument,
            _ => ErrorKind::Internal,
        };
        Error::caused(kind, format!("bind {host}:{port}"), e)
    })
}
