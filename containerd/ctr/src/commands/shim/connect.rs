//! A connection to a shim.

use std::{collections::HashMap, path::Path};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};
use shim_protocol::{
    Error, ErrorKind,
    proto::{
        task_v2::{
            DeleteRequest, DeleteResponse, ExecProcessRequest, ResizePtyRequest, ShutdownRequest,
            StartRequest, StartResponse, StateRequest, StateResponse,
        },
        task_v2_ttrpc as v2, task_v3_ttrpc as v3,
    },
    rpc::NAMESPACE_KEY,
};
use ttrpc::{asynchronous::Client, context};

use crate::cli::Global;

/// Where shims listen.
const SOCKET_DIR: &str = "/run/containerd/s";

/// A shim, by whichever version of its service it has.
pub(super) struct ShimClient {
    namespace: String,
    v3: v3::TaskClient,
    v2: v2::TaskClient,
}

macro_rules! methods {
    ($($method:ident($request:ty) -> $response:ty;)+) => {
        $(pub(super) async fn $method(&self, request: &$request) -> Result<$response> {
            let newer = match self.v3.$method(self.context(), request).await {
                Ok(response) => return Ok(response),
                Err(error) => Error::from(error),
            };
            // Go's shims say "unimplemented" of a service that they do not
            // have, those on the ttrpc crate "invalid argument".
            if !matches!(newer.kind(), ErrorKind::Unimplemented | ErrorKind::InvalidArgument) {
                return Err(newer).context(stringify!($method));
            }
            let response = self.v2.$method(self.context(), request).await;
            response.map_err(Error::from).context(stringify!($method))
        })+
    };
}

impl ShimClient {
    /// Connects to a shim by its address, or to that of a container.
    pub(super) async fn connect(
        global: &Global,
        id: Option<&str>,
        address: Option<&str>,
    ) -> Result<Self> {
        let address = match (address, id) {
            (Some(address), _) => address.to_owned(),
            (None, Some(id)) => address_of(&global.address, &global.namespace, id),
            (None, None) => bail!("either --id or --shim-address must be given"),
        };
        // Old shims have abstract sockets, whose addresses have no scheme; the
        // connector wants an @ before them.
        let target = match address.strip_prefix("unix://") {
            Some(_) => address.clone(),
            None if address.starts_with('/') => format!("unix://{address}"),
            None => format!("unix://@{}", address.trim_start_matches('\0')),
        };
        let client = Client::connect(&target)
            .await
            .map_err(Error::from)
            .with_context(|| format!("connect to shim at {address}"))?;
        Ok(Self {
            namespace: global.namespace.clone(),
            v3: v3::TaskClient::new(client.clone()),
            v2: v2::TaskClient::new(client),
        })
    }

    fn context(&self) -> context::Context {
        let metadata = HashMap::from([(NAMESPACE_KEY.to_owned(), vec![self.namespace.clone()])]);
        context::with_metadata(metadata)
    }

    methods! {
        state(StateRequest) -> StateResponse;
        start(StartRequest) -> StartResponse;
        delete(DeleteRequest) -> DeleteResponse;
        exec(ExecProcessRequest) -> protobuf::well_known_types::empty::Empty;
        resize_pty(ResizePtyRequest) -> protobuf::well_known_types::empty::Empty;
        shutdown(ShutdownRequest) -> protobuf::well_known_types::empty::Empty;
    }
}

/// Where the shim of a container listens that a daemon at `daemon` started
/// (containerd, `SocketAddress` in `pkg/shim/util_unix.go`).
fn address_of(daemon: &Path, namespace: &str, id: &str) -> String {
    let path = daemon.join(namespace).join(id);
    let digest = Sha256::digest(path.as_os_str().as_encoded_bytes());
    format!("unix://{SOCKET_DIR}/{digest:x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_follows_from_the_daemons() {
        // printf %s /run/containerd/containerd.sock/default/a | sha256sum
        assert_eq!(
            address_of(Path::new("/run/containerd/containerd.sock"), "default", "a"),
            "unix:///run/containerd/s/82795ca4b9b166c1139546afbf9dfd59d74776e0b49c8edfbb195f9d8b9e94a6"
        );
    }
}
