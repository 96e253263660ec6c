//! Streams that other requests refer to by an id: bytes with flow control, and
//! single messages. The daemon's side of the protocol is containerd's
//! (`core/transfer/streaming`).

use containerd_api::{
    from_any,
    services::streaming::v1::{StreamInit, streaming_client::StreamingClient},
    to_any,
    types::transfer::{Data, WindowUpdate},
};
use futures::{SinkExt, channel::mpsc};
use prost_types::Any;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tonic::Streaming;

use crate::{Context, Error, ErrorKind, Lease, Namespace, Result};

/// How much goes into one message.
const PIECE_BYTES: usize = 32 << 10;

/// How many bytes the reader of a stream allows at once.
const WINDOW_BYTES: i32 = 2 * PIECE_BYTES as i32;

/// One stream, with an id of its own.
#[derive(Debug)]
pub(crate) struct Stream {
    id: String,
    requests: mpsc::Sender<Any>,
    answers: Streaming<Any>,
}

impl Namespace {
    /// Opens a stream; requests may refer to it as soon as it is there.
    pub(crate) async fn open_stream(&self, purpose: &str) -> Result<Stream> {
        const ACTION: &str = "open stream";
        let id = format!("{purpose}-{}", Lease::random_id());
        let (mut requests, receiver) = mpsc::channel(1);
        let first = to_any(&StreamInit { id: id.clone() });
        requests.send(first).await.map_err(|e| closed(&id, e))?;
        let mut stub = StreamingClient::new(self.client().channel());
        let answers = stub.stream(self.request(receiver)?).await;
        let mut answers = answers.context(ACTION, &id)?.into_inner();
        match answers.message().await.context(ACTION, &id)? {
            Some(_) => Ok(Stream { id, requests, answers }),
            None => Err(Error::incomplete(ACTION, "first message")),
        }
    }
}

impl Stream {
    /// What requests call it.
    pub(crate) fn id(&self) -> String {
        self.id.clone()
    }

    /// The next message; none at the end.
    pub(crate) async fn receive(&mut self) -> Result<Option<Any>> {
        self.answers.message().await.context("receive from stream", &self.id)
    }

    /// Sends a message.
    pub(crate) async fn send(&mut self, message: Any) -> Result<()> {
        self.requests.send(message).await.map_err(|e| closed(&self.id, e))
    }

    /// Says that nothing more is sent.
    pub(crate) fn end(&mut self) {
        self.requests.close_channel();
    }

    /// Sends all that is read, as fast as the daemon takes it. If the daemon
    /// wants no more of it, that is not an error here: its answer to the request
    /// that refers to the stream says why.
    pub(crate) async fn send_bytes(mut self, mut from: impl AsyncRead + Unpin) -> Result<()> {
        let mut window = 0_i64;
        let mut buffer = vec![0; PIECE_BYTES];
        loop {
            while window <= 0 {
                let Some(message) = self.receive().await? else { return Ok(()) };
                let update: WindowUpdate = self.read(&message)?;
                window += i64::from(update.update);
            }
            let limit = usize::try_from(window).unwrap_or(PIECE_BYTES).min(PIECE_BYTES);
            let length = from.read(&mut buffer[..limit]).await.context("read", "the archive")?;
            if length == 0 {
                break;
            }
            let piece = to_any(&Data { data: buffer[..length].to_vec() });
            if self.requests.send(piece).await.is_err() {
                return Ok(());
            }
            window -= length as i64;
        }
        // The end of this side is the end of the bytes; the daemon ends the other.
        self.end();
        while self.receive().await?.is_some() {}
        Ok(())
    }

    /// Writes all that comes until the daemon ends the stream.
    pub(crate) async fn receive_bytes(mut self, mut to: impl AsyncWrite + Unpin) -> Result<()> {
        let mut window = 0;
        loop {
            if window < WINDOW_BYTES {
                let update = to_any(&WindowUpdate { update: WINDOW_BYTES });
                // If the stream has ended, the next message says so.
                let _ = self.requests.send(update).await;
                window += WINDOW_BYTES;
            }
            let Some(message) = self.receive().await? else { break };
            let Data { data } = self.read(&message)?;
            window -= i32::try_from(data.len()).unwrap_or(i32::MAX);
            to.write_all(&data).await.context("write", "the archive")?;
        }
        to.flush().await.context("write", "the archive")
    }

    fn read<M: prost::Message + prost::Name + Default>(&self, message: &Any) -> Result<M> {
        from_any(message).map_err(|e| {
            Error::caused(ErrorKind::DataLoss, format!("receive from stream {}", self.id), e)
        })
    }
}

fn closed(id: &str, error: mpsc::SendError) -> Error {
    Error::caused(ErrorKind::Unavailable, format!("send to stream {id}"), error)
}
