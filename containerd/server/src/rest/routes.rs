//! Which request is which call of the core.

use std::{io, sync::Arc, time::Duration};

use axum::{
    Extension, Router,
    body::{Body, BodyDataStream, Bytes},
    extract::{Path, Request, State, rejection::PathRejection},
    http::{Method, StatusCode, Uri, header},
    middleware,
    response::{IntoResponse, Response},
    routing::{get, post, put},
};
use containerd_core::legacy::{Legacy, LegacyEvents, Streams};
use futures::{StreamExt, stream};
use serde::{Serialize, de::DeserializeOwned};
use shim_protocol::{Error, ErrorKind};
use tokio::{sync::Semaphore, time::timeout};

use super::{
    failure::{Failure, plain},
    guard::{self, Hosts},
    wire::{Checkpoint, Event, NewCheckpoint, NewContainer, Process, Signal, Update},
};

/// The biggest request, in bytes: a process with all of its environment is
/// smaller, since the kernel takes no more.
const MAX_BODY: usize = 1 << 20;

/// How long a request may take to come, without its head.
const BODY_LIMIT: Duration = Duration::from_secs(30);

/// How much more is read of one that is bigger, in bytes.
const MAX_SURPLUS: usize = 64 << 20;

/// How long that may take.
const SURPLUS_LIMIT: Duration = Duration::from_secs(10);

/// Clients that listen to events at the same time, which takes a connection for as
/// long as they like. Half of those that there are.
const LISTENERS: usize = 64;

/// The description of the API.
const DESCRIPTION: &str = include_str!("openapi.json");

type Answer = Result<Response, Failure>;
type Core = State<Arc<Legacy>>;
type Named<T> = Result<Path<T>, PathRejection>;

pub(super) fn routes(legacy: Arc<Legacy>, hosts: Hosts) -> Router {
    Router::new()
        .route("/state", get(state))
        .route("/events", get(events))
        .route("/openapi.json", get(description))
        .route("/containers/{id}", post(create).patch(update))
        .route("/containers/{id}/process", put(add_process))
        .route("/containers/{id}/processes", put(add_process))
        .route("/containers/{id}/process/{pid}", post(signal))
        .route("/containers/{id}/checkpoint", get(list_checkpoints))
        .route(
            "/containers/{id}/checkpoint/{name}",
            post(create_checkpoint).delete(delete_checkpoint),
        )
        .fallback(nothing)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn_with_state(hosts, guard::guard))
        .layer(Extension(Arc::new(Semaphore::new(LISTENERS))))
        .with_state(legacy)
}

async fn nothing(uri: Uri) -> impl IntoResponse {
    plain(StatusCode::NOT_FOUND, &format!("there is nothing at {}", uri.path()))
}

async fn wrong_method(method: Method, uri: Uri) -> impl IntoResponse {
    let text = format!("{} does not know the method {method}", uri.path());
    plain(StatusCode::METHOD_NOT_ALLOWED, &text)
}

async fn description() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], DESCRIPTION)
}

async fn create(State(legacy): Core, id: Named<String>, request: Request) -> Answer {
    let id = path(id)?;
    let container: NewContainer = json(request).await?;
    legacy.create(container.into_create(id)).await?;
    Ok(StatusCode::CREATED.into_response())
}

async fn update(State(legacy): Core, id: Named<String>, request: Request) -> Answer {
    let id = path(id)?;
    let Update { status, signal } = json(request).await?;
    // 0 is none, as in the other API.
    let signal = if signal == 0 { 0 } else { number_of(signal)? };
    legacy.update(&id, &status, signal).await?;
    Ok(StatusCode::OK.into_response())
}

async fn add_process(State(legacy): Core, id: Named<String>, request: Request) -> Answer {
    let id = path(id)?;
    let process: Process = json(request).await?;
    let added = legacy.add_process(&id, process.into(), Streams::default()).await?;
    answer(&Process::from(added))
}

async fn signal(State(legacy): Core, names: Named<(String, String)>, request: Request) -> Answer {
    let (id, pid) = path(names)?;
    let Signal { signal } = json(request).await?;
    let pid: u64 = pid.parse().map_err(|e| invalid(format!("pid {pid:?} is no number"), e))?;
    // The first process has a pid as well, and no process has one this big.
    let pid = u32::try_from(pid).ok().filter(|pid| *pid != 0).unwrap_or(u32::MAX);
    legacy.signal(&id, pid, number_of(signal)?).await?;
    Ok(StatusCode::OK.into_response())
}

async fn state(State(legacy): Core) -> Answer {
    let (containers, machine) = futures::try_join!(legacy.state(), legacy.machine())?;
    answer(&super::wire::State::new(containers, machine))
}

async fn list_checkpoints(State(legacy): Core, id: Named<String>) -> Answer {
    let found = legacy.list_checkpoints(&path(id)?).await?;
    answer(&found.into_iter().map(Checkpoint::from).collect::<Vec<_>>())
}

async fn create_checkpoint(
    State(legacy): Core,
    names: Named<(String, String)>,
    request: Request,
) -> Answer {
    let (id, name) = path(names)?;
    let bytes = body(request).await?;
    // All of it may be left out.
    let checkpoint =
        if bytes.is_empty() { NewCheckpoint::default() } else { parse::<NewCheckpoint>(&bytes)? };
    legacy.create_checkpoint(&id, checkpoint.into_checkpoint(name)).await?;
    Ok(StatusCode::CREATED.into_response())
}

