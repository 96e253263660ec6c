//! `containerd.services.streaming.v1.Streaming`, and the streams of bytes that
//! other services make of it (containerd, `core/transfer/streaming`).

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use containerd_api::{
    from_any,
    services::streaming::v1 as api,
    to_any,
    types::transfer::{Data, WindowUpdate},
};
use containerd_core::transfer::{ByteSink, ContentReader};
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use prost_types::Any;
use shim_protocol::{Error, ErrorKind, Id, Result};
use tokio::{sync::mpsc, time};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::headers;
use crate::status;

/// How much clients send at once, and expect to get, in bytes.
const PIECE_BYTES: usize = 32 << 10;

/// By how much a client written in Go lets the window grow, whenever it is
/// smaller than this.
const WINDOW_BYTES: i64 = 2 * PIECE_BYTES as i64;

/// How far a client may send ahead of us.
const AHEAD_BYTES: i64 = 1 << 20;

/// How long a client may take to read the last bytes.
const LAST_BYTES: Duration = Duration::from_secs(2);

/// How many messages wait for a client that does not read them.
const WAITING: usize = 4;

/// Streams that were opened and that no request has referred to yet.
#[derive(Clone, Default)]
pub(super) struct Streams(Arc<Opened>);

#[derive(Default)]
struct Opened {
    streams: Mutex<HashMap<Name, (u64, Stream)>>,
    /// Tells streams apart that had the same name one after the other.
    count: AtomicU64,
}

type Name = (Id, String);

/// Messages in both directions. It ends when it is dropped.
pub(super) struct Stream {
    from_client: Streaming<Any>,
    to_client: mpsc::Sender<Result<Any, Status>>,
}

impl Streams {
    /// The stream that a request of this namespace refers to.
    ///
    /// # Errors
    /// `NotFound` when there is none, or another request has it.
    pub(super) fn take(&self, namespace: &Id, id: &str) -> Result<Stream> {
        let taken = self.lock().remove(&(namespace.clone(), id.to_owned()));
        let (_, stream) = taken.ok_or_else(|| Error::not_found(format!("stream {id:?}")))?;
        Ok(stream)
    }

    fn register(&self, name: Name, stream: Stream) -> Result<Registered> {
        let number = self.0.count.fetch_add(1, Ordering::Relaxed);
        let mut streams = self.lock();
        if streams.contains_key(&name) {
            return Err(Error::already_exists(format!("stream {:?}", name.1)));
        }
        streams.insert(name.clone(), (number, stream));
        Ok(Registered { streams: self.clone(), name, number })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Name, (u64, Stream)>> {
        self.0.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A stream is not waiting any more when its client is gone.
struct Registered {
    streams: Streams,
    name: Name,
    number: u64,
}

impl Drop for Registered {
    fn drop(&mut self) {
        let mut streams = self.streams.lock();
        if streams.get(&self.name).is_some_and(|(number, _)| *number == self.number) {
            streams.remove(&self.name);
        }
    }
}

impl Stream {
    /// Sends a message.
    ///
    /// # Errors
    /// `Cancelled` when the client is gone.
    pub(super) async fn send(&self, message: Any) -> Result<()> {
        self.to_client.send(Ok(message)).await.map_err(|_| gone())
    }

    /// The next message; none when the client sends no more.
    ///
    /// # Errors
    /// `Cancelled` when the client is gone.
    pub(super) async fn receive(&mut self) -> Result<Option<Any>> {
        self.from_client
            .message()
            .await
            .map_err(|e| Error::caused(ErrorKind::Cancelled, "receive from the client", e))
    }

    /// Lets the stream end with an error, once nobody uses it any more.
    pub(super) fn failing(&self) -> Failing {
        Failing(self.to_client.clone())
    }
}

/// Lets a stream end with an error.
pub(super) struct Failing(mpsc::Sender<Result<Any, Status>>);

impl Failing {
    pub(super) async fn fail(self, error: &Error) {
        let status = Status::new(status::code(error.kind()), error.report().to_string());
        // Nobody has to know if nobody is there.
        let _ = self.0.send(Err(status)).await;
    }
}

fn gone() -> Error {
    Error::new(ErrorKind::Cancelled, "the client is gone")
}

/// Bytes that a client sends.
pub(super) struct Receiving {
    stream: Stream,
    /// How many bytes it may send.
    window: i64,
}

impl Receiving {
    pub(super) fn new(stream: Stream) -> Self {
        Self { stream, window: 0 }
    }
}

#[tonic::async_trait]
impl ContentReader for Receiving {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            if self.window <= AHEAD_BYTES / 2 {
                let more = AHEAD_BYTES - self.window;
                let update = i32::try_from(more).unwrap_or(i32::MAX);
                // One who has sent everything need not be there to read it.
                let _ = self.stream.send(to_any(&WindowUpdate { update })).await;
                self.window += i64::from(update);
            }
            let Some(message) = self.stream.receive().await? else { return Ok(None) };
            let Data { data } = decode(&message)?;
            self.window -= length(&data);
            if !data.is_empty() {
                return Ok(Some(data.into()));
            }
        }
    }
}

/// Bytes that a client gets.
pub(super) struct Sending {
    stream: Stream,
    /// What is not yet a whole piece.
    waiting: BytesMut,
    sent: i64,
    /// How many bytes the client has said that it takes.
    allowed: i64,
}

impl Sending {
    pub(super) fn new(stream: Stream) -> Self {
        Self { stream, waiting: BytesMut::new(), sent: 0, allowed: 0 }
    }

