//! Writes content in another process: one stream, on which each request is
//! answered.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use bytes::Bytes;
use containerd_api::services::content::v1::{
    WriteAction, WriteContentRequest, WriteContentResponse, content_client::ContentClient,
};
use containerd_core::content::{Algorithm, Digest, RemoteWriter, Status};
use shim_protocol::{Error, ErrorKind, Id, Result};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, transport::Channel};

use super::{
    connection::{answer, request_in, within},
    content::{signed, unsigned},
};
use crate::services::convert::time_in;

/// How long the other process may take to store a piece.
const WRITE_DEADLINE: Duration = Duration::from_secs(60);

/// How long it may take to make content of them, which the disk has then.
const COMMIT_DEADLINE: Duration = Duration::from_secs(1800);

/// How much goes into one message: containerd takes 16 MiB, and copies it all.
const PIECE_BYTES: usize = 1 << 20;

/// Label of what we store there. Where there is a collector of garbage, it must
/// not take that for garbage: what refers to it is here.
const ROOT_LABEL: &str = "containerd.io/gc.root";

const ACTION: &str = "write content to";

/// See the [module](self).
pub(super) struct Ingest {
    reference: String,
    requests: mpsc::Sender<WriteContentRequest>,
    answers: Streaming<WriteContentResponse>,
    status: Status,
    digest: Digest,
    /// A request is on its way that was not answered.
    busy: bool,
}

impl Ingest {
    /// Opens a reference.
    ///
    /// # Errors
    /// `Unavailable` when somebody else writes to it, or the other process is not
    /// there; those of that process.
    pub(super) async fn open(
        mut client: ContentClient<Channel>,
        namespace: &Id,
        reference: &str,
        total: u64,
    ) -> Result<Self> {
        // Room for the first request, before anybody takes it.
        let (requests, receiver) = mpsc::channel(1);
        let first = WriteContentRequest {
            action: WriteAction::Stat.into(),
            r#ref: reference.to_owned(),
            total: signed(total)?,
            ..Default::default()
        };
        requests.try_send(first).map_err(|e| Error::caused(ErrorKind::Internal, ACTION, e))?;
        let stream = request_in(namespace, ReceiverStream::new(receiver));
        let opened = within(WRITE_DEADLINE, ACTION, reference, async {
            answer(client.write(stream).await, ACTION, reference)
        });
        let answers = opened.await?.into_inner();
        let now = SystemTime::now();
        let status = Status {
            reference: reference.to_owned(),
            offset: 0,
            total,
            started_at: now,
            updated_at: now,
        };
        let digest = Digest::of(Algorithm::Sha256, b"");
        let reference = reference.to_owned();
        let mut this = Self { reference, requests, answers, status, digest, busy: true };
        let known = this.answer(WRITE_DEADLINE).await?;
        if let Some(time) = known.started_at {
            this.status.started_at = time_in(time)?;
        }
        if let Some(time) = known.updated_at {
            this.status.updated_at = time_in(time)?;
        }
        Ok(this)
    }

    /// Sends a request, and waits for its answer.
    async fn send(
        &mut self,
        request: WriteContentRequest,
        deadline: Duration,
    ) -> Result<WriteContentResponse> {
        if std::mem::replace(&mut self.busy, true) {
            return Err(Error::precondition("an earlier write was cut short"));
        }
        // If the stream has ended, the answer says why.
        drop(self.requests.send(request).await);
        self.answer(deadline).await
    }

    async fn answer(&mut self, deadline: Duration) -> Result<WriteContentResponse> {
        let (answers, reference) = (&mut self.answers, &*self.reference);
        let next = async { answer(answers.message().await, ACTION, reference) };
        let Some(message) = within(deadline, ACTION, reference, next).await? else {
            let text = format!("{ACTION} {reference}: the other side has ended");
            return Err(Error::unavailable(text));
        };
        self.busy = false;
        self.status.offset = unsigned(message.offset)?;
        self.status.updated_at = SystemTime::now();
        if !message.digest.is_empty() {
            self.digest = Digest::parse(&message.digest)?;
        }
        Ok(message)
    }

    fn is_at(&self, offset: u64) -> Result<()> {
        let (reference, found) = (&self.reference, self.status.offset);
        if found == offset {
            return Ok(());
        }
        let text = format!("{ACTION} {reference}: the other side is at {found}, not at {offset}");
        Err(Error::new(ErrorKind::DataLoss, text))
    }
}

#[async_trait]
impl RemoteWriter for Ingest {
    fn status(&self) -> Status {
        self.status.clone()
    }

    fn digest(&self) -> Digest {
        self.digest.clone()
    }

    async fn write(&mut self, mut piece: Bytes) -> Result<()> {
        while !piece.is_empty() {
            let data = piece.split_to(PIECE_BYTES.min(piece.len()));
            let end = self.status.offset + data.len() as u64;
            let request = WriteContentRequest {
                action: WriteAction::Write.into(),
                offset: signed(self.status.offset)?,
                data: data.into(),
                ..Default::default()
            };
            self.send(request, WRITE_DEADLINE).await?;
            self.is_at(end)?;
        }
        Ok(())
    }

    async fn clear(&mut self) -> Result<()> {
        if self.status.offset == 0 {
            return Ok(());
        }
        // To write at the beginning is to begin anew.
        let action = WriteAction::Write.into();
        self.send(WriteContentRequest { action, ..Default::default() }, WRITE_DEADLINE).await?;
        self.is_at(0)
    }

    async fn commit(&mut self, expected: &Digest) -> Result<()> {
        let size = self.status.offset;
        let now = prost_types::Timestamp::from(SystemTime::now()).to_string();
        let request = WriteContentRequest {
            action: WriteAction::Commit.into(),
            offset: signed(size)?,
            total: signed(size)?,
            expected: expected.to_string(),
            labels: BTreeMap::from([(ROOT_LABEL.to_owned(), now)]),
            ..Default::default()
        };
        self.send(request, COMMIT_DEADLINE).await?;
        self.is_at(size)?;
        match &self.digest {
            found if found == expected => Ok(()),
            found => {
                let text = format!("content has digest {found}, {expected} was expected");
                Err(Error::precondition(text))
            }
        }
    }
}
