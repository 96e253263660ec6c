//! Layers made by GNU tar and by hand, unpacked into folders and overlays.

mod archive;
mod features;
mod gnu;
mod hostile;

use std::{
    fs,
    path::{Path, PathBuf},
};

use shim_protocol::{ErrorKind, Result};
use tempfile::TempDir;

use self::archive::Archive;
use super::*;

/// Folders for a layer and those below it.
struct Bed(TempDir);

impl Bed {
    fn new() -> Self {
        let bed = Self(tempfile::tempdir().unwrap());
        for name in ["upper", "lower", "lowest", "outside"] {
            fs::create_dir(bed.0.path().join(name)).unwrap();
        }
        bed
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Unpacks into `upper`, as into a bind mount.
    fn merge(&self, archive: &Archive) -> Result<()> {
        unpack_bytes(archive.bytes(), &self.path("upper"), None)
    }

    /// Unpacks into `upper`, with `lower` and `lowest` below it.
    fn stack(&self, archive: &Archive) -> Result<()> {
        let lower = [self.path("lower"), self.path("lowest")];
        unpack_bytes(archive.bytes(), &self.path("upper"), Some(&lower))
    }

    /// The text of a file in `upper`.
    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path("upper").join(name)).unwrap()
    }

    /// What is in `upper`, by name, folders with a slash behind them.
    fn names(&self) -> Vec<String> {
        names_below(&self.path("upper"))
    }
}

pub(in crate::diff) fn unpack_bytes(
    archive: Vec<u8>,
    folder: &Path,
    lower: Option<&[PathBuf]>,
) -> Result<()> {
    unpack(io::Cursor::new(archive), folder, lower)
}

fn names_below(root: &Path) -> Vec<String> {
    let (mut names, mut open) = (Vec::new(), vec![root.to_owned()]);
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let name = entry.path().strip_prefix(root).unwrap().display().to_string();
            if entry.file_type().unwrap().is_dir() {
                open.push(entry.path());
                names.push(name + "/");
            } else {
                names.push(name);
            }
        }
    }
    names.sort();
    names
}

fn kind<T>(outcome: Result<T>) -> Option<ErrorKind> {
    outcome.err().as_ref().map(Error::kind)
}