    async fn send(&mut self, piece: Bytes) -> Result<()> {
        let wanted = self.sent + length(&piece);
        while self.allowed < wanted {
            self.update().await?;
        }
        self.sent = wanted;
        self.stream.send(to_any(&Data { data: piece.into() })).await
    }

    async fn update(&mut self) -> Result<()> {
        let message = self.stream.receive().await?.ok_or_else(gone)?;
        let WindowUpdate { update } = decode(&message)?;
        self.allowed += i64::from(update);
        Ok(())
    }

    /// Ends an archive: zeros behind it do no harm. So many are sent that a
    /// client written in Go, which lets the window grow by [`WINDOW_BYTES`]
    /// whenever it is smaller than that, does so once more when it has read
    /// everything. Waits for that: such a client takes the answer to its request
    /// for the end, and would not look at what still comes.
    async fn pad(&mut self) -> Result<()> {
        let zeros = PIECE_BYTES - self.waiting.len() % PIECE_BYTES;
        self.waiting.resize(self.waiting.len() + zeros, 0);
        self.pieces().await?;
        // An odd number of pieces, the last one of them with nothing but zeros.
        let pieces = self.sent / PIECE_BYTES as i64;
        for _ in 0..=pieces % 2 {
            self.send(Bytes::from_static(&[0; PIECE_BYTES])).await?;
        }
        let read = self.sent + WINDOW_BYTES;
        let acknowledged = async {
            while self.allowed <= read {
                self.update().await?;
            }
            Ok(())
        };
        match time::timeout(LAST_BYTES, acknowledged).await {
            Ok(acknowledged) => acknowledged,
            // It reads in another way.
            Err(_) => Ok(()),
        }
    }

    /// Ends what need not be an archive.
    pub(super) async fn end(mut self) -> Result<()> {
        let rest = self.waiting.split().freeze();
        if rest.is_empty() { Ok(()) } else { self.send(rest).await }
    }

    async fn pieces(&mut self) -> Result<()> {
        while self.waiting.len() >= PIECE_BYTES {
            let piece = self.waiting.split_to(PIECE_BYTES).freeze();
            self.send(piece).await?;
        }
        Ok(())
    }
}

#[tonic::async_trait]
impl ByteSink for Sending {
    async fn write(&mut self, piece: Bytes) -> Result<()> {
        self.waiting.extend_from_slice(&piece);
        self.pieces().await
    }

    async fn finish(&mut self) -> Result<()> {
        self.pad().await
    }
}

fn length(data: &[u8]) -> i64 {
    i64::try_from(data.len()).unwrap_or(i64::MAX)
}

fn decode<M: prost::Message + prost::Name + Default>(message: &Any) -> Result<M> {
    from_any(message)
        .map_err(|e| Error::caused(ErrorKind::InvalidArgument, "message on a stream", e))
}

/// What a client gets over its stream.
struct Answers {
    /// Says that the stream is open.
    first: Option<Any>,
    messages: mpsc::Receiver<Result<Any, Status>>,
    stop: CancellationToken,
    over: bool,
    _registered: Registered,
}

impl Answers {
    async fn next(mut self) -> Option<(Result<Any, Status>, Self)> {
        if let Some(first) = self.first.take() {
            return Some((Ok(first), self));
        }
        if self.over {
            return None;
        }
        let message = tokio::select! {
            message = self.messages.recv() => message?,
            () = self.stop.cancelled() => {
                Err(status::of(Error::unavailable("the daemon shuts down")))
            }
        };
        self.over = message.is_err();
        Some((message, self))
    }
}

pub(super) struct Service {
    pub(super) streams: Streams,
    /// Ends streams that nobody goes on with.
    pub(super) stop: CancellationToken,
}

impl Service {
    async fn open(&self, request: Request<Streaming<Any>>) -> Result<Answers> {
        let namespace = headers::namespace(request.metadata())?;
        let from_client = request.into_inner();
        let (to_client, messages) = mpsc::channel(WAITING);
        let mut stream = Stream { from_client, to_client };
        let first = tokio::select! {
            first = stream.receive() => first?,
            () = self.stop.cancelled() => {
                return Err(Error::unavailable("the daemon shuts down"));
            }
        };
        let first = first.ok_or_else(|| Error::invalid("the stream has no first message"))?;
        let api::StreamInit { id } = decode(&first)?;
        let registered = self.streams.register((namespace, id), stream)?;
        let first = Any { type_url: "google.protobuf.Empty".into(), value: Vec::new() };
        Ok(Answers {
            first: Some(first),
            messages,
            stop: self.stop.clone(),
            over: false,
            _registered: registered,
        })
    }
}

#[tonic::async_trait]
impl api::streaming_server::Streaming for Service {
    type StreamStream = BoxStream<'static, Result<Any, Status>>;

    async fn stream(
        &self,
        request: Request<Streaming<Any>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        let answers = self.open(request).await.map_err(status::of)?;
        Ok(Response::new(stream::unfold(answers, Answers::next).boxed()))
    }
}
