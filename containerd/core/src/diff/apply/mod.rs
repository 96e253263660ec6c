//! Unpacking a layer.
//!
//! ```text
//!   blob ──▶ decompress ──▶ hash ──▶ pieces ──▶ archive ──▶ tree
//!   └───────── one thread ─────────┘       └── another one ──┘
//! ```
//!
//! The tree is written to where the snapshotter has it, without mounting it,
//! where that is known: the upper layer of an overlay, or the source of a bind
//! mount. What an entry hides of the layers below is hidden as overlays do it
//! in the first case, and removed in the others.
//!
//! # What is refused, and what is contained
//!
//! Names and links lead as they would with the tree as `/`; none leads out.
//! What follows the end of the archive is read, because the digest is that of
//! all of it, but not more than [`MAX_TRAILER_BYTES`]. There is no other limit
//! to how much may come out of a layer than the disk: what is in an archive is
//! written, and what a header makes us keep in memory is bounded. All that is
//! wrong with a layer ends it with an error that names the entry; what was
//! unpacked stays, for whoever made the snapshot to remove.
//!
//! Different from containerd, which would make a folder instead, a link of a
//! lower layer of an overlay is followed where an entry's path leads through it.
//! So a layer means the same with every snapshotter.

mod attributes;
mod entry;
mod folder;
mod lower;
mod path;
mod place;
mod remove;
#[cfg(test)]
pub(super) mod tests;
mod tree;
mod unpacked;

