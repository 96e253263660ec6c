//! A content store that is another process.
//!
//! It need not know namespaces. To one that does, everything is in one namespace,
//! which has the name of the plugin: bytes are shared by all of ours.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use containerd_api::services::content::v1::{self as api, content_client::ContentClient};
use containerd_core::content::{Digest, RemoteStore, RemoteWriter, Status};
use shim_protocol::{Error, ErrorKind, Id, Result};
use tonic::{Request, transport::Channel};

use super::{
    connection::{answer, lazy, request_in, within},
    ingest::Ingest,
};
use crate::services::convert::time_in;

/// How long an answer may take that needs no work.
const QUICK: Duration = Duration::from_secs(60);

/// How long a listing may take.
const SLOW: Duration = Duration::from_secs(600);

/// See the [module](self).
pub(crate) struct ContentStore {
    client: ContentClient<Channel>,
    namespace: Id,
}

impl ContentStore {
    /// The content store `name` at the socket `address`, which need not be there
    /// yet.
    ///
    /// # Errors
    /// `InvalidArgument` when the name cannot be one of a namespace, or the
    /// address is none of a socket.
    pub(crate) fn new(name: &str, address: &str, max_message: usize) -> Result<Self> {
        let client = ContentClient::new(lazy(address)?)
            .max_decoding_message_size(max_message)
            .max_encoding_message_size(max_message);
        Ok(Self { client, namespace: Id::new("name of a content store", name)? })
    }

    fn client(&self) -> ContentClient<Channel> {
        self.client.clone()
    }

    fn request<T>(&self, message: T) -> Request<T> {
        request_in(&self.namespace, message)
    }

    async fn open(&self, reference: &str, total: u64) -> Result<Ingest> {
        Ingest::open(self.client(), &self.namespace, reference, total).await
    }
}

/// Sizes have a sign on the wire.
pub(super) fn unsigned(size: i64) -> Result<u64> {
    let negative = |e| Error::caused(ErrorKind::DataLoss, format!("a size of {size}"), e);
    u64::try_from(size).map_err(negative)
}

/// Sizes have a sign on the wire.
///
/// # Errors
/// `OutOfRange` when there is no room for it.
pub(super) fn signed(size: u64) -> Result<i64> {
    let large = |e| Error::caused(ErrorKind::OutOfRange, format!("a size of {size}"), e);
    i64::try_from(size).map_err(large)
}

fn status(status: api::Status) -> Result<Status> {
    let time =
        |time: Option<prost_types::Timestamp>| time.map_or(Ok(SystemTime::UNIX_EPOCH), time_in);
    Ok(Status {
        reference: status.r#ref,
        offset: unsigned(status.offset)?,
        total: unsigned(status.total)?,
        started_at: time(status.started_at)?,
        updated_at: time(status.updated_at)?,
    })
}

fn listed(info: &api::Info) -> Result<(Digest, u64)> {
    Ok((Digest::parse(&info.digest)?, unsigned(info.size)?))
}

/// One odd entry must not hide all others.
fn known<T>(entry: Result<T>) -> Option<T> {
    entry.inspect_err(|e| tracing::warn!(error = %e.report(), "pass over an odd entry")).ok()
}

/// What is not there, is none.
fn there<T>(outcome: Result<T>) -> Result<Option<T>> {
    match outcome {
        Err(e) if e.is_not_found() => Ok(None),
        outcome => outcome.map(Some),
    }
}

#[async_trait]
impl RemoteStore for ContentStore {
    async fn size(&self, digest: &Digest) -> Result<Option<u64>> {
        const ACTION: &str = "look at content";
        let message = api::InfoRequest { digest: digest.to_string() };
        let asked =
            async { answer(self.client().info(self.request(message)).await, ACTION, digest) };
        let info = there(within(QUICK, ACTION, digest, asked).await)?;
        info.and_then(|info| info.into_inner().info).map(|info| unsigned(info.size)).transpose()
    }

