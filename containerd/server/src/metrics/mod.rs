//! Figures of the daemon and of its containers: for Prometheus at
//! `/v1/metrics`, and of the daemon alone in the log, as the first containerd
//! wrote them there.

mod cgroups;
mod log;
mod own;
mod text;

use std::{io, sync::Arc};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use containerd_core::{events::Exchange, tasks::Tasks};
use shim_protocol::{Context, Error, ErrorKind, Result};
use tokio::{net::TcpListener, task::JoinHandle, time};
use tokio_util::sync::CancellationToken;

pub(crate) use log::Log;

use self::text::Families;
use crate::{
    app::DRAIN_DEADLINE,
    rest::listener::{Limited, Listening},
};

/// Where Prometheus looks (containerd, `cmd/containerd/server`).
const PATH: &str = "/v1/metrics";

/// What figures are taken from.
#[derive(Clone)]
pub(crate) struct Sources {
    pub(crate) tasks: Arc<Tasks>,
    pub(crate) events: Arc<Exchange>,
}

/// A port is bound, and nothing is served.
pub(crate) struct Bound(TcpListener);

/// Prometheus is served.
pub(crate) struct Running(JoinHandle<io::Result<()>>);

impl Bound {
    /// Binds `host:port`; none if that is empty.
    ///
    /// # Errors
    /// `FailedPrecondition` when somebody listens there; those of the system.
    pub(crate) async fn bind(address: &str) -> Result<Option<Self>> {
        if address.is_empty() {
            return Ok(None);
        }
        let listener = TcpListener::bind(address).await.map_err(|e| {
            let kind = match e.kind() {
                io::ErrorKind::AddrInUse => ErrorKind::FailedPrecondition,
                io::ErrorKind::InvalidInput | io::ErrorKind::AddrNotAvailable => {
                    ErrorKind::InvalidArgument
                }
                _ => ErrorKind::Internal,
            };
            Error::caused(kind, format!("bind {address}"), e)
        });
        Ok(Some(Self(listener.context("serve", "metrics")?)))
    }

    /// Serves until `stop` is set.
    pub(crate) fn serve(self, sources: Sources, stop: CancellationToken) -> Running {
        let listening = Listening::Tcp(self.0);
        tracing::info!(address = %listening, "serving metrics");
        let routes = Router::new().route(PATH, get(metrics)).with_state(sources);
        let server = axum::serve(Limited::new(listening), routes)
            .with_graceful_shutdown(stop.cancelled_owned());
        Running(tokio::spawn(server.into_future()))
    }
}

impl Running {
    /// Waits until requests have ended, but not longer than a deadline; `stop`
    /// must be set. Says whether all have.
    pub(crate) async fn drain(mut self) -> bool {
        let clean = time::timeout(DRAIN_DEADLINE, &mut self.0).await.is_ok();
        if !clean {
            self.0.abort();
        }
        clean
    }
}

async fn metrics(State(sources): State<Sources>) -> Response {
    let mut families = Families::default();
    let own = tokio::task::spawn_blocking({
        let sources = sources.clone();
        let alive = tokio::runtime::Handle::current().metrics().num_alive_tasks();
        move || own::read(&sources, alive)
    });
    match own.await {
        Ok(figures) => figures.add_to(&mut families),
        Err(panic) => {
            tracing::error!(error = %panic, "figures of the daemon ended in a panic");
            return StatusCode::INTERNAL_SERVER_ERROR.into_response();
        }
    }
    for namespace in sources.tasks.namespaces() {
        match sources.tasks.metrics(&namespace, &[]).await {
            Ok(metrics) => {
                for metric in metrics {
                    cgroups::add(&mut families, &namespace, &metric);
                }
            }
            Err(error) => tracing::warn!(%namespace, error = %error.report(), "no metrics"),
        }
    }
    ([(header::CONTENT_TYPE, text::CONTENT_TYPE)], families.render()).into_response()
}
