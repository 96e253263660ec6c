//! Committed content on disk, as containerd keeps it:
//!
//! ```text
//! <root>/io.containerd.content.v1.content/
//!     blobs/<algorithm>/<hex>      content that has this digest
//!     ingest/<key>/                content on its way in, see `ingest`
//! ```
//!
//! A file under `blobs` is whole: it gets there by a rename after it was
//! verified and synced. All of this blocks.

use std::{
    collections::HashMap,
    fs::{self, DirBuilder, File, Permissions},
    io,
    os::unix::fs::{DirBuilderExt, FileExt, PermissionsExt},
    path::{Path, PathBuf},
};

use shim_protocol::{Context, Error, Result};

use super::{Algorithm, Digest, remote::RemoteBlob};
use crate::fault;

const BLOBS: &str = "blobs";
const INGEST: &str = "ingest";

/// The folder of the content store.
#[derive(Clone, Debug)]
pub(super) struct Blobs {
    root: PathBuf,
}

impl Blobs {
    /// Opens the folder, and makes what is missing of it.
    ///
    /// # Errors
    /// Those of the disk.
    pub(super) fn open(root: &Path) -> Result<Self> {
        let this = Self { root: root.to_owned() };
        make_folder(&this.ingests())?;
        for algorithm in Algorithm::ALL {
            make_folder(&this.folder(algorithm))?;
        }
        // Blobs are as durable as the folders they are in.
        sync_folder(&root.join(BLOBS))?;
        sync_folder(root)?;
        root.parent().map_or(Ok(()), sync_folder)?;
        Ok(this)
    }

    /// The folder of content on its way in.
    pub(super) fn ingests(&self) -> PathBuf {
        self.root.join(INGEST)
    }

    fn folder(&self, algorithm: Algorithm) -> PathBuf {
        self.root.join(BLOBS).join(algorithm.name())
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.folder(digest.algorithm()).join(digest.hex())
    }

    /// Opens a blob; none if it is not there.
    ///
    /// # Errors
    /// Those of the disk.
    pub(super) fn get(&self, digest: &Digest) -> Result<Option<Blob>> {
        let Some(size) = self.size(digest)? else { return Ok(None) };
        match File::open(self.path(digest)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            file => Ok(Some(Blob(Source::File(file.context("open content", digest)?, size)))),
        }
    }

    /// The length of a blob in bytes; none if it is not there, or no file.
    fn size(&self, digest: &Digest) -> Result<Option<u64>> {
        match fs::symlink_metadata(self.path(digest)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            found => {
                let found = found.context("look at content", digest)?;
                Ok(found.is_file().then_some(found.len()))
            }
        }
    }

    /// Makes a blob of the file at `path`, whose `size` bytes were verified and
    /// synced. If it is there already, the file stays; what has its name but
    /// not its length gives way. Answers whether it was there.
    ///
    /// # Errors
    /// Those of the disk.
    pub(super) fn put(&self, digest: &Digest, size: u64, path: &Path) -> Result<bool> {
        let (blob, existed) = (self.path(digest), self.size(digest)? == Some(size));
        if !existed {
            if blob.is_dir() {
                fs::remove_dir_all(&blob).context("make way for content", digest)?;
            }
            fs::rename(path, &blob).context("commit content", digest)?;
            fault::point("content.commit.renamed");
            let read_only = Permissions::from_mode(0o444);
            fs::set_permissions(&blob, read_only).context("protect content", digest)?;
        }
        // A daemon before us may have been killed just here.
        sync_folder(&self.folder(digest.algorithm()))?;
        fault::point("content.commit.placed");
        Ok(existed)
    }

    /// Makes a blob the file at `path` again that it was before [`Self::put`].
    ///
    /// # Errors
    /// Those of the disk.
    pub(super) fn take_back(&self, digest: &Digest, path: &Path) -> Result<()> {
        fs::rename(self.path(digest), path).context("take back content", digest)?;
        let writable = Permissions::from_mode(0o644);
        fs::set_permissions(path, writable).context("take back content", digest)
    }

    /// Removes a blob; one that is gone is success.
    ///
    /// # Errors
    /// Those of the disk.
    pub(super) fn remove(&self, digest: &Digest) -> Result<()> {
        match fs::remove_file(self.path(digest)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            // It has the name of content, but is none.
            Err(e) if e.kind() == io::ErrorKind::IsADirectory => Ok(()),
            removed => removed.context("remove content", digest),
        }
    }

    /// All blobs, and their lengths in bytes. What is named otherwise, or is no
    /// file, is none of ours.
    ///
    /// # Errors
    /// Those of the disk.
    pub(super) fn list(&self) -> Result<HashMap<Digest, u64>> {
        let mut found = HashMap::new();
        for algorithm in Algorithm::ALL {
            let folder = self.folder(algorithm);
            for entry in fs::read_dir(&folder).context("list", folder.display())? {
                let name = entry.context("list", folder.display())?.file_name();
                let digest = name.to_str().and_then(|name| Digest::from_hex(algorithm, name));
                let Some(digest) = digest else { continue };
                if let Some(size) = self.size(&digest)? {
                    found.insert(digest, size);
                }
            }
        }
        Ok(found)
    }
}

/// A blob that is open: it can be read to its end, even if it is removed
/// meanwhile, unless another process has it.
#[derive(Debug)]
pub struct Blob(Source);

#[derive(Debug)]
enum Source {
    /// With its length in bytes.
    File(File, u64),
    Remote(RemoteBlob),
}

impl Blob {
    pub(super) fn remote(blob: RemoteBlob) -> Self {
        Self(Source::Remote(blob))
    }

    /// Its length in bytes.
    pub fn size(&self) -> u64 {
        match &self.0 {
            Source::File(_, size) => *size,
            Source::Remote(blob) => blob.size,
        }
    }

    /// Reads into `buffer` from `offset`; answers how much was read, which is
    /// less than the whole buffer at the end only. Blocks.
    ///
    /// # Errors
    /// Those of the disk; `Unavailable` when the process is not there that has
    /// it.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        match &self.0 {
            Source::File(file, _) => read_at(file, offset, buffer).context("read", "content"),
            Source::Remote(blob) => blob.read_at(offset, buffer),
        }
    }
}

fn read_at(file: &File, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

/// Makes what was done to the entries of a folder durable.
pub(super) fn sync_folder(path: &Path) -> Result<()> {
    File::open(path).and_then(|folder| folder.sync_all()).context("sync", path.display())
}

fn make_folder(path: &Path) -> Result<()> {
    DirBuilder::new().recursive(true).mode(0o755).create(path).context("make", path.display())
}

/// The error for content that is not there.
pub(super) fn missing(digest: &Digest) -> Error {
    Error::not_found(format!("content {digest}"))
}
