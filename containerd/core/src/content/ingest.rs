//! Content on its way in, on disk, as containerd keeps it:
//!
//! ```text
//! ingest/<sha256 of ref>/
//!     ref          who writes: "<namespace>/1/<reference>"
//!     data         what has come so far
//!     total        how much it will be, in bytes, if that is known
//!     startedat    time as RFC 3339
//!     updatedat    the same; newer if `data` was modified later
//!     leased       empty; there if its last writer had a lease (ours, not containerd's)
//! ```
//!
//! Whoever comes with the same reference goes on where the last one stopped,
//! also after a crash. All of this blocks.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    time::SystemTime,
};

use containerd_images::Hasher;
use prost_types::Timestamp;
use shim_protocol::{Context, Error, Id, Result, note};

use super::{Algorithm, Digest, Status, reference::Ref};
use crate::fault;

const REF: &str = "ref";
const DATA: &str = "data";
const TOTAL: &str = "total";
const STARTED_AT: &str = "startedat";
const UPDATED_AT: &str = "updatedat";
const LEASED: &str = "leased";

/// How much is hashed at once when writing goes on.
const READ_BYTES: usize = 1 << 20;

/// Content that is being written. Nobody else may have the same open.
pub(super) struct Ingest {
    folder: PathBuf,
    data: File,
    hasher: Hasher,
    offset: u64,
    total: u64,
    started_at: SystemTime,
    updated_at: SystemTime,
}

impl Ingest {
    /// Begins an ingest, or goes on with it, if there is one that makes sense
    /// and does not contradict `total` (0 is not known). `algorithm` is that of
    /// the digest that is expected.
    ///
    /// # Errors
    /// Those of the disk.
    pub(super) fn open(
        ingests: &Path,
        reference: &Ref,
        total: u64,
        algorithm: Algorithm,
    ) -> Result<Self> {
        let folder = reference.folder(ingests);
        if let Some(found) = read(&folder)? {
            let fits = total == 0 || found.total == 0 || total == found.total;
            if found.reference.as_ref() == Some(reference) && fits {
                return Self::resume(folder, found, algorithm);
            }
            tracing::info!(reference = reference.name, "ingest begins anew");
        }
        Self::begin(ingests, reference, total, algorithm)
    }

    /// Begins an ingest, in the place of one that may be there.
    ///
    /// # Errors
    /// Those of the disk.
    pub(super) fn begin(
        ingests: &Path,
        reference: &Ref,
        total: u64,
        algorithm: Algorithm,
    ) -> Result<Self> {
        let folder = reference.folder(ingests);
        remove(&folder)?;
        let now = SystemTime::now();
        let make = || -> io::Result<File> {
            DirBuilder::new().mode(0o755).create(&folder)?;
            fs::write(folder.join(REF), reference.full())?;
            if total > 0 {
                fs::write(folder.join(TOTAL), total.to_string())?;
            }
            let time = Timestamp::from(now).to_string();
            fs::write(folder.join(STARTED_AT), &time)?;
            fs::write(folder.join(UPDATED_AT), time)?;
            fault::point("content.write.begun");
            // The last, since what has no data is no ingest.
            OpenOptions::new().write(true).create_new(true).open(folder.join(DATA))
        };
        let data = match make() {
            Ok(data) => data,
            Err(e) => {
                // A full disk, most likely: leave it no fuller.
                if let Err(error) = remove(&folder) {
                    tracing::warn!(error = %error.report(), "unfinished ingest stays");
                }
                return Err(e).context("begin ingest", &reference.name);
            }
        };
        let hasher = Hasher::new(algorithm);
        Ok(Self { folder, data, hasher, offset: 0, total, started_at: now, updated_at: now })
    }

    fn resume(folder: PathBuf, found: Found, algorithm: Algorithm) -> Result<Self> {
        let path = folder.join(DATA);
        let data = OpenOptions::new().read(true).write(true).open(&path);
        let mut data = data.context("open", path.display())?;
        let mut hasher = Hasher::new(algorithm);
        let offset = hash(&mut data, &mut hasher).context("read", path.display())?;
        let Found { total, started_at, updated_at, .. } = found;
        Ok(Self { folder, data, hasher, offset, total, started_at, updated_at })
    }

    /// Appends a piece.
    ///
    /// # Errors
    /// `ResourceExhausted` when the disk is full; what was there before stays.
    pub(super) fn append(&mut self, piece: &[u8]) -> Result<()> {
        if let Err(e) = self.data.write_all(piece) {
            // A part of it may have been written, but counts for nothing.
            self.cut(self.offset).context("undo write to", self.folder.display())?;
            return Err(e).context("write to", self.folder.display());
        }
        fault::point("content.write.appended");
        self.hasher.update(piece);
        self.offset += piece.len() as u64;
        self.updated_at = SystemTime::now();
        Ok(())
    }