use std::{
    io::{self, BufRead},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use containerd_images::{Descriptor, Digest, Hasher, media_type::OCI_LAYER};
use nix::{
    sched::{CloneFlags, unshare},
    sys::stat::umask,
};
use rustix::{
    fs::{CWD, Mode, OFlags, openat, syncfs},
    io::Errno,
};
use shim_protocol::{Context, Error, ErrorKind, Result};

pub(super) use self::{
    attributes::{Made, is_of_layers},
    folder::{FOLDER, STRAIGHT},
    lower::is_opaque,
    place::Place,
    unpacked::names,
};

use self::{
    entry::Unpacker,
    lower::Lower,
    tree::{Overlay, Tree},
};
use super::{
    cancel::Cancel,
    compression::{Decoder, Told},
    mounted,
    pipe::{Inlet, pipe},
    tar::{Entry, Reader},
};
use crate::{content::Blob, fault};

/// How much may follow the end of the archive, in bytes: more than the padding
/// of any archiver, and less than what keeps a processor busy for long.
const MAX_TRAILER_BYTES: u64 = 16 << 20;

/// The attribute by which folders of an overlay hide those below, unless its
/// mount says otherwise.
const TRUSTED_OPAQUE: &str = "trusted.overlay.opaque";

/// A layer to unpack, and where to.
pub(super) struct Job {
    pub(super) blob: Blob,
    pub(super) digest: Digest,
    pub(super) told: Told,
    pub(super) place: Place,
    /// Whether the disk must have all of it in the end.
    pub(super) sync: bool,
    /// How much of the blob was read is counted here.
    pub(super) progress: Arc<AtomicU64>,
    pub(super) cancel: Cancel,
}

impl Job {
    /// Unpacks it, and answers what it is without its compression. Blocks.
    ///
    /// # Errors
    /// - `InvalidArgument` when it is no archive, or an entry cannot be meant;
    /// - `DataLoss` when it ends too early, or is not what its digest says;
    /// - `ResourceExhausted` when the disk is full;
    /// - `FailedPrecondition` when the place cannot be written to;
    /// - `Cancelled`; those of the disk.
    pub(super) fn run(self) -> Result<Descriptor> {
        let Self { blob, digest, told, place, sync, progress, cancel } = self;
        let work = |target: Target| {
            let source = Counted { blob, position: 0, progress, cancel: &cancel };
            relay(source, told, &digest, target, sync, &cancel)
        };
        match place {
            Place::Overlay { upper: Some(upper), lower, opaque } => {
                work(Target::overlay(&upper, &lower, opaque)?)
            }
            Place::Folder { path, read_only: false } => {
                work(Target { root: open(&path)?, overlay: None })
            }
            Place::Overlay { upper: None, .. } | Place::Folder { .. } => {
                Err(Error::precondition("a layer cannot be unpacked into a view"))
            }
            Place::Mounts(mounts) => {
                mounted::with(&mounts, |root| work(Target { root, overlay: None }))
            }
        }
    }
}

/// A tree that is open.
struct Target {
    root: OwnedFd,
    overlay: Option<Overlay>,
}

impl Target {
    /// The upper layer of an overlay.
    fn overlay(upper: &Path, lower: &[PathBuf], opaque: &'static str) -> Result<Self> {
        let root = open(upper)?;
        let lower = Lower::open(lower, opaque).map_err(|(path, errno)| {
            let text = format!("open lower layer {}", path.display());
            Error::caused(ErrorKind::FailedPrecondition, text, io::Error::from(errno))
        })?;
        Ok(Self { root, overlay: Some(Overlay { lower, opaque }) })
    }
}

fn open(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(CWD, path, flags, Mode::empty()).map_err(io::Error::from).context_as(
        ErrorKind::FailedPrecondition,
        "open",
        path.display(),
    )
}

/// This thread reads, another one writes.
fn relay(
    source: Counted<'_>,
    told: Told,
    digest: &Digest,
    target: Target,
    sync: bool,
    cancel: &Cancel,
) -> Result<Descriptor> {
    let (inlet, outlet) = pipe();
    std::thread::scope(|scope| {
        let writer = std::thread::Builder::new()
            .name("unpack".into())
            .spawn_scoped(scope, || write(outlet, target, sync, cancel))
            .context("start", "a thread")?;
        let read = read(source, told, digest, inlet);
        let written =
            writer.join().unwrap_or_else(|_| Err(Error::internal("unpack: thread panicked")));
        // Who fails first makes the other one stop.
        match read {
            Ok(Some(layer)) => written.map(|()| layer),
            Ok(None) => written.and_then(|()| Err(Error::internal("the layer was not read"))),
            Err(error) => Err(error),
        }
    })
}

/// Reads to the end; none when nobody takes it any more.
fn read(
    source: Counted<'_>,
    told: Told,
    digest: &Digest,
    mut inlet: Inlet,
) -> Result<Option<Descriptor>> {
    let mut decoder = Decoder::new(source, told)?;
    let (mut hasher, mut size) = (Hasher::new(Default::default()), 0);
    loop {
        let Some(mut buffer) = inlet.buffer() else { return Ok(None) };
        let filled = decoder.fill(&mut buffer)?;
        hasher.update(&buffer[..filled]);
        size += filled as u64;
        let over = filled < buffer.len();
        if filled > 0 && !inlet.send(buffer, filled) {
            return Ok(None);
        }
        if over {
            break;
        }
    }
    let found = hasher.digest();
    if decoder.is_plain() && digest.algorithm() == found.algorithm() && found != *digest {
        let text = format!("content {digest} has the digest {found}");
        return Err(Error::new(ErrorKind::DataLoss, text));
    }
    Ok(Some(Descriptor::new(OCI_LAYER, found, size)))
}

/// Unpacks what comes.
fn write(source: impl BufRead, target: Target, sync: bool, cancel: &Cancel) -> Result<()> {
    // For this thread alone: what is made has just the mode that it is given.
    unshare(CloneFlags::CLONE_FS).map_err(io::Error::from).context("unshare", "umask")?;
    umask(nix::sys::stat::Mode::empty());
    let about_root = |errno: Errno| {
        let errno = io::Error::from(errno);
        Error::caused(shim_protocol::error::io_kind(&errno), "open the tree", errno)
    };
    let root = target.root.try_clone().context("clone", "a descriptor")?;
    let tree = Tree::new(target.root, target.overlay).map_err(about_root)?;
    fault::point("diff.apply.opened");
    unpack_archive(source, tree, cancel)?;
    fault::point("diff.apply.unpacked");
    if sync {
        syncfs(&root).map_err(io::Error::from).context("sync", "the tree")?;
    }
    Ok(())
}

/// Unpacks an archive, and reads what is behind it.
fn unpack_archive(source: impl BufRead, tree: Tree, cancel: &Cancel) -> Result<()> {
    let (mut archive, mut entry) = (Reader::new(source), Entry::default());
    let mut unpacker = Unpacker::new(tree, cancel);
    while archive.next(&mut entry)? {
        cancel.check()?;
        unpacker.unpack(&entry, &mut archive)?;
        fault::point("diff.apply.entry");
    }
    unpacker.finish()?;
    let (mut source, mut trailer) = (archive.into_source(), 0);
    loop {
        let piece = source.fill_buf().context("read", "what follows the archive")?.len();
        if piece == 0 {
            return Ok(());
        }
        source.consume(piece);
        trailer += piece as u64;
        if trailer > MAX_TRAILER_BYTES {
            let text = format!("more than {MAX_TRAILER_BYTES} bytes follow the archive's end");
            return Err(Error::invalid(text));
        }
        cancel.check()?;
    }
}

/// A blob that is read from its beginning.
struct Counted<'a> {
    blob: Blob,
    position: u64,
    progress: Arc<AtomicU64>,
    cancel: &'a Cancel,
}

impl io::Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.cancel.check().map_err(io::Error::other)?;
        let read = self.blob.read_at(self.position, buffer).map_err(io::Error::other)?;
        self.position += read as u64;
        self.progress.store(self.position, Ordering::Relaxed);
        if read == 0 && self.position < self.blob.size() {
            let text = "content is shorter than it was";
            return Err(io::Error::other(Error::new(ErrorKind::DataLoss, text)));
        }
        Ok(read)
    }
}

/// Unpacks an archive into a folder, as into an overlay's upper layer if there
/// are layers below it. For tools and tests: the daemon's layers go through
/// [`super::Diff`]. Blocks.
///
/// # Errors
/// As [`super::Diff::apply`].
pub fn unpack(
    archive: impl BufRead + Send,
    folder: &Path,
    lower: Option<&[PathBuf]>,
) -> Result<()> {
    let target = match lower {
        Some(lower) => Target::overlay(folder, lower, TRUSTED_OPAQUE)?,
        None => Target { root: open(folder)?, overlay: None },
    };
    std::thread::scope(|scope| {
        // A thread of its own, as it changes what is the thread's.
        let writer = scope.spawn(|| write(archive, target, false, &Cancel::default()));
        writer.join().unwrap_or_else(|_| Err(Error::internal("unpack: thread panicked")))
    })
}
