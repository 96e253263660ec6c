//! Layers made by GNU tar and by hand, unpacked into folders and overlays.

mod archive;
mod features;

use std::{
    fs,
    io::Cursor,
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
        self.unpack(archive.bytes(), None)
    }

    /// Unpacks into `upper`, with `lower` and `lowest` below it.
    fn stack(&self, archive: &Archive) -> Result<()> {
        let opaque = "trusted.overlay.opaque";
        let layers = [self.path("lower"), self.path("lowest")];
        let lower = Lower::open(&layers, opaque).map_err(|(_, errno)| errno).unwrap();
        self.unpack(archive.bytes(), Some(Overlay { lower, opaque }))
    }

    fn unpack(&self, bytes: Vec<u8>, overlay: Option<Overlay>) -> Result<()> {
        let root = open(&self.path("upper"))?;
        let target = Target { root, overlay };
        // In a thread of its own, as it changes what is the thread's.
        let write = move || write(Cursor::new(bytes), target, false, &Cancel::default());
        std::thread::spawn(write).join().unwrap()
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
