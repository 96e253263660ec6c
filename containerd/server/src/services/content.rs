//! `containerd.services.content.v1.Content`.

use std::sync::Arc;

use containerd_api::services::content::v1::{self as api, WriteAction};
use containerd_core::content::{Blob, Content, Digest, Info, Ingestion, Writer};
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use shim_protocol::{Error, ErrorKind, Id, Result};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::{convert::required, headers};
use crate::status;

/// How much one message of a read carries, in bytes. Less than what malloc maps
/// for itself: new pages for each message would cost more than the reading.
const READ_BYTES: u64 = 112 << 10;

/// How many entries one message of a listing has.
const LISTED: usize = 100;

pub(crate) struct Service {
    pub(crate) content: Content,
    /// Ends writes that nobody goes on with.
    pub(crate) stop: CancellationToken,
}

fn encode(info: Info) -> api::Info {
    api::Info {
        digest: info.digest.to_string(),
        size: signed(info.size),
        created_at: Some(info.created_at.into()),
        updated_at: Some(info.updated_at.into()),
        labels: info.labels,
    }
}

fn encode_status(status: containerd_core::content::Status) -> api::Status {
    api::Status {
        started_at: Some(status.started_at.into()),
        updated_at: Some(status.updated_at.into()),
        r#ref: status.reference,
        offset: signed(status.offset),
        total: signed(status.total),
        // containerd never tells either.
        expected: String::new(),
    }
}

/// Sizes have a sign on the wire.
fn signed(size: u64) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

/// Sizes that clients announce, and what they want to read; what is negative
/// counts as not given (as in containerd).
fn unsigned(size: i64) -> u64 {
    u64::try_from(size).unwrap_or_default()
}

/// A digest that may be missing.
fn optional(digest: &str) -> Result<Option<Digest>> {
    match digest {
        "" => Ok(None),
        digest => Digest::parse(digest).map(Some),
    }
}

impl Service {
    async fn find(&self, request: Request<api::ListContentRequest>) -> Result<Vec<Info>> {
        let namespace = headers::namespace(request.metadata())?;
        self.content.list(&namespace, &request.get_ref().filters).await
    }

    async fn open(&self, request: Request<api::ReadContentRequest>) -> Result<Part> {
        let namespace = headers::namespace(request.metadata())?;
        let request = request.into_inner();
        let blob = self.content.read(&namespace, &Digest::parse(&request.digest)?).await?;
        let start = unsigned(request.offset);
        let Some(rest) = blob.size().checked_sub(start) else {
            let text = format!("offset {start} is past the end of {}", request.digest);
            return Err(Error::new(ErrorKind::OutOfRange, text));
        };
        let length = match unsigned(request.size) {
            0 => rest,
            size => size.min(rest),
        };
        Ok(Part { blob: Arc::new(blob), start, position: start, end: start + length })
    }
}

/// A part of a blob that is being sent.
struct Part {
    blob: Arc<Blob>,
    start: u64,
    position: u64,
    end: u64,
}

impl Part {
    async fn next(mut self) -> Result<Option<(api::ReadContentResponse, Self)>> {
        let length = READ_BYTES.min(self.end - self.position);
        if length == 0 {
            return Ok(None);
        }
        let (blob, position) = (self.blob.clone(), self.position);
        let read = tokio::task::spawn_blocking(move || {
            let mut data = vec![0; usize::try_from(length).unwrap_or_default()];
            let read = blob.read_at(position, &mut data)?;
            data.truncate(read);
            Ok::<_, Error>(data)
        });
        let data: Vec<u8> =
            read.await.map_err(|e| Error::caused(ErrorKind::Internal, "read content", e))??;
        if data.len() as u64 != length {
            return Err(Error::new(ErrorKind::DataLoss, "content is shorter than it was"));
        }
        let offset = signed(self.position - self.start);
        self.position += length;
        Ok(Some((api::ReadContentResponse { offset, data }, self)))
    }
}

/// A write stream.
struct Session {
    requests: Streaming<api::WriteContentRequest>,
    content: Content,
    stop: CancellationToken,
    namespace: Id,
    lease: Option<String>,
    /// What the first request opened; `None` before it, and after the commit.
    open: Option<Open>,
    over: bool,
}

