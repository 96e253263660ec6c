//! Trees: made, changed, and looked at.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt, lchown, symlink},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use anyhow::{Result, ensure};
use nix::sys::stat::{Mode, SFlag, mknod};
use rustix::fs::{
    AtFlags, CWD, Timespec, Timestamps, XattrFlags, lgetxattr, llistxattr, lsetxattr, utimensat,
};

use super::digest;

/// Fills a folder with one of everything, and then some.
///
/// # Errors
/// Those of the disk.
pub fn fill(root: &Path, count: u32) -> Result<()> {
    fs::create_dir_all(root.join("a/b"))?;
    for number in 0..count {
        let folder = root.join(format!("n{}", number % 17)).join(format!("m{}", number % 5));
        fs::create_dir_all(&folder)?;
        let path = folder.join(format!("f{number}"));
        match number % 11 {
            0 => symlink(format!("../f{number}"), &path)?,
            1 => mknod(&path, SFlag::S_IFIFO, Mode::from_bits_truncate(0o620), 0)?,
            2 => {
                let null = nix::sys::stat::makedev(1, 3);
                mknod(&path, SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), null)?;
            }
            3 => {
                fs::write(&path, "linked")?;
                fs::hard_link(&path, folder.join(format!("h{number}")))?;
            }
            4 => {
                let long = "x".repeat(180);
                fs::write(folder.join(format!("{number}{long}")), "long")?;
                continue;
            }
            _ => fs::write(&path, format!("{number}").repeat(usize::try_from(number)?))?,
        }
        lchown(&path, Some(number % 3 * 1000), Some(number % 2 * 3_000_000))?;
    }
    let mode = |mode| std::os::unix::fs::PermissionsExt::from_mode(mode);
    fs::set_permissions(root.join("n1"), mode(0o1777))?;
    fs::set_permissions(root.join("n2"), mode(0o2750))?;
    fs::write(root.join("setuid"), "s")?;
    fs::set_permissions(root.join("setuid"), mode(0o4755))?;
    fs::write(root.join("able"), "c")?;
    let capability = [1, 0, 0, 2, 0, 4, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    for (name, value) in [("security.capability", &capability[..]), ("user.kept", b"1\n2=3")] {
        lsetxattr(root.join("able"), name, value, XattrFlags::empty())?;
    }
    age(root)
}

/// Gives all below a folder times of long ago, each its own.
///
/// # Errors
/// Those of the disk.
pub fn age(root: &Path) -> Result<()> {
    let (mut number, mut open) = (0, vec![root.to_owned()]);
    let mut all = Vec::new();
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                open.push(entry.path());
            }
            all.push(entry.path());
        }
    }
    all.sort();
    for path in all {
        number += 1;
        let time = Timespec { tv_sec: 1_600_000_000 + number, tv_nsec: number * 1001 };
        let times = Timestamps { last_access: time, last_modification: time };
        utimensat(CWD, &path, &times, AtFlags::SYMLINK_NOFOLLOW)?;
    }
    Ok(())
}

/// Changes what [`fill`] made.
///
/// # Errors
/// Those of the disk.
pub fn alter(root: &Path) -> Result<()> {
    fs::remove_dir_all(root.join("n3"))?;
    fs::remove_dir_all(root.join("n4/m0"))?;
    fs::remove_file(root.join("setuid"))?;
    fs::create_dir(root.join("setuid"))?;
    fs::write(root.join("setuid/in"), "in")?;
    fs::write(root.join("a/b/new"), "new")?;
    fs::hard_link(root.join("a/b/new"), root.join("a/again"))?;
    fs::remove_dir_all(root.join("n7"))?;
    fs::write(root.join("n7"), "a file now")?;
    symlink("a", root.join("link"))?;
    Ok(())
}

/// What there is to see of a tree.
#[derive(Debug)]
pub struct Scene(BTreeMap<PathBuf, Node>);

#[derive(Clone, Debug, PartialEq)]
struct Node {
    mode: u32,
    owner: (u32, u32),
    device: u64,
    modified: (i64, i64),
    data: String,
    first: PathBuf,
    xattrs: Vec<String>,
}

impl Scene {
    /// Looks at a tree. Times of the last minutes are those of the test, and do
    /// not count.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn read(root: &Path) -> Result<Self> {
        let (mut nodes, mut firsts) = (BTreeMap::new(), HashMap::new());
        let mut open = vec![PathBuf::new()];
        while let Some(folder) = open.pop() {
            let mut below: Vec<_> = fs::read_dir(root.join(&folder))?.collect::<Result<_, _>>()?;
            below.sort_by_key(fs::DirEntry::file_name);
            for entry in below {
                let path = folder.join(entry.file_name());
                let (full, kind) = (root.join(&path), entry.file_type()?);
                let meta = entry.metadata()?;
                let data = match () {
                    () if kind.is_symlink() => fs::read_link(&full)?.display().to_string(),
                    () if kind.is_file() => digest(&fs::read(&full)?),
                    () => String::new(),
                };
                let first = match kind.is_dir() {
                    true => path.clone(),
                    false => firsts.entry(meta.ino()).or_insert_with(|| path.clone()).clone(),
                };
                let is_device = kind.is_char_device() || kind.is_block_device();
                // The owner of a whiteout, its mode and its time are nobody's business.
                let is_whiteout = kind.is_char_device() && meta.rdev() == 0;
                let modified = (meta.mtime(), meta.mtime_nsec());
                let node = Node {
                    mode: if is_whiteout { 0 } else { meta.mode() },
                    owner: (meta.uid(), meta.gid()),
                    device: if is_device { meta.rdev() } else { 0 },
                    modified: if is_whiteout || is_now(&meta) { (0, 0) } else { modified },
                    data,
                    first,
                    xattrs: xattrs(&full)?,
                };
                if kind.is_dir() {
                    open.push(path.clone());
                }
                nodes.insert(path, node);
            }
        }
        Ok(Self(nodes))
    }

    /// The same without the parts of seconds.
    pub fn in_seconds(mut self) -> Self {
        self.0.values_mut().for_each(|node| node.modified.1 = 0);
        self
    }

    /// Compares the two.
    ///
    /// # Errors
    /// They differ.
    pub fn must_be(&self, other: &Self) -> Result<()> {
        for (path, node) in &self.0 {
            let found = other.0.get(path);
            ensure!(found == Some(node), "{}: {node:?}, {found:?}", path.display());
        }
        let extra: Vec<_> = other.0.keys().filter(|path| !self.0.contains_key(*path)).collect();
        ensure!(extra.is_empty(), "too much: {extra:?}");
        Ok(())
    }
}

/// A time that a test has made by itself.
fn is_now(meta: &fs::Metadata) -> bool {
    let modified = meta.modified().ok();
    let age = modified.and_then(|time| SystemTime::now().duration_since(time).ok());
    age.is_none_or(|age| age < Duration::from_secs(600))
}

/// Extended attributes, in words.
fn xattrs(path: &Path) -> Result<Vec<String>> {
    let mut list = vec![0; 4096];
    let length = llistxattr(path, &mut list)?;
    let mut found = Vec::new();
    for name in list[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0; 4096];
        let length = lgetxattr(path, name, &mut value)?;
        let name = String::from_utf8_lossy(name);
        found.push(format!("{name}={:?}", String::from_utf8_lossy(&value[..length])));
    }
    found.sort();
    Ok(found)
}