async fn delete_checkpoint(State(legacy): Core, names: Named<(String, String)>) -> Answer {
    let (id, name) = path(names)?;
    legacy.delete_checkpoint(&id, &name).await?;
    Ok(StatusCode::OK.into_response())
}

/// A client that does not read makes nothing grow: events are kept once for
/// all, and who falls too far behind is cut off.
async fn events(State(legacy): Core, Extension(room): Extension<Arc<Semaphore>>) -> Answer {
    let Ok(place) = room.try_acquire_owned() else {
        let text = format!("{LISTENERS} clients listen to events already");
        tracing::warn!("a client was refused: {text}");
        return Err(Failure::Request(StatusCode::SERVICE_UNAVAILABLE, text));
    };
    // A connection says not whose it is. Whoever comes back after a restart goes
    // on where one of those left off that were there.
    let events = legacy.subscribe("REST".to_owned()).await?;
    let lines = stream::try_unfold((events, place), async |(mut events, place)| {
        let line = next_line(&mut events).await.inspect_err(|error| {
            tracing::debug!(%error, "a stream of events ends");
        })?;
        Ok::<_, io::Error>(line.map(|line| (line, (events, place))))
    });
    let kind = [(header::CONTENT_TYPE, "application/json")];
    Ok((kind, Body::from_stream(lines)).into_response())
}

async fn next_line(events: &mut LegacyEvents) -> io::Result<Option<Bytes>> {
    while let Some(event) = events.next().await.map_err(io::Error::other)? {
        if let Some(event) = Event::of(&event) {
            let mut line = serde_json::to_vec(&event)?;
            line.push(b'\n');
            return Ok(Some(line.into()));
        }
    }
    Ok(None)
}

/// Parts of the path.
fn path<T>(parts: Named<T>) -> Result<T, Failure> {
    match parts {
        Ok(Path(parts)) => Ok(parts),
        Err(rejection) => Err(Error::invalid(rejection.body_text()).into()),
    }
}

/// All of a request, if it is not too big. The kind that a client names is not
/// looked at: curl says that it is a form.
async fn body(request: Request) -> Result<Bytes, Failure> {
    let too_big = || {
        let text = format!("the request is longer than {MAX_BODY} bytes");
        Failure::Request(StatusCode::PAYLOAD_TOO_LARGE, text)
    };
    let (parts, body) = request.into_parts();
    let length = parts.headers.get(header::CONTENT_LENGTH).and_then(|l| l.to_str().ok());
    let is_too_big = length.is_some_and(|l| l.parse().is_ok_and(|l: usize| l > MAX_BODY));
    // Nothing is sent yet.
    if is_too_big && parts.headers.contains_key(header::EXPECT) {
        return Err(too_big());
    }
    let mut chunks = body.into_data_stream();
    match timeout(BODY_LIMIT, collect(&mut chunks)).await {
        Ok(Ok(Some(all))) => Ok(all.into()),
        Ok(Ok(None)) => {
            // A client that still sends when the connection is closed may never
            // read the answer.
            if timeout(SURPLUS_LIMIT, swallow(chunks)).await.is_err() {
                tracing::debug!("a request that is too long was cut off");
            }
            Err(too_big())
        }
        Ok(Err(error)) => {
            let text = format!("the request was cut off: {error}");
            Err(Failure::Request(StatusCode::BAD_REQUEST, text))
        }
        Err(_) => {
            let text = format!("the request did not come in {BODY_LIMIT:?}");
            Err(Failure::Request(StatusCode::REQUEST_TIMEOUT, text))
        }
    }
}

/// None if it is too big.
async fn collect(chunks: &mut BodyDataStream) -> Result<Option<Vec<u8>>, axum::Error> {
    let mut all = Vec::new();
    while let Some(chunk) = chunks.next().await.transpose()? {
        if all.len() + chunk.len() > MAX_BODY {
            return Ok(None);
        }
        all.extend_from_slice(&chunk);
    }
    Ok(Some(all))
}

/// Reads on, and forgets it.
async fn swallow(mut chunks: BodyDataStream) {
    let mut length = 0;
    while let Some(Ok(chunk)) = chunks.next().await {
        length += chunk.len();
        if length > MAX_SURPLUS {
            return;
        }
    }
}

async fn json<T: DeserializeOwned>(request: Request) -> Result<T, Failure> {
    parse(&body(request).await?)
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(bytes).map_err(|e| invalid("the request is not as expected".into(), e))
}

fn answer(value: &impl Serialize) -> Answer {
    let mut text = serde_json::to_vec(value)
        .map_err(|e| Error::caused(ErrorKind::Internal, "encode the answer", e))?;
    text.push(b'\n');
    Ok(([(header::CONTENT_TYPE, "application/json")], text).into_response())
}

/// Which signals there are is for the core to say.
fn number_of(signal: i64) -> Result<u32, Failure> {
    u32::try_from(signal).map_err(|e| invalid(format!("signal {signal} does not exist"), e))
}

fn invalid(text: String, cause: impl std::error::Error + Send + Sync + 'static) -> Failure {
    Error::caused(ErrorKind::InvalidArgument, text, cause).into()
}
