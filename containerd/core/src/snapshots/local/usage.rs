//! How much disk a folder takes.

use std::{
    collections::HashSet,
    fs::{self, Metadata},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use shim_protocol::{Context, Result};

use crate::snapshots::Usage;

/// Bytes of a block in `st_blocks` (stat(2)).
const BLOCK_BYTES: u64 = 512;

/// All that is in a folder, and the folder itself. A file with several names
/// counts once. Files may come and go meanwhile.
pub(super) fn of(folder: &Path) -> Result<Usage> {
    let mut sum = Sum::default();
    sum.walk(folder, |_, _| true)?;
    Ok(sum.usage)
}

/// What is in a folder that was made as a snapshot of `parent` and is not as it
/// was there. A snapshot of btrfs keeps inode numbers and times.
pub(super) fn beyond(folder: &Path, parent: &Path) -> Result<Usage> {
    let mut sum = Sum::default();
    sum.walk(folder, |path, found| {
        let Ok(below) = path.strip_prefix(folder) else { return true };
        let Ok(old) = fs::symlink_metadata(parent.join(below)) else { return true };
        let of = |m: &Metadata| (m.ino(), m.ctime(), m.ctime_nsec(), m.len());
        of(&old) != of(found)
    })?;
    Ok(sum.usage)
}

#[derive(Default)]
struct Sum {
    usage: Usage,
    /// Files with several names.
    seen: HashSet<(u64, u64)>,
}

impl Sum {
    fn walk(&mut self, root: &Path, counts: impl Fn(&Path, &Metadata) -> bool) -> Result<()> {
        let found = fs::symlink_metadata(root).context("look at", root.display())?;
        let mut folders: Vec<PathBuf> = Vec::new();
        let mut visit = |path: PathBuf, found: Metadata, folders: &mut Vec<PathBuf>| {
            if counts(&path, &found) {
                self.add(&found);
            }
            if found.is_dir() {
                folders.push(path);
            }
        };
        visit(root.to_owned(), found, &mut folders);
        while let Some(folder) = folders.pop() {
            let Some(entries) = there(fs::read_dir(&folder)).context("read", folder.display())?
            else {
                continue;
            };
            for entry in entries {
                let entry = entry.context("read", folder.display())?;
                let path = entry.path();
                if let Some(found) = there(entry.metadata()).context("look at", path.display())? {
                    visit(path, found, &mut folders);
                }
            }
        }
        Ok(())
    }

    fn add(&mut self, found: &Metadata) {
        let is_shared = found.nlink() > 1 && !found.is_dir();
        if is_shared && !self.seen.insert((found.dev(), found.ino())) {
            return;
        }
        self.usage.size += found.blocks() * BLOCK_BYTES;
        self.usage.inodes += 1;
    }
}

/// None when it is not there any more.
fn there<T>(outcome: io::Result<T>) -> io::Result<Option<T>> {
    match outcome {
        Ok(found) => Ok(Some(found)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_with_two_names_counts_once() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (folder.path().join("a"), folder.path().join("b"));
        fs::create_dir(folder.path().join("sub")).unwrap();
        fs::write(&a, vec![1; 10_000]).unwrap();
        let one = of(folder.path()).unwrap();
        assert_eq!(one.inodes, 3);
        assert!(one.size >= 10_000, "{one:?}");
        fs::hard_link(&a, &b).unwrap();
        assert_eq!(of(folder.path()).unwrap(), one);
        fs::copy(&a, folder.path().join("c")).unwrap();
        assert_eq!(of(folder.path()).unwrap().inodes, 4);
    }
}