struct Open {
    reference: String,
    writer: Writer,
    total: u64,
    expected: Option<Digest>,
}

impl Session {
    /// The answer to the next request; none when the client sends no more, or
    /// all is done.
    async fn next(&mut self) -> Result<Option<api::WriteContentResponse>, Status> {
        if self.over {
            return Ok(None);
        }
        let request = tokio::select! {
            request = self.requests.message() => request,
            () = self.stop.cancelled() => {
                return Err(status::of(Error::unavailable("the daemon shuts down")));
            }
        };
        match request? {
            Some(request) => self.answer(request).await.map(Some).map_err(status::of),
            None => Ok(None),
        }
    }

    async fn answer(
        &mut self,
        request: api::WriteContentRequest,
    ) -> Result<api::WriteContentResponse> {
        let expected = optional(&request.expected)?;
        let mut open = match self.open.take() {
            Some(open) => self.go_on(open, &request, expected).await?,
            None => self.begin(&request, expected).await?,
        };
        let status = open.writer.status()?;
        let mut answer = api::WriteContentResponse {
            action: request.action,
            offset: signed(status.offset),
            ..Default::default()
        };
        let action = WriteAction::try_from(request.action)
            .map_err(|_| Error::invalid(format!("no action {}", request.action)))?;
        if action == WriteAction::Stat {
            answer.digest = open.writer.digest()?.to_string();
            answer.started_at = Some(status.started_at.into());
            answer.updated_at = Some(status.updated_at.into());
            answer.total = signed(open.total);
            self.open = Some(open);
            return Ok(answer);
        }
        match u64::try_from(request.offset) {
            Ok(0) if status.offset > 0 => open.writer.clear().await?,
            Ok(offset) if offset == status.offset => {}
            _ => {
                let text = format!(
                    "reference {:?}: write at {} must be at {}",
                    open.reference, request.offset, status.offset
                );
                return Err(Error::new(ErrorKind::OutOfRange, text));
            }
        }
        open.writer.write(request.data).await?;
        answer.offset = signed(open.writer.status()?.offset);
        if action == WriteAction::Commit {
            self.over = true;
            let Open { writer, total, expected, .. } = open;
            let digest = writer.commit(total, expected, request.labels).await?;
            answer.digest = digest.to_string();
        } else {
            answer.digest = open.writer.digest()?.to_string();
            self.open = Some(open);
        }
        Ok(answer)
    }

    async fn begin(
        &self,
        request: &api::WriteContentRequest,
        expected: Option<Digest>,
    ) -> Result<Open> {
        let reference = request.r#ref.clone();
        let total = unsigned(request.total);
        let ingestion = Ingestion {
            reference: reference.clone(),
            total,
            expected: expected.clone(),
            lease: self.lease.clone(),
        };
        let writer = self.content.writer(&self.namespace, ingestion).await?;
        Ok(Open { reference, writer, total, expected })
    }

    /// Later requests may know more than the first one.
    async fn go_on(
        &self,
        mut open: Open,
        request: &api::WriteContentRequest,
        expected: Option<Digest>,
    ) -> Result<Open> {
        if request.total > 0 {
            open.total = unsigned(request.total);
        }
        let Some(expected) = expected else { return Ok(open) };
        let lease = self.lease.as_deref();
        if self.content.hold_existing(&self.namespace, &expected, lease).await? {
            // Somebody else has brought it meanwhile.
            let Open { reference, writer, .. } = open;
            drop(writer);
            match self.content.abort(&self.namespace, &reference, lease).await {
                Err(e) if !e.is_not_found() => {
                    tracing::warn!(error = %e.report(), "ingest of content that exists stays");
                }
                _ => {}
            }
            return Err(Error::already_exists(format!("content {expected}")));
        }
        open.expected = Some(expected);
        Ok(open)
    }
}

#[tonic::async_trait]
impl api::content_server::Content for Service {
    async fn info(
        &self,
        request: Request<api::InfoRequest>,
    ) -> Result<Response<api::InfoResponse>, Status> {
        let namespace = headers::namespace(request.metadata()).map_err(status::of)?;
        let digest = Digest::parse(&request.get_ref().digest).map_err(status::of)?;
        let info = self.content.info(&namespace, &digest).await.map_err(status::of)?;
        Ok(Response::new(api::InfoResponse { info: Some(encode(info)) }))
    }

