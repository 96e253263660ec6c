//! The REST API of 2015: containers with nothing but curl.
//!
//! Like the gRPC socket it makes whoever reaches it the owner of the host, and
//! a port has no owner. So it is not served unless the configuration says
//! where, other hosts do not reach it unless that is said as well, and what
//! comes by way of a browser is refused.

mod address;
mod failure;
mod guard;
mod routes;
#[cfg(test)]
mod tests;
mod wire;

use std::{net::SocketAddr, sync::Arc};

use containerd_core::legacy::Legacy;
use shim_protocol::{Context, Error, Result};
use tokio::net::{UnixListener, lookup_host};
use tokio_util::sync::CancellationToken;

pub(crate) use address::Address;

use crate::{
    config::{Rest, Socket},
    http::{self, Listening},
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
    server: http::Running,
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
                (listener.context("serve REST at", &config.address)?, None)
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
        Running { server: listening.serve(routes, stop), socket }
    }
}

impl Running {
    /// As [`http::Running::drain`], and then the socket is removed.
    pub(crate) async fn drain(self) -> bool {
        let clean = self.server.drain().await;
        if let Some(socket) = &self.socket {
            socket::remove(socket);
        }
        clean
    }
}

/// A name may stand for addresses that are not the host's own.
async fn bind_tcp(host: &str, port: u16, allow_remote: bool) -> Result<Listening> {
    let found = lookup_host((host, port)).await.context("look up", host)?;
    let own: Vec<SocketAddr> =
        found.filter(|address| allow_remote || address.ip().is_loopback()).collect();
    if own.is_empty() {
        return Err(Error::invalid(format!("{host} is not this host")));
    }
    Listening::tcp(own.as_slice(), &format!("{host}:{port}")).await
}