    /// Forgets all that has come.
    ///
    /// # Errors
    /// Those of the disk.
    pub(super) fn clear(&mut self) -> Result<()> {
        self.cut(0).context("empty", self.folder.display())?;
        self.hasher = Hasher::new(self.hasher.algorithm());
        self.offset = 0;
        self.updated_at = SystemTime::now();
        Ok(())
    }

    fn cut(&mut self, length: u64) -> io::Result<()> {
        self.data.set_len(length)?;
        self.data.seek(SeekFrom::Start(length)).map(drop)
    }

    /// Makes durable what has come, and checks it.
    ///
    /// # Errors
    /// `FailedPrecondition` when size or digest are not what they should be
    /// (0 and none: whatever they are).
    pub(super) fn finish(&mut self, size: u64, expected: Option<&Digest>) -> Result<Digest> {
        if size != 0 && size != self.offset {
            let text = format!("content has {} bytes, {size} were announced", self.offset);
            return Err(Error::precondition(text));
        }
        if let Some(expected) = expected
            && expected.algorithm() != self.hasher.algorithm()
        {
            let path = self.folder.join(DATA);
            let mut hasher = Hasher::new(expected.algorithm());
            let mut data = File::open(&path).context("open", path.display())?;
            hash(&mut data, &mut hasher).context("read", path.display())?;
            self.hasher = hasher;
        }
        let digest = self.hasher.digest();
        if let Some(expected) = expected
            && *expected != digest
        {
            let text = format!("content has digest {digest}, {expected} was expected");
            return Err(Error::precondition(text));
        }
        self.data.sync_all().context("sync", self.folder.display())?;
        fault::point("content.commit.synced");
        Ok(digest)
    }

    /// Notes when it was last written to, for whoever goes on.
    ///
    /// # Errors
    /// Those of the disk.
    pub(super) fn suspend(&mut self) -> Result<()> {
        let time = Timestamp::from(self.updated_at).to_string();
        fs::write(self.folder.join(UPDATED_AT), time).context("write to", self.folder.display())
    }

    /// Notes whether a lease holds it, so that it goes with the lease.
    ///
    /// # Errors
    /// Those of the disk.
    pub(super) fn set_leased(&self, leased: bool) -> Result<()> {
        let path = self.folder.join(LEASED);
        let set = match leased {
            true => fs::write(&path, ""),
            false => match fs::remove_file(&path) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
                removed => removed,
            },
        };
        set.context("note the lease of", self.folder.display())
    }

    /// The folder.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The file with the content.
    pub(super) fn data(&self) -> PathBuf {
        self.folder.join(DATA)
    }

    /// How much has come, in bytes.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// Digest of what has come.
    pub(super) fn digest(&self) -> Digest {
        self.hasher.digest()
    }

    /// Its status, as that of the reference `name`.
    pub(super) fn status(&self, name: &str) -> Status {
        Status {
            reference: name.to_owned(),
            offset: self.offset,
            total: self.total,
            started_at: self.started_at,
            updated_at: self.updated_at,
        }
    }
}

