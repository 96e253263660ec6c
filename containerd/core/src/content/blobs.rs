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
    fs::{self, DirBuilder, File, Permissions},
    io,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
};

use shim_protocol::{Context, Error, Result};

use super::digest::{Algorithm, Digest};

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
        let file = match File::open(self.path(digest)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file.context("open content", digest)?,
        };
        let size = file.metadata().context("read size of content", digest)?.len();
        Ok(Some(Blob { file, size }))
    }

    /// Makes a blob of the file at `path`, whose bytes were verified and
    /// synced. If it is there already, the file stays.
    ///
    /// # Errors
    /// Those of the disk.
    pub(super) fn put(&self, digest: &Digest, path: &Path) -> Result<()> {
        if self.get(digest)?.is_none() {
            let read_only = Permissions::from_mode(0o444);
            fs::set_permissions(path, read_only).context("protect content", digest)?;
            fs::rename(path, self.path(digest)).context("commit content", digest)?;
        }
        // A daemon before us may have been killed just here.
        sync_folder(&self.folder(digest.algorithm()))
    }

    /// Removes a blob; one that is gone is success.
    ///
    /// # Errors
    /// Those of the disk.
    pub(super) fn remove(&self, digest: &Digest) -> Result<()> {
        match fs::remove_file(self.path(digest)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed.context("remove content", digest),
        }
    }

    /// The digests of all blobs. What is named otherwise is none of ours.
    ///
    /// # Errors
    /// Those of the disk.
    pub(super) fn list(&self) -> Result<Vec<Digest>> {
        let mut found = Vec::new();
        for algorithm in Algorithm::ALL {
            let folder = self.folder(algorithm);
            for entry in fs::read_dir(&folder).context("list", folder.display())? {
                let name = entry.context("list", folder.display())?.file_name();
                found.extend(name.to_str().and_then(|name| Digest::from_hex(algorithm, name)));
            }
        }
        Ok(found)
    }
}

/// A blob that is open: it can be read to its end, even if it is removed
/// meanwhile.
#[derive(Debug)]
pub struct Blob {
    pub(super) file: File,
    pub(super) size: u64,
}

impl Blob {
    /// Its length in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Reads into `buffer` from `offset`; answers how much was read, which is
    /// less than the whole buffer at the end only. Blocks.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        use std::os::unix::fs::FileExt;
        let mut filled = 0;
        while filled < buffer.len() {
            match self.file.read_at(&mut buffer[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e).context("read", "content"),
            }
        }
        Ok(filled)
    }
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
