//! Content over the wire, in as few words as a test wants to spend.

use std::{collections::BTreeMap, path::PathBuf};

use anyhow::Result;
use containerd_api::{
    LEASE_HEADER,
    services::content::v1::{
        DeleteContentRequest, Info, InfoRequest, ListContentRequest, ListStatusesRequest,
        ReadContentRequest, WriteAction, WriteContentRequest, WriteContentResponse,
    },
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status, Streaming};

use crate::{Api, Daemon};

/// `printf hello | sha256sum`
pub const HELLO: &str = "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
/// `printf bye | sha256sum`
pub const BYE: &str = "sha256:b49f425a7e1f9cff3856329ada223f2f9d368f15a00cf48df16ca95986137fe8";

/// Labels of content.
pub type Labels = BTreeMap<String, String>;

/// An open write stream.
pub struct Write {
    requests: mpsc::Sender<WriteContentRequest>,
    /// What the daemon says to each request.
    pub answers: Streaming<WriteContentResponse>,
}

impl Write {
    /// Opens a stream with its first request, and waits for the answer.
    ///
    /// # Errors
    /// The daemon's.
    pub async fn open(
        api: &Api,
        first: WriteContentRequest,
    ) -> Result<(Self, WriteContentResponse), Status> {
        Self::open_with(api, first, None).await
    }

    /// The same, with a lease.
    ///
    /// # Errors
    /// The daemon's.
    pub async fn open_with(
        api: &Api,
        first: WriteContentRequest,
        lease: Option<&str>,
    ) -> Result<(Self, WriteContentResponse), Status> {
        let (requests, receiver) = mpsc::channel(1);
        let mut request = Request::new(ReceiverStream::new(receiver));
        if let Some(lease) = lease.and_then(|lease| lease.parse().ok()) {
            request.metadata_mut().insert(LEASE_HEADER, lease);
        }
        // The original answers nothing at all before the first request.
        let _ = requests.send(first).await;
        let answers = api.content().write(request).await?.into_inner();
        let mut this = Self { requests, answers };
        let answer = this.answer().await?;
        Ok((this, answer))
    }

    /// Sends a request, and waits for the answer.
    ///
    /// # Errors
    /// The daemon's; `Aborted` when the stream has ended.
    pub async fn send(
        &mut self,
        request: WriteContentRequest,
    ) -> Result<WriteContentResponse, Status> {
        // Should the stream have ended, the answer says why.
        let _ = self.requests.send(request).await;
        self.answer().await
    }

    async fn answer(&mut self) -> Result<WriteContentResponse, Status> {
        self.answers.message().await?.ok_or_else(|| Status::aborted("the stream has ended"))
    }
}

/// A request that opens a reference.
pub fn stat(reference: &str) -> WriteContentRequest {
    WriteContentRequest { r#ref: reference.into(), ..Default::default() }
}

/// A request that writes `data` at `offset`.
pub fn data(offset: i64, data: impl Into<Vec<u8>>) -> WriteContentRequest {
    let action = WriteAction::Write.into();
    WriteContentRequest { action, offset, data: data.into(), ..Default::default() }
}

/// A request that ends content of `offset` bytes.
pub fn commit(offset: i64, expected: &str) -> WriteContentRequest {
    WriteContentRequest {
        action: WriteAction::Commit.into(),
        offset,
        total: offset,
        expected: expected.into(),
        ..Default::default()
    }
}

/// Writes and commits `bytes`.
///
/// # Errors
/// The daemon's.
pub async fn put(api: &Api, reference: &str, bytes: impl AsRef<[u8]>) -> Result<String, Status> {
    let bytes = bytes.as_ref();
    let length = i64::try_from(bytes.len()).unwrap_or_default();
    let (mut write, _) = Write::open(api, stat(reference)).await?;
    write.send(data(0, bytes)).await?;
    Ok(write.send(commit(length, "")).await?.digest)
}

/// Reads a part of content; size 0 is all the rest.
///
/// # Errors
/// The daemon's.
pub async fn get(api: &Api, digest: &str, offset: i64, size: i64) -> Result<String, Status> {
    let request = ReadContentRequest { digest: digest.into(), offset, size };
    let mut answers = api.content().read(request).await?.into_inner();
    let mut text = Vec::new();
    while let Some(answer) = answers.message().await? {
        assert_eq!(answer.offset, i64::try_from(text.len()).unwrap_or_default());
        text.extend(answer.data);
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// What the daemon knows of content.
///
/// # Errors
/// The daemon's.
pub async fn info(api: &Api, digest: &str) -> Result<Info, Status> {
    let answer = api.content().info(InfoRequest { digest: digest.into() }).await?;
    answer.into_inner().info.ok_or_else(|| Status::internal("no info"))
}

/// Digests, sizes and labels of all content that a filter matches. (The original
/// lists no times of updates.)
///
/// # Errors
/// The daemon's.
pub async fn list(api: &Api, filters: &[&str]) -> Result<Vec<(String, i64, Labels)>> {
    let filters = filters.iter().map(|filter| (*filter).to_owned()).collect();
    let mut answers = api.content().list(ListContentRequest { filters }).await?.into_inner();
    let mut found = Vec::new();
    while let Some(answer) = answers.message().await? {
        found.extend(answer.info.into_iter().map(|info| (info.digest, info.size, info.labels)));
    }
    Ok(found)
}

/// References that are written to, and how far they have come.
///
/// # Errors
/// The daemon's.
pub async fn statuses(api: &Api) -> Result<Vec<(String, i64)>> {
    let answer = api.content().list_statuses(ListStatusesRequest::default()).await?;
    Ok(answer.into_inner().statuses.into_iter().map(|s| (s.r#ref, s.offset)).collect())
}

/// Takes content from the namespace.
///
/// # Errors
/// The daemon's.
pub async fn delete(api: &Api, digest: &str) -> Result<(), Status> {
    let request = DeleteContentRequest { digest: digest.into() };
    api.content().delete(request).await.map(drop)
}

/// Labels from pairs.
pub fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

/// The file with the bytes of `digest`.
pub fn blob_of(daemon: &Daemon, digest: &str) -> PathBuf {
    let hex = digest.split_once(':').map_or(digest, |(_, hex)| hex);
    daemon.root().join("io.containerd.content.v1.content/blobs/sha256").join(hex)
}
