//! `types.API`, the gRPC service of containerd 0.0.4.

mod stats;

use std::{sync::Arc, time::Duration, time::SystemTime};

use containerd_api::legacy as api;
use containerd_core::legacy::{
    Checkpoint, Container, Create, Event, EventKind, Legacy, Process, ProcessSpec, Streams, User,
};
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use shim_protocol::{Error, ErrorKind, Result};
use tokio::time::{Interval, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::{convert::required, headers};
use crate::status;

/// How often figures are sent (containerd 0.0.4, `supervisor.go`).
const STATS_INTERVAL: Duration = Duration::from_secs(1);

pub(super) struct Service {
    pub(super) legacy: Arc<Legacy>,
    /// Set when the daemon drains: figures end then.
    pub(super) stop: CancellationToken,
}

fn create_in(request: api::CreateContainerRequest) -> Create {
    Create {
        id: request.id,
        bundle: request.bundle_path,
        streams: Streams {
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
            console: request.console,
            make_files: false,
        },
        checkpoint: request.checkpoint,
    }
}

/// The container, the process and its streams.
fn process_in(request: api::AddProcessRequest) -> (String, ProcessSpec, Streams) {
    let user = request.user.unwrap_or_default();
    let process = ProcessSpec {
        terminal: request.terminal,
        user: User { uid: user.uid, gid: user.gid, additional_gids: user.additional_gids },
        args: request.args,
        env: request.env,
        cwd: request.cwd,
    };
    let streams = Streams {
        stdin: request.stdin,
        stdout: request.stdout,
        stderr: request.stderr,
        console: request.console,
        make_files: false,
    };
    (request.id, process, streams)
}

fn process_out(process: Process) -> api::Process {
    let Process { pid, spec: ProcessSpec { terminal, user, args, env, cwd } } = process;
    let User { uid, gid, additional_gids } = user;
    let user = Some(api::User { uid, gid, additional_gids });
    api::Process { pid, terminal, user, args, env, cwd }
}

fn container_out(container: Container) -> api::Container {
    api::Container {
        id: container.id.to_string(),
        name: String::new(),
        bundle_path: container.bundle.to_string_lossy().into_owned(),
        processes: container.processes.into_iter().map(process_out).collect(),
        status: container.status.name().to_owned(),
    }
}

fn checkpoint_in(checkpoint: api::Checkpoint) -> Checkpoint {
    let api::Checkpoint { name, exit, tcp, unix_sockets, shell } = checkpoint;
    Checkpoint { name, created: SystemTime::UNIX_EPOCH, exit, tcp, unix_sockets, shell }
}

fn checkpoint_out(checkpoint: Checkpoint) -> api::Checkpoint {
    let Checkpoint { name, created: _, exit, tcp, unix_sockets, shell } = checkpoint;
    api::Checkpoint { name, exit, tcp, unix_sockets, shell }
}

/// What clients of 0.0.4 wait for is an `exit` with the pid, also of a process
/// that was added. That it was one says an `execExit` before it.
fn event_out(event: Event) -> Vec<api::Event> {
    let named = |name: &str| api::Event {
        r#type: name.to_owned(),
        id: event.id.to_string(),
        status: event.status,
        bundle_path: event.bundle.to_string_lossy().into_owned(),
        pid: event.pid,
        ..api::Event::default()
    };
    match event.kind {
        EventKind::ExecExit => {
            vec![named(EventKind::ExecExit.name()), named(EventKind::Exit.name())]
        }
        kind => vec![named(kind.name())],
    }
}

impl Service {
    async fn state(&self) -> Result<api::StateResponse> {
        let (containers, machine) = futures::try_join!(self.legacy.state(), self.legacy.machine())?;
        Ok(api::StateResponse {
            containers: containers.into_iter().map(container_out).collect(),
            machine: Some(api::Machine {
                id: machine.id,
                cpus: machine.cpus,
                memory: machine.memory,
            }),
        })
    }

    async fn create_checkpoint(&self, request: api::CreateCheckpointRequest) -> Result<()> {
        let checkpoint = checkpoint_in(required("checkpoint", request.checkpoint)?);
        self.legacy.create_checkpoint(&request.id, checkpoint).await
    }
}

/// The figures of a container, one after the other, until it has ended.
struct Figures {
    legacy: Arc<Legacy>,
    id: String,
    ticks: Interval,
    stop: CancellationToken,
}

impl Figures {
    async fn next(&mut self) -> Result<Option<api::Stats>> {
        loop {
            tokio::select! {
                _ = self.ticks.tick() => {}
                () = self.stop.cancelled() => {
                    return Err(Error::unavailable("the daemon is stopping"));
                }
            }
            match self.legacy.stats(&self.id).await {
                Ok(stats) => return stats::stats_out(stats).map(Some),
                Err(e) if e.is_not_found() => return Ok(None),
                // It may be busy now, and answer the next time.
                Err(e) if is_transient(e.kind()) => {
                    tracing::warn!(id = self.id, error = %e.report(), "figures are left out");
                }
                Err(e) => return Err(e),
            }
        }
    }
}

fn is_transient(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::DeadlineExceeded | ErrorKind::Unavailable)
}