    async fn read(&self, digest: &Digest, offset: u64, length: u64) -> Result<Bytes> {
        const ACTION: &str = "read content";
        let (offset, size) = (signed(offset)?, signed(length)?);
        let message = api::ReadContentRequest { digest: digest.to_string(), offset, size };
        let asked = async {
            let response = self.client().read(self.request(message)).await;
            let mut pieces = answer(response, ACTION, digest)?.into_inner();
            let mut all = BytesMut::new();
            while let Some(piece) = answer(pieces.message().await, ACTION, digest)? {
                if all.is_empty() && piece.data.len() as u64 == length {
                    return Ok(piece.data.into());
                }
                all.extend_from_slice(&piece.data);
                if all.len() as u64 > length {
                    let text = format!("read content {digest}: more came than was asked for");
                    return Err(Error::new(ErrorKind::DataLoss, text));
                }
            }
            Ok(all.freeze())
        };
        within(QUICK, ACTION, digest, asked).await
    }

    async fn remove(&self, digest: &Digest) -> Result<()> {
        const ACTION: &str = "remove content";
        let message = api::DeleteContentRequest { digest: digest.to_string() };
        let asked =
            async { answer(self.client().delete(self.request(message)).await, ACTION, digest) };
        there(within(QUICK, ACTION, digest, asked).await).map(drop)
    }

    async fn list(&self) -> Result<HashMap<Digest, u64>> {
        const ACTION: &str = "list content of";
        let message = api::ListContentRequest::default();
        let asked = async {
            let response = self.client().list(self.request(message)).await;
            let mut parts = answer(response, ACTION, &self.namespace)?.into_inner();
            let mut found = HashMap::new();
            while let Some(part) = answer(parts.message().await, ACTION, &self.namespace)? {
                found.extend(part.info.into_iter().filter_map(|info| known(listed(&info))));
            }
            Ok(found)
        };
        within(SLOW, ACTION, &self.namespace, asked).await
    }

    async fn status(&self, reference: &str) -> Result<Option<Status>> {
        const ACTION: &str = "get status of";
        let message = api::StatusRequest { r#ref: reference.to_owned() };
        let asked =
            async { answer(self.client().status(self.request(message)).await, ACTION, reference) };
        let found = there(within(QUICK, ACTION, reference, asked).await)?;
        found.and_then(|found| found.into_inner().status).map(status).transpose()
    }

    async fn statuses(&self) -> Result<Vec<Status>> {
        const ACTION: &str = "list ingests of";
        let message = api::ListStatusesRequest::default();
        let asked = async {
            let response = self.client().list_statuses(self.request(message)).await;
            answer(response, ACTION, &self.namespace)
        };
        let found = within(SLOW, ACTION, &self.namespace, asked).await?.into_inner().statuses;
        Ok(found.into_iter().filter_map(|found| known(status(found))).collect())
    }

    async fn abort(&self, reference: &str) -> Result<()> {
        const ACTION: &str = "abort";
        let message = api::AbortRequest { r#ref: reference.to_owned() };
        let asked =
            async { answer(self.client().abort(self.request(message)).await, ACTION, reference) };
        there(within(QUICK, ACTION, reference, asked).await).map(drop)
    }

    async fn write(&self, reference: &str, total: u64) -> Result<Box<dyn RemoteWriter>> {
        let error = match self.open(reference, total).await {
            Ok(ingest) => return Ok(Box::new(ingest)),
            Err(error) if error.kind() == ErrorKind::Unavailable => return Err(error),
            Err(error) => error,
        };
        // Perhaps another length was announced before; whoever knows better now,
        // begins anew.
        let differs = |was: &Status| was.total != 0 && total != 0 && was.total != total;
        if !self.status(reference).await?.as_ref().is_some_and(differs) {
            return Err(error);
        }
        self.abort(reference).await?;
        Ok(Box::new(self.open(reference, total).await?))
    }
}
