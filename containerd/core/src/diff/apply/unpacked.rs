//! What this layer has made, where there was something before.

use std::{
    collections::HashSet,
    hash::{BuildHasher, RandomState},
    os::fd::OwnedFd,
};

use rustix::{
    fs::{AtFlags, Dir, Mode, openat, unlinkat},
    io::Errno,
};

use super::{folder::FOLDER, remove::identity};

/// Remembers names in folders. A whiteout hides only what was there before the
/// layer, wherever in the layer it comes (OCI image specification, "Whiteouts").
///
/// Of a name only a keyed hash of 64 bits is kept: layers have many.
#[derive(Default)]
pub(super) struct Unpacked {
    key: RandomState,
    names: HashSet<u64>,
}

impl Unpacked {
    fn hash(&self, folder: (u64, u64), name: &[u8]) -> u64 {
        self.key.hash_one((folder, name))
    }

    pub(super) fn add(&mut self, folder: (u64, u64), name: &[u8]) {
        let hash = self.hash(folder, name);
        self.names.insert(hash);
    }

    pub(super) fn has(&self, folder: (u64, u64), name: &[u8]) -> bool {
        self.names.contains(&self.hash(folder, name))
    }

    /// Removes from a folder all that the layer has not made. Answers whether
    /// something stays.
    pub(super) fn keep_only(&self, folder: &OwnedFd) -> Result<bool, Errno> {
        let here = identity(folder)?;
        let mut any = false;
        for name in names(folder)? {
            let ours = self.has(here, &name);
            match openat(folder, &name, FOLDER, Mode::empty()) {
                // The layer may have made something in a folder that it did not make.
                Ok(below) if self.keep_only(&below)? || ours => any = true,
                Ok(_) => unlinkat(folder, &name, AtFlags::REMOVEDIR)?,
                Err(Errno::NOTDIR | Errno::LOOP) if ours => any = true,
                Err(Errno::NOTDIR | Errno::LOOP) => unlinkat(folder, &name, AtFlags::empty())?,
                Err(e) => return Err(e),
            }
        }
        Ok(any)
    }
}

/// Names of what is in a folder.
pub(in crate::diff) fn names(folder: &OwnedFd) -> Result<Vec<Vec<u8>>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if !matches!(name, b"." | b"..") {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}
