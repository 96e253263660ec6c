//! Layers over the wire, and what they are made of.

mod archives;
mod tree;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Result, ensure};
use containerd_api::{
    services::{
        content::v1::ReadContentRequest,
        diff::v1::{ApplyRequest, DiffRequest},
    },
    types::{Descriptor, Mount},
};
use sha2::{Digest, Sha256};
use tonic::Status;

use crate::{
    Api, Bed,
    content::{Write, commit, data, stat},
    faults,
};

pub use archives::{compress, copy, decompress, hostile, names, tar, whiteouts};
pub use tree::{Scene, age, alter, fill};

/// How much of content is sent at once.
const PIECE_BYTES: usize = 1 << 20;

/// Unpacks a layer onto mounts.
///
/// # Errors
/// The daemon's.
pub async fn apply(api: &Api, layer: Descriptor, mounts: Vec<Mount>) -> Result<Descriptor, Status> {
    let request = ApplyRequest { diff: Some(layer), mounts, ..Default::default() };
    let answer = api.diff().apply(request).await?;
    answer.into_inner().applied.ok_or_else(|| Status::internal("no descriptor"))
}

/// Makes a layer.
///
/// # Errors
/// The daemon's.
pub async fn diff(api: &Api, request: DiffRequest) -> Result<Descriptor, Status> {
    let answer = api.diff().diff(request).await?;
    answer.into_inner().diff.ok_or_else(|| Status::internal("no descriptor"))
}

/// What points to a layer.
pub fn descriptor(media_type: &str, digest: &str, size: usize) -> Descriptor {
    Descriptor {
        media_type: media_type.into(),
        digest: digest.into(),
        size: i64::try_from(size).unwrap_or(i64::MAX),
        ..Default::default()
    }
}

/// Writes content of any bytes; answers its digest.
///
/// # Errors
/// The daemon's.
pub async fn put_bytes(api: &Api, reference: &str, bytes: &[u8]) -> Result<String, Status> {
    let (mut write, _) = Write::open(api, stat(reference)).await?;
    let mut offset = 0;
    for piece in bytes.chunks(PIECE_BYTES) {
        write.send(data(offset, piece)).await?;
        offset += i64::try_from(piece.len()).unwrap_or_default();
    }
    Ok(write.send(commit(offset, &digest(bytes))).await?.digest)
}

/// Reads all of content.
///
/// # Errors
/// The daemon's.
pub async fn read(api: &Api, digest: &str) -> Result<Vec<u8>> {
    let request = ReadContentRequest { digest: digest.into(), ..Default::default() };
    let mut answers = api.content().read(request).await?.into_inner();
    let mut bytes = Vec::new();
    while let Some(answer) = answers.message().await? {
        bytes.extend(answer.data);
    }
    Ok(bytes)
}

/// The digest of `bytes`.
pub fn digest(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// A folder of that name, made if it is not there.
///
/// # Errors
/// Those of the disk.
pub fn folder(bed: &Bed, name: &str) -> Result<PathBuf> {
    let path = bed.sandbox.path(name);
    fs::create_dir_all(&path)?;
    Ok(path)
}

/// A bind mount of a folder.
pub fn bind(source: &Path) -> Mount {
    Mount {
        r#type: "bind".into(),
        source: source.display().to_string(),
        options: vec!["rbind".into(), "rw".into()],
        ..Default::default()
    }
}

/// An overlay with an upper layer of its own, at `<name>/fs`.
///
/// # Errors
/// Those of the disk.
pub fn overlay(bed: &Bed, name: &str, lower: &[&Path]) -> Result<Mount> {
    let upper = folder(bed, &format!("{name}/fs"))?;
    let work = folder(bed, &format!("{name}/work"))?;
    let lower: Vec<String> = lower.iter().map(|path| path.display().to_string()).collect();
    Ok(Mount {
        r#type: "overlay".into(),
        source: "overlay".into(),
        options: vec![
            "index=off".into(),
            format!("workdir={}", work.display()),
            format!("upperdir={}", upper.display()),
            format!("lowerdir={}", lower.join(":")),
        ],
        ..Default::default()
    })
}

/// Does `work` with a daemon that dies at `place`, and starts the next one.
///
/// # Errors
/// The daemon survives.
pub async fn crash_at<T>(
    bed: &mut Bed,
    place: &str,
    work: impl AsyncFnOnce(&Bed) -> Result<T, Status>,
) -> Result<()> {
    bed.daemon.stop().await?;
    bed.daemon.use_debug_build()?;
    bed.daemon.set_environment(&[(faults::VARIABLE, place)]);
    bed.daemon.start(&bed.sandbox).await?;
    ensure!(work(bed).await.is_err(), "{place}: nothing happened");
    crate::eventually(async || {
        ensure!(bed.daemon.ended()?.is_some(), "{place}: it lives");
        Ok(())
    })
    .await?;
    bed.daemon.set_environment(&[]);
    bed.daemon.start(&bed.sandbox).await
}