/// Hashes a file from its start, and leaves it at its end; answers its length.
fn hash(data: &mut File, hasher: &mut Hasher) -> io::Result<u64> {
    let mut buffer = vec![0; READ_BYTES];
    let mut length = 0;
    data.seek(SeekFrom::Start(0))?;
    loop {
        match data.read(&mut buffer) {
            Ok(0) => return Ok(length),
            Ok(read) => {
                hasher.update(&buffer[..read]);
                length += read as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// What an ingest's folder tells.
struct Found {
    /// None if it is not one that a client can name.
    reference: Option<Ref>,
    offset: u64,
    total: u64,
    started_at: SystemTime,
    updated_at: SystemTime,
}

/// Reads the folder of an ingest; none if it is not there, or not complete.
fn read(folder: &Path) -> Result<Option<Found>> {
    let data = match fs::symlink_metadata(folder.join(DATA)) {
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        data => data.context("look at", folder.display())?,
    };
    if !data.is_file() {
        return Ok(None);
    }
    let time = |name| SystemTime::try_from(text(folder, name)?.parse::<Timestamp>().ok()?).ok();
    let (Some(reference), Some(started_at)) = (text(folder, REF), time(STARTED_AT)) else {
        return Ok(None);
    };
    let modified = data.modified().context("look at", folder.display())?;
    Ok(Some(Found {
        reference: Ref::parse(&reference),
        offset: data.len(),
        total: text(folder, TOTAL).and_then(|total| total.parse().ok()).unwrap_or_default(),
        started_at,
        updated_at: time(UPDATED_AT).map_or(modified, |noted| noted.max(modified)),
    }))
}

/// What a small file says. One that cannot be read is as good as not there: the
/// ingest begins anew.
fn text(folder: &Path, name: &str) -> Option<String> {
    note::read(&folder.join(name)).ok()?.and_then(|text| String::from_utf8(text).ok())
}

/// The status of a reference; none if nothing was written to it.
///
/// # Errors
/// Those of the disk.
pub(super) fn status(ingests: &Path, reference: &Ref) -> Result<Option<Status>> {
    let found = read(&reference.folder(ingests))?;
    Ok(found.filter(|found| found.reference.as_ref() == Some(reference)).and_then(Found::status))
}

/// All ingests of a namespace.
///
/// # Errors
/// Those of the disk.
pub(super) fn list(ingests: &Path, namespace: &Id) -> Result<Vec<Status>> {
    let mut all = Vec::new();
    for folder in folders(ingests)? {
        let reference = text(&folder, REF).and_then(|full| Ref::parse(&full));
        if let Some(reference) = reference
            && reference.namespace == *namespace
            && reference.folder(ingests) == folder
        {
            // It may be gone by now.
            all.extend(status(ingests, &reference)?);
        }
    }
    Ok(all)
}

/// An ingest, for whoever looks for old ones.
pub(super) struct Old {
    pub(super) reference: Ref,
    /// Whether its last writer had a lease.
    pub(super) leased: bool,
    pub(super) updated_at: SystemTime,
}

/// The ingests of all namespaces.
///
/// # Errors
/// Those of the disk.
pub(super) fn all(ingests: &Path) -> Result<Vec<Old>> {
    let mut all = Vec::new();
    for folder in folders(ingests)? {
        // It may be gone by now.
        all.extend(look(&folder)?.filter(|old| old.reference.folder(ingests) == folder));
    }
    Ok(all)
}

/// The ingest in a folder; none if it is not there.
///
/// # Errors
/// Those of the disk.
pub(super) fn look(folder: &Path) -> Result<Option<Old>> {
    let Some(Found { reference: Some(reference), updated_at, .. }) = read(folder)? else {
        return Ok(None);
    };
    Ok(Some(Old { reference, leased: folder.join(LEASED).exists(), updated_at }))
}

/// How many ingests there are that somebody can go on with, and what else lies
/// between them.
///
/// # Errors
/// Those of the disk.
pub(super) fn odd(ingests: &Path) -> Result<(usize, Vec<PathBuf>)> {
    let (mut good, mut odd) = (0, Vec::new());
    for entry in fs::read_dir(ingests).context("list", ingests.display())? {
        let folder = entry.context("list", ingests.display())?.path();
        match look(&folder)? {
            Some(old) if old.reference.folder(ingests) == folder => good += 1,
            _ => odd.push(folder),
        }
    }
    odd.sort();
    Ok((good, odd))
}

/// Takes from an ingest what makes it one; [`remove`] then removes the rest.
///
/// # Errors
/// Those of the disk.
pub(super) fn spoil(folder: &Path) -> Result<()> {
    match fs::remove_file(folder.join(DATA)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.context("remove the data of", folder.display()),
    }
}

/// The folders that have the name of an ingest. What else there is, is none of
/// ours.
fn folders(ingests: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(ingests).context("list", ingests.display())? {
        let entry = entry.context("list", ingests.display())?;
        let name = entry.file_name();
        let key = name.to_str().and_then(|name| Digest::from_hex(Algorithm::Sha256, name));
        if key.is_some() && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.push(entry.path());
        }
    }
    Ok(found)
}

impl Found {
    fn status(self) -> Option<Status> {
        Some(Status {
            reference: self.reference?.name,
            offset: self.offset,
            total: self.total,
            started_at: self.started_at,
            updated_at: self.updated_at,
        })
    }
}

/// Removes the folder of an ingest; a missing one is success.
///
/// # Errors
/// Those of the disk.
pub(super) fn remove(folder: &Path) -> Result<()> {
    let removed = match fs::remove_dir_all(folder) {
        // It has the name of an ingest only, but is in its place.
        Err(e) if e.kind() == io::ErrorKind::NotADirectory => fs::remove_file(folder),
        removed => removed,
    };
    match removed {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.context("remove ingest", folder.display()),
    }
}

/// Removes what was begun or ended when a daemon died, and so is no ingest.
///
/// # Errors
/// Those of the disk.
pub(super) fn remove_broken(ingests: &Path) -> Result<()> {
    for folder in folders(ingests)? {
        if read(&folder)?.is_none() {
            remove(&folder)?;
        }
    }
    Ok(())
}