    async fn update(
        &self,
        request: Request<api::UpdateRequest>,
    ) -> Result<Response<api::UpdateResponse>, Status> {
        let namespace = headers::namespace(request.metadata()).map_err(status::of)?;
        let request = request.into_inner();
        let paths = request.update_mask.unwrap_or_default().paths;
        let info = required("info", request.info).map_err(status::of)?;
        let digest = Digest::parse(&info.digest).map_err(status::of)?;
        let updated = self.content.update(&namespace, &digest, info.labels, &paths).await;
        let info = Some(encode(updated.map_err(status::of)?));
        Ok(Response::new(api::UpdateResponse { info }))
    }

    type ListStream = BoxStream<'static, Result<api::ListContentResponse, Status>>;

    async fn list(
        &self,
        request: Request<api::ListContentRequest>,
    ) -> Result<Response<Self::ListStream>, Status> {
        let found = self.find(request).await.map_err(status::of)?;
        let messages = stream::iter(found).map(encode).chunks(LISTED);
        let messages = messages.map(|info| Ok(api::ListContentResponse { info }));
        Ok(Response::new(messages.boxed()))
    }

    async fn delete(
        &self,
        request: Request<api::DeleteContentRequest>,
    ) -> Result<Response<()>, Status> {
        let namespace = headers::namespace(request.metadata()).map_err(status::of)?;
        let lease = headers::lease(request.metadata()).map_err(status::of)?;
        let digest = Digest::parse(&request.get_ref().digest).map_err(status::of)?;
        self.content.delete(&namespace, &digest, lease).await.map_err(status::of)?;
        Ok(Response::new(()))
    }

    type ReadStream = BoxStream<'static, Result<api::ReadContentResponse, Status>>;

    async fn read(
        &self,
        request: Request<api::ReadContentRequest>,
    ) -> Result<Response<Self::ReadStream>, Status> {
        let part = self.open(request).await.map_err(status::of)?;
        let messages = stream::try_unfold(part, async |part| part.next().await.map_err(status::of));
        Ok(Response::new(messages.boxed()))
    }

    async fn status(
        &self,
        request: Request<api::StatusRequest>,
    ) -> Result<Response<api::StatusResponse>, Status> {
        let namespace = headers::namespace(request.metadata()).map_err(status::of)?;
        let status = self.content.status(&namespace, &request.get_ref().r#ref).await;
        let status = Some(encode_status(status.map_err(status::of)?));
        Ok(Response::new(api::StatusResponse { status }))
    }

    async fn list_statuses(
        &self,
        request: Request<api::ListStatusesRequest>,
    ) -> Result<Response<api::ListStatusesResponse>, Status> {
        let namespace = headers::namespace(request.metadata()).map_err(status::of)?;
        let found = self.content.statuses(&namespace, &request.get_ref().filters).await;
        let statuses = found.map_err(status::of)?.into_iter().map(encode_status).collect();
        Ok(Response::new(api::ListStatusesResponse { statuses }))
    }

    type WriteStream = BoxStream<'static, Result<api::WriteContentResponse, Status>>;

    async fn write(
        &self,
        request: Request<Streaming<api::WriteContentRequest>>,
    ) -> Result<Response<Self::WriteStream>, Status> {
        let namespace = headers::namespace(request.metadata()).map_err(status::of)?;
        let lease = headers::lease(request.metadata()).map_err(status::of)?.map(str::to_owned);
        let session = Session {
            requests: request.into_inner(),
            content: self.content.clone(),
            stop: self.stop.clone(),
            namespace,
            lease,
            open: None,
            over: false,
        };
        let answers = stream::try_unfold(session, async |mut session| {
            let answer = session.next().await?;
            Ok(answer.map(|answer| (answer, session)))
        });
        Ok(Response::new(answers.boxed()))
    }

    async fn abort(&self, request: Request<api::AbortRequest>) -> Result<Response<()>, Status> {
        let namespace = headers::namespace(request.metadata()).map_err(status::of)?;
        let lease = headers::lease(request.metadata()).map_err(status::of)?;
        let aborted = self.content.abort(&namespace, &request.get_ref().r#ref, lease).await;
        aborted.map_err(status::of)?;
        Ok(Response::new(()))
    }
}
