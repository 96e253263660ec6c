//! The phases of the daemon's life, each a type: a [`Config`] is checked and
//! touches nothing; an [`App`] holds root, state and sockets, but answers
//! nobody; [`Running`] answers until it is drained.

use std::{io, sync::Arc, time::Duration};

use containerd_core::{
    legacy::Keeper,
    restart::{Monitor, MonitorConfig},
};
use futures::{Stream, stream};
use shim_protocol::{Context, Error, ErrorKind, Result};
use tokio::{net::UnixListener, task::JoinHandle, time};
use tokio_util::sync::CancellationToken;
use tonic::transport::{self, Server};

use crate::{
    assembly::Core, authority::Lenient, config::Config, host, http, identity::Identity, metrics,
    plugins, rest, services, socket, ttrpc::Endpoint,
};

/// How long requests may take to end once the daemon drains.
pub(crate) const DRAIN_DEADLINE: Duration = Duration::from_secs(10);

/// How long shims may take to deliver what they kept while there was no
/// daemon: those written in Go try for 15 seconds.
const LATE_EVENTS: Duration = Duration::from_secs(25);

/// How long to wait when a connection could not be accepted, most likely for
/// want of descriptors.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// Everything is open and bound, and nothing is served.
pub(crate) struct App {
    config: Config,
    core: Core,
    identity: Identity,
    grpc: UnixListener,
    ttrpc: UnixListener,
    rest: Option<rest::Bound>,
    metrics: Option<metrics::Bound>,
}

impl App {
    /// Makes the folders, opens what is on disk, and binds the sockets.
    ///
    /// # Errors
    /// `FailedPrecondition` when another daemon has the root or a socket;
    /// those of the system, with the folder, file or socket in question.
    pub(crate) async fn bind(config: Config) -> Result<Self> {
        host::prepare(&config)?;
        // Locks the root, so it comes before the sockets of a daemon that runs.
        let core = Core::open(&config).await?;
        let identity = Identity::load(&config.root)?;
        let grpc = socket::bind(&config.grpc.socket)?;
        let ttrpc = socket::bind(&config.ttrpc)?;
        let rest = if config.is_disabled(plugins::REST) {
            None
        } else {
            rest::Bound::bind(&config.rest).await?
        };
        let metrics = metrics::Bound::bind(&config.metrics.address).await?;
        Ok(Self { config, core, identity, grpc, ttrpc, rest, metrics })
    }

    /// Takes over what an earlier daemon left running, then serves.
    ///
    /// # Errors
    /// When the folder of bundles cannot be read.
    pub(crate) async fn start(self) -> Result<Running> {
        let Self { config, core, identity, grpc, ttrpc, rest, metrics } = self;
        // Shims deliver what they kept while their states are asked for.
        let endpoint = Endpoint::start(ttrpc, core.events.clone()).await?;
        core.manager.recover().await.context("recover", "tasks")?;
        let keeper = Keeper::prepare(core.legacy.clone()).await;
        let stop = CancellationToken::new();
        // Nothing is waited for between this and the first answer.
        let keeper = keeper.serve();
        let (routes, services) = services::routes(&core, identity, &config, &stop);
        let calls = metrics
            .is_some()
            .then(|| Arc::new(metrics::Calls::new(&services, config.metrics.grpc_histogram)));
        let sources = metrics::Sources {
            tasks: core.tasks.clone(),
            events: core.events.clone(),
            gc: core.gc.clone(),
            calls: calls.clone(),
        };
        let background = Background::start(&core, &config, keeper, sources.clone(), &stop);
        core.events.serve();
        let server = Server::builder()
            .layer(metrics::Count(calls))
            .add_routes(routes)
            .serve_with_incoming_shutdown(incoming(grpc), stop.clone().cancelled_owned());
        tracing::info!(address = %config.grpc.socket.address.display(), "serving gRPC");
        tracing::info!(address = %config.ttrpc.address.display(), "serving ttrpc");
        let rest = rest.map(|bound| bound.serve(core.legacy.clone(), stop.clone()));
        let metrics = metrics.map(|bound| bound.serve(sources, stop.clone()));
        let server = tokio::spawn(server);
        Ok(Running { config, core, endpoint, background, stop, server, rest, metrics })
    }
}

/// What the daemon does by itself while it serves.
struct Background {
    /// Announces tasks that were lost while there was no daemon.
    lost: JoinHandle<()>,
    /// Writes events that the journal could not take.
    journal: JoinHandle<()>,
    monitor: Option<Monitor>,
    /// Looks after the containers of the APIs of 2015.
    keeper: Keeper,
    /// Writes figures to the log.
    figures: Option<metrics::Log>,
}

