//! Figures of the daemon and of its containers: for Prometheus at
//! `/v1/metrics`, and of the daemon alone in the log, as the first containerd
//! wrote them there.

mod calls;
mod cgroups;
mod count;
mod log;
mod own;
mod text;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use containerd_core::{events::Exchange, gc::Scheduler, tasks::Tasks};
use futures::future::join_all;
use shim_protocol::{Context, Error, ErrorKind, Result};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

pub(crate) use calls::Calls;
pub(crate) use count::Count;
pub(crate) use log::Log;

use self::text::Families;
use crate::http::{self, Listening};

/// Where Prometheus looks (containerd, `cmd/containerd/server`).
const PATH: &str = "/v1/metrics";

/// How long containers are asked. Prometheus waits for ten seconds, unless it
/// is told otherwise (`scrape_timeout`).
const DEADLINE: Duration = Duration::from_secs(5);

/// What figures are taken from.
#[derive(Clone)]
pub(crate) struct Sources {
    pub(crate) tasks: Arc<Tasks>,
    pub(crate) events: Arc<Exchange>,
    pub(crate) gc: Scheduler,
    /// Counted only if it is asked for.
    pub(crate) calls: Option<Arc<Calls>>,
}

/// A port is bound, and nothing is served.
pub(crate) struct Bound(Listening);

impl Bound {
    /// Binds `host:port`; none if that is empty.
    ///
    /// # Errors
    /// Those of [`Listening::tcp`].
    pub(crate) async fn bind(address: &str) -> Result<Option<Self>> {
        if address.is_empty() {
            return Ok(None);
        }
        let listening = Listening::tcp(address, address).await;
        Ok(Some(Self(listening.context("serve", "metrics")?)))
    }

    /// Serves until `stop` is set.
    pub(crate) fn serve(self, sources: Sources, stop: CancellationToken) -> http::Running {
        tracing::info!(address = %self.0, "serving metrics");
        self.0.serve(Router::new().route(PATH, get(metrics)).with_state(sources), stop)
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
    if let Some(calls) = &sources.calls {
        calls.add_to(&mut families);
    }
    // One that hangs costs its own figures, and the time of nobody else; unless the
    // configuration has shims waited for longer than this: then those of its namespace.
    let deadline = Instant::now() + DEADLINE;
    let asked = sources.tasks.namespaces().into_iter().map(|namespace| async {
        let found = timeout_at(deadline, sources.tasks.metrics(&namespace, &[])).await;
        let late = |_| Err(Error::new(ErrorKind::DeadlineExceeded, format!("{DEADLINE:?}")));
        (namespace, found.unwrap_or_else(late))
    });
    for (namespace, found) in join_all(asked).await {
        match found {
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
