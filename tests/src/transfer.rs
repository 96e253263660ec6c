//! Transfers over the wire, as containerd's own clients ask for them.

use anyhow::{Context, Result, ensure};
use containerd_api::{
    from_any,
    services::{
        streaming::v1::StreamInit,
        transfer::v1::{TransferOptions, TransferRequest},
    },
    to_any,
    types::transfer::{Data, OciRegistry, Progress, RegistryResolver, WindowUpdate},
};
use prost::Name;
use prost_types::Any;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::Api;

/// How much a client written in Go sends at once.
const PIECE_BYTES: usize = 32 << 10;

/// How many bytes such a client lets the other side send.
const WINDOW_BYTES: i32 = 64 << 10;

/// A stream that a request may refer to.
pub struct Stream {
    requests: mpsc::Sender<Any>,
    answers: Streaming<Any>,
}

impl Stream {
    /// Opens a stream.
    ///
    /// # Errors
    /// The daemon's.
    pub async fn open(api: &Api, id: &str) -> Result<Self, Status> {
        let (requests, receiver) = mpsc::channel(4);
        let first = to_any(&StreamInit { id: id.into() });
        requests.send(first).await.map_err(|e| Status::internal(e.to_string()))?;
        let mut answers = api.streaming().stream(ReceiverStream::new(receiver)).await?.into_inner();
        match answers.message().await? {
            Some(_) => Ok(Self { requests, answers }),
            None => Err(Status::internal("the stream ends at once")),
        }
    }

    /// Sends a message.
    ///
    /// # Errors
    /// The daemon does not read any more.
    pub async fn send<M: prost::Message + Name>(&self, message: &M) -> Result<()> {
        self.requests.send(to_any(message)).await.context("send")
    }

    /// The next message; none at the end.
    ///
    /// # Errors
    /// The daemon's; it is another message.
    pub async fn receive<M: prost::Message + Name + Default>(&mut self) -> Result<Option<M>> {
        match self.answers.message().await? {
            Some(message) => Ok(Some(from_any(&message)?)),
            None => Ok(None),
        }
    }

    /// Sends bytes as far as the daemon lets it.
    ///
    /// # Errors
    /// The daemon's.
    pub async fn send_bytes(mut self, bytes: &[u8]) -> Result<()> {
        let mut window = 0_usize;
        for piece in bytes.chunks(PIECE_BYTES) {
            while window < piece.len() {
                // It wants no more.
                let Some(update) = self.receive::<WindowUpdate>().await? else { return Ok(()) };
                window += usize::try_from(update.update)?;
            }
            window -= piece.len();
            self.send(&Data { data: piece.into() }).await?;
        }
        let Self { requests, mut answers } = self;
        drop(requests);
        // Who hangs up before it has been read takes it back.
        while answers.message().await?.is_some() {}
        Ok(())
    }

    /// Reads bytes in the way of clients written in Go, until `read` says that it
    /// is enough; they do not read on when their request was answered. Answers
    /// what has come until then.
    ///
    /// # Errors
    /// The daemon's.
    pub async fn read_bytes(mut self, read: mpsc::Sender<Vec<u8>>) -> Result<()> {
        let mut window = 0;
        loop {
            if window < WINDOW_BYTES {
                // Whoever has sent all that there is does not listen any more.
                let _ = self.send(&WindowUpdate { update: WINDOW_BYTES }).await;
                window += WINDOW_BYTES;
            }
            let Some(Data { data }) = self.receive().await? else { return Ok(()) };
            ensure!(data.len() <= usize::try_from(window)?, "more than was allowed");
            window -= i32::try_from(data.len())?;
            if read.send(data).await.is_err() {
                return Ok(());
            }
        }
    }

    /// All progress until the daemon ends the stream.
    ///
    /// # Errors
    /// The daemon's.
    pub async fn progress(mut self) -> Result<Vec<Progress>> {
        let mut all = Vec::new();
        while let Some(progress) = self.receive().await? {
            all.push(progress);
        }
        Ok(all)
    }
}

/// Asks for a transfer.
///
/// # Errors
/// The daemon's.
pub async fn transfer<S, D>(
    api: &Api,
    source: &S,
    destination: &D,
    progress: &str,
) -> Result<(), Status>
where
    S: prost::Message + Name,
    D: prost::Message + Name,
{
    let request = TransferRequest {
        source: Some(to_any(source)),
        destination: Some(to_any(destination)),
        options: Some(TransferOptions { progress_stream: progress.into() }),
    };
    api.transfer().transfer(request).await.map(drop)
}

/// An image in a registry without TLS.
pub fn remote(reference: &str) -> OciRegistry {
    let resolver = RegistryResolver { default_scheme: "http".into(), ..Default::default() };
    OciRegistry { reference: reference.into(), resolver: Some(resolver) }
}
