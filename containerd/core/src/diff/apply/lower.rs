//! What an overlay shows of the layers below the one that is written to.

use std::{
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
};

use rustix::{
    fs::{
        AtFlags, CWD, FileType, Mode, OFlags, Stat, fgetxattr, makedev, openat, openat2,
        readlinkat, statat,
    },
    io::Errno,
};

use super::{
    folder::{FOLDER, STRAIGHT},
    path::split,
};

/// An overlay's lower layers, the uppermost first.
pub(super) struct Lower {
    layers: Vec<OwnedFd>,
    /// The attribute of folders that hide what is below them.
    opaque: &'static str,
}

/// Something in a lower layer.
pub(super) struct Found {
    /// The folder that it is in.
    pub(super) folder: OwnedFd,
    pub(super) name: Vec<u8>,
    pub(super) stat: Stat,
}

impl Found {
    pub(super) fn file_type(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }

    /// Where the symbolic link leads.
    pub(super) fn target(&self) -> Result<Vec<u8>, Errno> {
        Ok(readlinkat(&self.folder, &self.name, Vec::new())?.into_bytes())
    }
}

impl Lower {
    pub(super) fn open(layers: &[PathBuf], opaque: &'static str) -> Result<Self, (PathBuf, Errno)> {
        let open = |path: &PathBuf| {
            let flags = FOLDER - OFlags::NOFOLLOW;
            openat(CWD, path, flags, Mode::empty()).map_err(|e| (path.clone(), e))
        };
        Ok(Self { layers: layers.iter().map(open).collect::<Result<_, _>>()?, opaque })
    }

    /// The uppermost of what has this path, if nothing above hides it. The path
    /// is clean, and led through no link.
    pub(super) fn find(&self, path: &[u8]) -> Result<Option<Found>, Errno> {
        let (folder, name) = split(path);
        for layer in &self.layers {
            let Some((folder, last)) = self.descend(layer, folder)? else { continue };
            let Some(folder) = folder else { return Ok(None) };
            match statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) if is_whiteout(&stat) => return Ok(None),
                Ok(stat) => return Ok(Some(Found { folder, name: name.to_owned(), stat })),
                Err(Errno::NOENT) if last => return Ok(None),
                Err(Errno::NOENT) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(None)
    }

    /// Names of what the merged root has.
    pub(super) fn root_names(&self) -> Result<Vec<Vec<u8>>, Errno> {
        let mut all: Vec<Vec<u8>> = Vec::new();
        for layer in &self.layers {
            all.extend(super::unpacked::names(layer)?);
        }
        all.sort();
        all.dedup();
        let mut shown = Vec::new();
        for name in all {
            if self.find(&name)?.is_some() {
                shown.push(name);
            }
        }
        Ok(shown)
    }

    /// Opens a folder of a layer, and says whether it hides those of the layers
    /// below. None if the layer says nothing of it; no folder if it hides it.
    #[allow(clippy::type_complexity)]
    fn descend(
        &self,
        layer: &OwnedFd,
        path: &[u8],
    ) -> Result<Option<(Option<OwnedFd>, bool)>, Errno> {
        let mut current = layer.as_fd().try_clone_to_owned().map_err(|_| Errno::MFILE)?;
        let mut last = false;
        for part in path.split(|byte| *byte == b'/').filter(|part| !part.is_empty()) {
            match openat2(&current, part, FOLDER, Mode::empty(), STRAIGHT) {
                Ok(next) => current = next,
                // Hidden, if it is opaque up to here.
                Err(Errno::NOENT) if last => return Ok(Some((None, true))),
                Err(Errno::NOENT) => return Ok(None),
                Err(Errno::NOTDIR | Errno::LOOP) => return Ok(Some((None, true))),
                Err(e) => return Err(e),
            }
            last |= is_opaque(&current, self.opaque);
        }
        Ok(Some((Some(current), last)))
    }
}

/// Whether a folder of an overlay's layer hides those below it.
pub(in crate::diff) fn is_opaque(folder: &OwnedFd, attribute: &str) -> bool {
    let mut value = [0; 2];
    matches!(fgetxattr(folder, attribute, &mut value), Ok(1) if value[0] == b'y')
}

/// Whether it stands for nothing in an overlay (Documentation/filesystems/
/// overlayfs.rst, "whiteouts and opaque directories").
pub(super) fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
        && stat.st_rdev == makedev(0, 0)
}
