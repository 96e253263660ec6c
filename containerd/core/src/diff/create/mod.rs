//! Making a layer of what one filesystem has more or less than another.
//!
//! Where the newer one is an overlay of one layer on top of the older one, only
//! that layer is gone through, and the layers below are asked about what is in
//! it. Else both are gone through, mounted where they must be. The layer is the
//! same, byte for byte: it depends on nothing but what is in the two, in the
//! order of names. Times are in whole seconds, as in containerd.

mod layer;
mod meta;
mod sink;
#[cfg(test)]
mod tests;
mod walk;

use std::{
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use containerd_images::Digest;
use rustix::fs::{CWD, Mode, OFlags, openat};
use shim_protocol::{Context, Error, ErrorKind, Result};
use tokio::sync::mpsc::Sender;

use self::{
    layer::{Layer, Stop},
    sink::{Chunks, Sink},
    walk::{Old, walk},
};
use super::{apply::Place, cancel::Cancel, compression::Compression, mounted};
use crate::Mount;

/// Attributes of an overlay's folders that hide what is below them.
const OPAQUE: [&str; 2] = ["trusted.overlay.opaque", "user.overlay.opaque"];

/// Two filesystems to compare.
#[derive(Clone)]
pub(super) struct Job {
    /// `None` for an empty one.
    pub(super) left: Option<Place>,
    pub(super) right: Option<Place>,
    pub(super) compression: Compression,
    /// No time is later, in seconds.
    pub(super) latest: Option<i64>,
    pub(super) cancel: Cancel,
}

/// What became of a job.
pub(super) enum Made {
    /// The digest of the layer without its compression.
    Layer(Digest),
    /// What was sent is of no use; it has to be done without the shorter way.
    Again,
}

impl Job {
    /// Makes the layer, and sends it piece by piece. `direct` allows the shorter
    /// way. Blocks.
    ///
    /// # Errors
    /// `Aborted` when a file changes meanwhile; `Unavailable` when nobody takes
    /// the pieces; `Cancelled`; those of mounting and of the disk.
    pub(super) fn run(self, direct: bool, pieces: Sender<Vec<u8>>) -> Result<Made> {
        let sink = Sink::new(Chunks::new(pieces), self.compression)?;
        if let Some(upper) = self.upper().filter(|_| direct) {
            let Upper { path, lower, opaque } = upper;
            let layers = lower.iter().map(|path| open(path)).collect::<Result<_>>()?;
            let old = Old { layers, is_overlay: true };
            return self.compare(&old, open(&path)?, Some(opaque), sink);
        }
        self.with(self.left.as_ref(), |left| {
            let old = Old { layers: left.into_iter().collect(), is_overlay: false };
            self.with(self.right.as_ref(), |right| match right {
                Some(right) => self.compare(&old, right, None, sink),
                None => Err(Error::invalid("no mounts of the newer filesystem")),
            })
        })
    }

    fn compare(
        &self,
        old: &Old,
        new: OwnedFd,
        opaque: Option<&str>,
        sink: Sink<Chunks>,
    ) -> Result<Made> {
        let mut layer = Layer::new(sink, self.latest, opaque.is_some(), &self.cancel);
        match walk(old, new, opaque, &mut layer) {
            Ok(()) => layer.finish()?.finish().map(Made::Layer),
            Err(Stop::Indirect) => Ok(Made::Again),
            Err(Stop::Failed(error)) => Err(error),
        }
    }

    /// The layer that is the whole difference, if there is one.
    fn upper(&self) -> Option<Upper> {
        let (right, opaque) = layers(self.right.as_ref()?)?;
        let left = match &self.left {
            Some(left) => layers(left)?.0,
            None => Vec::new(),
        };
        let (path, lower) = right.split_first()?;
        // One folder alone may be more than a layer: it is no overlay's then.
        let is_overlay = matches!(self.right, Some(Place::Overlay { .. }));
        (is_overlay && lower == left).then(|| Upper {
            path: path.clone(),
            lower: lower.to_vec(),
            opaque,
        })
    }

    /// Does `work` with a filesystem as it shows, open; with nothing if there is
    /// none.
    fn with<T: Send>(
        &self,
        place: Option<&Place>,
        work: impl FnOnce(Option<OwnedFd>) -> Result<T> + Send,
    ) -> Result<T> {
        let mounts = match place {
            None => return work(None),
            Some(Place::Folder { path, .. }) => return work(Some(open(path)?)),
            Some(place @ Place::Overlay { .. }) => match read_only(place) {
                Err(path) => return work(Some(open(&path)?)),
                Ok(mount) => vec![mount],
            },
            Some(Place::Mounts(mounts)) => mounts.clone(),
        };
        mounted::with(&mounts, |root| work(Some(root)))
    }
}

struct Upper {
    path: PathBuf,
    lower: Vec<PathBuf>,
    opaque: &'static str,
}

/// The layers of a filesystem, the uppermost first, if it consists of such.
fn layers(place: &Place) -> Option<(Vec<PathBuf>, &'static str)> {
    match place {
        Place::Overlay { upper, lower, opaque } => {
            Some((upper.iter().chain(lower).cloned().collect(), opaque))
        }
        Place::Folder { path, .. } => Some((vec![path.clone()], OPAQUE[0])),
        Place::Mounts(_) => None,
    }
}

/// An overlay that shows what `place` does, and that nobody can write to; the
/// only layer, if there is but one.
fn read_only(place: &Place) -> Result<Mount, PathBuf> {
    let Some((layers, opaque)) = layers(place) else { return Err(PathBuf::new()) };
    if let [only] = layers.as_slice() {
        return Err(only.clone());
    }
    let escape = |path: &PathBuf| {
        let path = path.display().to_string();
        path.replace('\\', "\\\\").replace(':', "\\:").replace(',', "\\,")
    };
    let lower: Vec<String> = layers.iter().map(escape).collect();
    let mut options = vec!["ro".to_owned(), format!("lowerdir={}", lower.join(":"))];
    if opaque == OPAQUE[1] {
        options.push("userxattr".into());
    }
    Ok(Mount { kind: "overlay".into(), source: "overlay".into(), options, ..Default::default() })
}

fn open(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(CWD, path, flags, Mode::empty()).map_err(io::Error::from).context_as(
        ErrorKind::FailedPrecondition,
        "open",
        path.display(),
    )
}

/// Whether a folder of an overlay's layer hides those below it.
fn is_opaque(folder: &OwnedFd) -> bool {
    OPAQUE.iter().any(|attribute| super::apply::is_opaque(folder, attribute))
}
