//! Content: what has a digest for a name, such as layers and manifests.

use std::{collections::BTreeMap, time::SystemTime};

use containerd_api::services::content::v1::{
    AbortRequest, DeleteContentRequest, Info as WireInfo, InfoRequest, ListContentRequest,
    ListStatusesRequest, ReadContentRequest, ReadContentResponse, Status as WireStatus,
    StatusRequest, UpdateRequest, WriteAction, WriteContentRequest, WriteContentResponse,
    content_client::ContentClient,
};
use futures::{SinkExt, channel::mpsc};
use prost_types::FieldMask;
use tonic::{Streaming, transport::Channel};

use crate::{Context, Error, ErrorKind, Namespace, Result, client::MAX_MESSAGE_BYTES, time};

/// What is known of content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContentInfo {
    /// Its digest, such as `sha256:2c26b4…`.
    pub digest: String,
    /// Its length in bytes.
    pub size: u64,
    /// When the namespace got it.
    pub created_at: Option<SystemTime>,
    /// When its labels were last changed.
    pub updated_at: Option<SystemTime>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

impl From<WireInfo> for ContentInfo {
    fn from(wire: WireInfo) -> Self {
        Self {
            digest: wire.digest,
            size: unsigned(wire.size),
            created_at: time::from_wire(wire.created_at),
            updated_at: time::from_wire(wire.updated_at),
            labels: wire.labels,
        }
    }
}

/// How far content has come that is being written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ingest {
    /// What its writer calls it.
    pub reference: String,
    /// How much has come, in bytes.
    pub offset: u64,
    /// How much it will be, in bytes; 0 when that is not known.
    pub total: u64,
    /// When its writer began.
    pub started_at: Option<SystemTime>,
    /// When something was last written.
    pub updated_at: Option<SystemTime>,
}

impl From<WireStatus> for Ingest {
    fn from(wire: WireStatus) -> Self {
        Self {
            reference: wire.r#ref,
            offset: unsigned(wire.offset),
            total: unsigned(wire.total),
            started_at: time::from_wire(wire.started_at),
            updated_at: time::from_wire(wire.updated_at),
        }
    }
}

impl Namespace {
    /// The content of this namespace.
    pub fn content(&self) -> Content {
        Content { namespace: self.clone() }
    }
}

/// The content of a namespace.
#[derive(Clone, Debug)]
pub struct Content {
    namespace: Namespace,
}