#[tonic::async_trait]
impl api::api_server::Api for Service {
    async fn create_container(
        &self,
        request: Request<api::CreateContainerRequest>,
    ) -> Result<Response<api::CreateContainerResponse>, Status> {
        let create = create_in(request.into_inner());
        let pid = self.legacy.create(create).await.map_err(status::of)?;
        Ok(Response::new(api::CreateContainerResponse { pid }))
    }

    async fn update_container(
        &self,
        request: Request<api::UpdateContainerRequest>,
    ) -> Result<Response<api::UpdateContainerResponse>, Status> {
        let api::UpdateContainerRequest { id, signal, status } = request.into_inner();
        self.legacy.update(&id, &status, signal).await.map_err(status::of)?;
        Ok(Response::new(api::UpdateContainerResponse {}))
    }

    async fn signal(
        &self,
        request: Request<api::SignalRequest>,
    ) -> Result<Response<api::SignalResponse>, Status> {
        let api::SignalRequest { id, pid, signal } = request.into_inner();
        self.legacy.signal(&id, pid, signal).await.map_err(status::of)?;
        Ok(Response::new(api::SignalResponse {}))
    }

    async fn add_process(
        &self,
        request: Request<api::AddProcessRequest>,
    ) -> Result<Response<api::AddProcessResponse>, Status> {
        let (id, process, streams) = process_in(request.into_inner());
        let added = self.legacy.add_process(&id, process, streams).await.map_err(status::of)?;
        Ok(Response::new(api::AddProcessResponse { pid: added.pid }))
    }

    async fn create_checkpoint(
        &self,
        request: Request<api::CreateCheckpointRequest>,
    ) -> Result<Response<api::CreateCheckpointResponse>, Status> {
        Service::create_checkpoint(self, request.into_inner()).await.map_err(status::of)?;
        Ok(Response::new(api::CreateCheckpointResponse {}))
    }

    async fn delete_checkpoint(
        &self,
        request: Request<api::DeleteCheckpointRequest>,
    ) -> Result<Response<api::DeleteCheckpointResponse>, Status> {
        let api::DeleteCheckpointRequest { id, name } = request.into_inner();
        self.legacy.delete_checkpoint(&id, &name).await.map_err(status::of)?;
        Ok(Response::new(api::DeleteCheckpointResponse {}))
    }

    async fn list_checkpoint(
        &self,
        request: Request<api::ListCheckpointRequest>,
    ) -> Result<Response<api::ListCheckpointResponse>, Status> {
        let id = request.into_inner().id;
        let found = self.legacy.list_checkpoints(&id).await.map_err(status::of)?;
        let checkpoints = found.into_iter().map(checkpoint_out).collect();
        Ok(Response::new(api::ListCheckpointResponse { checkpoints }))
    }

    async fn state(
        &self,
        _: Request<api::StateRequest>,
    ) -> Result<Response<api::StateResponse>, Status> {
        Service::state(self).await.map(Response::new).map_err(status::of)
    }

    type EventsStream = BoxStream<'static, Result<api::Event, Status>>;

    /// The stream ends when the exchange is closed, which a drain does.
    async fn events(
        &self,
        request: Request<api::EventsRequest>,
    ) -> Result<Response<Self::EventsStream>, Status> {
        let name = match headers::peer(&request) {
            Some(pid) => format!("legacy {pid}"),
            None => "legacy".to_owned(),
        };
        let events = self.legacy.subscribe(name).await.map_err(status::of)?;
        let events = stream::try_unfold(events, async |mut events| {
            let next = events.next().await.map_err(status::of)?;
            Ok::<_, Status>(next.map(|event| (event, events)))
        });
        let named = events.flat_map(|event| match event {
            Ok(event) => stream::iter(event_out(event).into_iter().map(Ok).collect::<Vec<_>>()),
            Err(status) => stream::iter(vec![Err(status)]),
        });
        Ok(Response::new(named.boxed()))
    }

    type GetStatsStream = BoxStream<'static, Result<api::Stats, Status>>;

    async fn get_stats(
        &self,
        request: Request<api::StatsRequest>,
    ) -> Result<Response<Self::GetStatsStream>, Status> {
        let id = request.into_inner().id;
        // A container that is not there is an error, one that ends is not.
        self.legacy.stats(&id).await.map_err(status::of)?;
        let mut ticks = interval(STATS_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let figures = Figures { legacy: self.legacy.clone(), id, ticks, stop: self.stop.clone() };
        let figures = stream::try_unfold(figures, async |mut figures| {
            let next = figures.next().await.map_err(status::of)?;
            Ok(next.map(|stats| (stats, figures)))
        });
        Ok(Response::new(figures.boxed()))
    }
}