impl Background {
    fn start(
        core: &Core,
        config: &Config,
        keeper: Keeper,
        sources: metrics::Sources,
        stop: &CancellationToken,
    ) -> Self {
        let tasks = core.tasks.clone();
        let stopped = stop.clone().cancelled_owned();
        let lost = tokio::spawn(async move {
            if time::timeout(LATE_EVENTS, stopped).await.is_ok() {
                return;
            }
            let lost = tasks.close_lost();
            if lost > 0 {
                tracing::warn!(lost, "tasks were lost while there was no daemon");
            }
        });
        let events = core.events.clone();
        let stopped = stop.clone().cancelled_owned();
        let journal = tokio::spawn(async move {
            tokio::select! {
                () = events.keep_up() => {}
                () = stopped => {}
            }
        });
        let monitor = (!config.is_disabled(plugins::RESTART)).then(|| {
            Monitor::start(
                MonitorConfig { interval: config.restart_interval },
                core.namespaces.clone(),
                core.containers.clone(),
                core.tasks.clone(),
                core.events.clone(),
            )
        });
        let figures = metrics::Log::start(config.metrics.interval, sources, stop.clone());
        Self { lost, journal, monitor, keeper, figures }
    }

    /// Ends it; the daemon's stop must have been asked for.
    async fn shutdown(self) {
        if let Some(monitor) = self.monitor {
            monitor.shutdown().await;
        }
        self.keeper.shutdown().await;
        if let Some(figures) = self.figures {
            figures.shutdown().await;
        }
        if let Err(e) = self.lost.await {
            tracing::error!(error = %e, "the search for lost tasks ended in a panic");
        }
        if let Err(e) = self.journal.await {
            tracing::error!(error = %e, "the keeper of the event journal ended in a panic");
        }
    }
}

/// Connections, for ever: one that could not be accepted is no reason to end.
fn incoming(
    listener: UnixListener,
) -> impl Stream<Item = io::Result<Lenient<tokio::net::UnixStream>>> {
    stream::unfold(listener, async |listener| {
        loop {
            match listener.accept().await {
                Ok((connection, _)) => return Some((Ok(Lenient::new(connection)), listener)),
                Err(e) => {
                    tracing::warn!(error = %e, "a connection was not accepted");
                    time::sleep(ACCEPT_BACKOFF).await;
                }
            }
        }
    })
}

/// Clients are served.
pub(crate) struct Running {
    config: Config,
    core: Core,
    endpoint: Endpoint,
    background: Background,
    stop: CancellationToken,
    server: JoinHandle<std::result::Result<(), transport::Error>>,
    rest: Option<rest::Running>,
    metrics: Option<http::Running>,
}

impl Running {
    /// Waits until the server ends by itself, which it should not.
    pub(crate) async fn failed(&mut self) -> Error {
        match (&mut self.server).await {
            Ok(Ok(())) => Error::internal("the gRPC server ended"),
            Ok(Err(e)) => Error::caused(ErrorKind::Internal, "the gRPC server ended", e),
            Err(e) => Error::caused(ErrorKind::Internal, "the gRPC server ended", e),
        }
    }

    /// The daemon's tasks and their states, for whoever looks for trouble.
    pub(crate) async fn dump(&self) {
        host::dump(&self.core, &self.config.state).await;
    }

    /// Takes no more requests, ends streams, and waits for the rest, but not
    /// longer than a deadline. Containers are left alone. Says whether all
    /// requests have ended.
    pub(crate) async fn drain(mut self) -> bool {
        self.stop.cancel();
        self.core.events.close();
        // One that has failed was waited for already, and must not be again.
        let grpc = async {
            self.server.is_finished()
                || time::timeout(DRAIN_DEADLINE, &mut self.server).await.is_ok()
        };
        let rest = async {
            match self.rest.take() {
                Some(rest) => rest.drain().await,
                None => true,
            }
        };
        let metrics = async {
            match self.metrics.take() {
                Some(metrics) => metrics.drain().await,
                None => true,
            }
        };
        let (grpc, rest, metrics) = tokio::join!(grpc, rest, metrics);
        if !grpc {
            self.server.abort();
        }
        let clean = grpc && rest && metrics;
        self.background.shutdown().await;
        self.core.leave_tasks().await;
        self.endpoint.shutdown().await;
        // Before the root is unlocked: then they may be another daemon's.
        for socket in [&self.config.grpc.socket, &self.config.ttrpc] {
            socket::remove(socket);
        }
        self.core.shutdown().await;
        clean
    }
}

#[cfg(test)]
mod tests;