impl Content {
    fn stub(&self) -> ContentClient<Channel> {
        ContentClient::new(self.namespace.client().channel())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// What is known of content.
    ///
    /// # Errors
    /// `NotFound`, or `InvalidArgument` when it is no digest.
    pub async fn info(&self, digest: &str) -> Result<ContentInfo> {
        const ACTION: &str = "get content";
        let request = self.namespace.request(InfoRequest { digest: digest.into() })?;
        let response = self.stub().info(request).await.context(ACTION, digest)?;
        let info = response.into_inner().info;
        info.map(Into::into).ok_or_else(|| Error::incomplete(ACTION, "info"))
    }

    /// The content that one of `filters` matches; all if there is none.
    ///
    /// # Errors
    /// `InvalidArgument` when a filter cannot be parsed.
    pub async fn list(&self, filters: &[String]) -> Result<Vec<ContentInfo>> {
        const ACTION: &str = "list content";
        let request = self.namespace.request(ListContentRequest { filters: filters.to_vec() })?;
        let mut answers = self.stub().list(request).await.context(ACTION, "")?.into_inner();
        let mut found = Vec::new();
        while let Some(answer) = answers.message().await.context(ACTION, "")? {
            found.extend(answer.info.into_iter().map(ContentInfo::from));
        }
        Ok(found)
    }

    /// Sets labels; an empty value removes one, and others stay.
    ///
    /// # Errors
    /// `NotFound`, or `InvalidArgument` when a label is bad.
    pub async fn set_labels(
        &self,
        digest: &str,
        labels: BTreeMap<String, String>,
    ) -> Result<ContentInfo> {
        const ACTION: &str = "label content";
        let paths = labels.keys().map(|key| format!("labels.{key}")).collect();
        let message = UpdateRequest {
            info: Some(WireInfo { digest: digest.into(), labels, ..Default::default() }),
            update_mask: Some(FieldMask { paths }),
        };
        let response = self.stub().update(self.namespace.request(message)?).await;
        let info = response.context(ACTION, digest)?.into_inner().info;
        info.map(Into::into).ok_or_else(|| Error::incomplete(ACTION, "info"))
    }

    /// Takes content from the namespace.
    ///
    /// # Errors
    /// `NotFound`, or `InvalidArgument` when it is no digest.
    pub async fn delete(&self, digest: &str) -> Result<()> {
        let request = self.namespace.request(DeleteContentRequest { digest: digest.into() })?;
        self.stub().delete(request).await.context("delete content", digest)?;
        Ok(())
    }

    /// Reads content from `offset` to its end.
    ///
    /// # Errors
    /// `NotFound`; `OutOfRange` when it is not so long.
    pub async fn read(&self, digest: &str, offset: u64) -> Result<ContentReader> {
        let message =
            ReadContentRequest { digest: digest.into(), offset: signed(offset)?, size: 0 };
        let answers = self.stub().read(self.namespace.request(message)?).await;
        let answers = answers.context(READ, digest)?.into_inner();
        Ok(ContentReader { digest: digest.into(), answers })
    }

    /// How far the writer of a reference has come.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn ingest(&self, reference: &str) -> Result<Ingest> {
        const ACTION: &str = "get status of";
        let request = self.namespace.request(StatusRequest { r#ref: reference.into() })?;
        let response = self.stub().status(request).await.context(ACTION, reference)?;
        let status = response.into_inner().status;
        status.map(Into::into).ok_or_else(|| Error::incomplete(ACTION, "status"))
    }

    /// What is being written and one of `filters` matches; all if there is
    /// none.
    ///
    /// # Errors
    /// `InvalidArgument` when a filter cannot be parsed.
    pub async fn ingests(&self, filters: &[String]) -> Result<Vec<Ingest>> {
        let request = self.namespace.request(ListStatusesRequest { filters: filters.to_vec() })?;
        let response = self.stub().list_statuses(request).await.context("list ingests", "")?;
        Ok(response.into_inner().statuses.into_iter().map(Into::into).collect())
    }

    /// Forgets what was written to a reference.
    ///
    /// # Errors
    /// `NotFound`; `Unavailable` while somebody writes to it.
    pub async fn abort(&self, reference: &str) -> Result<()> {
        let request = self.namespace.request(AbortRequest { r#ref: reference.into() })?;
        self.stub().abort(request).await.context("abort", reference)?;
        Ok(())
    }

    /// Writes content to a reference, or goes on with what was written to it.
    /// The size (0 is unknown) and the digest may be known before.
    ///
    /// # Errors
    /// `AlreadyExists` when the namespace has the expected content,
    /// `Unavailable` while somebody else writes to the reference.
    pub async fn write(
        &self,
        reference: &str,
        size: u64,
        expected: Option<&str>,
    ) -> Result<ContentWriter> {
        // One request is under way at a time, and one more waits.
        let (mut requests, receiver) = mpsc::channel(1);
        let first = WriteContentRequest {
            action: WriteAction::Stat.into(),
            r#ref: reference.into(),
            total: signed(size)?,
            expected: expected.unwrap_or_default().into(),
            ..Default::default()
        };
        // The stream is not there yet, so it takes this.
        requests.send(first).await.map_err(|e| closed(reference, e))?;
        let answers = self.stub().write(self.namespace.request(receiver)?).await;
        let answers = answers.context(WRITE, reference)?.into_inner();
        let mut writer =
            ContentWriter { reference: reference.into(), requests, answers, offset: 0 };
        writer.answer().await?;
        Ok(writer)
    }
}

const READ: &str = "read content";
const WRITE: &str = "write content to";

/// Content that is being read.
#[derive(Debug)]
pub struct ContentReader {
    digest: String,
    answers: Streaming<ReadContentResponse>,
}

impl ContentReader {
    /// The next piece; none at the end.
    ///
    /// # Errors
    /// Those of the daemon and of the connection.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>> {
        let answer = self.answers.message().await.context(READ, &self.digest)?;
        Ok(answer.map(|answer| answer.data))
    }
}

/// Content that is being written. What has come stays when this is dropped, for
/// whoever writes to the reference again.
#[derive(Debug)]
pub struct ContentWriter {
    reference: String,
    requests: mpsc::Sender<WriteContentRequest>,
    answers: Streaming<WriteContentResponse>,
    offset: u64,
}

impl ContentWriter {
    /// How much has come, in bytes.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Forgets all that has come: the next piece is the first.
    pub fn clear(&mut self) {
        // To the daemon, a piece at the beginning means that.
        self.offset = 0;
    }

    /// Appends a piece; at most a few MiB, as one message holds it.
    ///
    /// # Errors
    /// `ResourceExhausted` when the daemon's disk is full; those of the
    /// connection.
    pub async fn write(&mut self, data: Vec<u8>) -> Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        let request = WriteContentRequest {
            action: WriteAction::Write.into(),
            offset: signed(self.offset)?,
            data,
            ..Default::default()
        };
        self.send(request).await.map(drop)
    }

    /// Ends the content: it is checked and recorded, with `labels`. Answers
    /// its digest.
    ///
    /// # Errors
    /// `FailedPrecondition` when size (0 is any) or digest are others,
    /// `AlreadyExists` when the namespace has it.
    pub async fn commit(
        mut self,
        size: u64,
        expected: Option<&str>,
        labels: BTreeMap<String, String>,
    ) -> Result<String> {
        let request = WriteContentRequest {
            action: WriteAction::Commit.into(),
            offset: signed(self.offset)?,
            total: signed(size)?,
            expected: expected.unwrap_or_default().into(),
            labels,
            ..Default::default()
        };
        Ok(self.send(request).await?.digest)
    }

    async fn send(&mut self, request: WriteContentRequest) -> Result<WriteContentResponse> {
        // If the stream has ended, the answer says why.
        let sent = self.requests.send(request).await;
        let answer = self.answer().await?;
        sent.map_err(|e| closed(&self.reference, e))?;
        Ok(answer)
    }

    async fn answer(&mut self) -> Result<WriteContentResponse> {
        let answer = self.answers.message().await.context(WRITE, &self.reference)?;
        let answer = answer.ok_or_else(|| {
            let text = format!("{WRITE} {}: the stream has ended", self.reference);
            Error::new(ErrorKind::Unavailable, text)
        })?;
        self.offset = unsigned(answer.offset);
        Ok(answer)
    }
}

fn closed(reference: &str, error: mpsc::SendError) -> Error {
    Error::caused(ErrorKind::Unavailable, format!("{WRITE} {reference}"), error)
}

/// Sizes have a sign on the wire.
fn signed(size: u64) -> Result<i64> {
    i64::try_from(size).map_err(|_| Error::invalid(format!("{size} bytes are too many")))
}

fn unsigned(size: i64) -> u64 {
    u64::try_from(size).unwrap_or_default()
}
