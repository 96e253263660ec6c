//! Trees: made and changed at random, and compared.

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, Permissions},
    os::unix::{
        ffi::OsStrExt,
        fs::{FileTypeExt, MetadataExt, PermissionsExt, lchown, symlink},
    },
    path::{Path, PathBuf},
    process::Command,
};

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags, makedev, mknodat, utimensat,
};

use crate::diff::apply::Made;

/// Numbers that look random and are not (xorshift64).
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % end
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> Option<&'a T> {
        let length = of.len() as u64;
        (length > 0).then(|| &of[usize::try_from(self.below(length)).unwrap()])
    }
}

/// All paths below a root; folders only, if they are wanted.
fn paths(root: &Path, folders: bool) -> Vec<PathBuf> {
    let (mut found, mut open) = (Vec::new(), vec![PathBuf::new()]);
    while let Some(folder) = open.pop() {
        let mut below: Vec<_> =
            fs::read_dir(root.join(&folder)).unwrap().map(|entry| entry.unwrap()).collect();
        below.sort_by_key(|entry| entry.file_name());
        for entry in below {
            let path = folder.join(entry.file_name());
            let is_folder = entry.file_type().unwrap().is_dir();
            if is_folder {
                open.push(path.clone());
            }
            if is_folder || !folders {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// Makes a tree.
pub(super) fn fill(root: &Path, random: &mut Random, count: usize) {
    for _ in 0..count {
        make(root, random);
    }
}

/// Changes something.
pub(super) fn change(root: &Path, random: &mut Random) {
    let all = paths(root, false);
    let Some(path) = random.pick(&all) else { return make(root, random) };
    let path = root.join(path);
    let meta = fs::symlink_metadata(&path).unwrap();
    match random.below(10) {
        0 | 1 if meta.is_dir() => fs::remove_dir_all(&path).unwrap(),
        0 | 1 => fs::remove_file(&path).unwrap(),
        2 if meta.is_dir() => {
            // There again, and nothing in it of before.
            fs::remove_dir_all(&path).unwrap();
            fs::create_dir(&path).unwrap();
            fs::write(path.join("fresh"), "fresh").unwrap();
        }
        2 if meta.is_file() => fs::write(&path, format!("{}", random.below(1000))).unwrap(),
        3 if !meta.is_symlink() => {
            let mode = u32::try_from(random.below(0o10000)).unwrap() | 0o700;
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        }
        4 => lchown(&path, Some(id(random)), Some(id(random))).unwrap(),
        5 => set_time(&path, random),
        6 if meta.is_file() || meta.is_dir() => set_xattr(&path, random),
        7 => {
            let folders = paths(root, true);
            if let Some(folder) = random.pick(&folders) {
                // Not into itself, and not without its like; both are refused.
                let _ = fs::rename(&path, root.join(folder).join("moved"));
            }
        }
        8 if !meta.is_dir() => {
            let _ = fs::hard_link(&path, root.join(format!("link{}", random.below(50))));
        }
        _ => make(root, random),
    }
}

fn make(root: &Path, random: &mut Random) {
    let folders = paths(root, true);
    let folder = match random.below(4) {
        0 => root.to_owned(),
        _ => random.pick(&folders).map_or(root.to_owned(), |folder| root.join(folder)),
    };
    let mut name = format!("n{}", random.below(30)).into_bytes();
    match random.below(12) {
        0 => name.extend(vec![b'x'; 200]),
        1 => name.extend("ä".bytes()),
        2 => name.extend(b"\xff\n"),
        3 => name.insert(0, b'.'),
        _ => {}
    }
    let path = folder.join(std::ffi::OsStr::from_bytes(&name));
    if fs::symlink_metadata(&path).is_ok() {
        return;
    }
    let node = |kind, device| mknodat(CWD, &path, kind, Mode::from_bits_truncate(0o640), device);
    match random.below(12) {
        0..=3 => fs::create_dir(&path).unwrap(),
        4 => symlink("../somewhere", &path).unwrap(),
        5 => symlink("/".repeat(150), &path).unwrap(),
        6 => node(FileType::CharacterDevice, makedev(1, 3)).unwrap(),
        7 => node(FileType::Fifo, 0).unwrap(),
        _ => {
            let length = usize::try_from(random.below(3000)).unwrap();
            let byte = u8::try_from(random.below(256)).unwrap();
            fs::write(&path, vec![byte; length]).unwrap();
        }
    }
    lchown(&path, Some(id(random)), Some(id(random))).unwrap();
    if random.below(3) == 0 {
        set_time(&path, random);
    }
    let meta = fs::symlink_metadata(&path).unwrap();
    if random.below(4) == 0 && (meta.is_file() || meta.is_dir()) {
        set_xattr(&path, random);
    }
}

fn id(random: &mut Random) -> u32 {
    [0, 0, 1000, 3_000_000_000][usize::try_from(random.below(4)).unwrap()]
}

fn set_time(path: &Path, random: &mut Random) {
    let tv_nsec = [0, 5][usize::try_from(random.below(2)).unwrap()];
    let time = Timespec { tv_sec: random.below(2_000_000_000).cast_signed(), tv_nsec };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

fn set_xattr(path: &Path, random: &mut Random) {
    let value = vec![b'\n'; usize::try_from(random.below(90)).unwrap()];
    let name = format!("user.x{}", random.below(3));
    rustix::fs::lsetxattr(path, &name, &value, XattrFlags::empty()).unwrap();
    if path.is_file() && random.below(3) == 0 {
        let capability = [1, 0, 0, 2, 0, 4, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let name = "security.capability";
        rustix::fs::lsetxattr(path, name, &capability, XattrFlags::empty()).unwrap();
    }
}

/// What there is to see of a tree.
#[derive(Debug, PartialEq)]
pub(super) struct Tree(BTreeMap<PathBuf, Node>);

#[derive(Debug, PartialEq)]
struct Node {
    mode: u32,
    owner: (u32, u32),
    device: u64,
    seconds: i64,
    data: Vec<u8>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// The first name of the same file.
    first: PathBuf,
}

impl Tree {
    pub(super) fn read(root: &Path) -> Self {
        let mut firsts = HashMap::new();
        let mut nodes = BTreeMap::new();
        for path in paths(root, false) {
            let full = root.join(&path);
            let meta = fs::symlink_metadata(&full).unwrap();
            let kind = meta.file_type();
            let data = match () {
                () if kind.is_symlink() => {
                    fs::read_link(&full).unwrap().as_os_str().as_bytes().to_owned()
                }
                () if kind.is_file() => fs::read(&full).unwrap(),
                () => Vec::new(),
            };
            let folder = fs::File::open(full.parent().unwrap()).unwrap();
            let name = full.file_name().unwrap().as_bytes();
            let made = Made::Named(std::os::fd::AsFd::as_fd(&folder), name);
            let first = match kind.is_dir() {
                true => path.clone(),
                false => firsts.entry(meta.ino()).or_insert_with(|| path.clone()).clone(),
            };
            let is_device = kind.is_char_device() || kind.is_block_device();
            let node = Node {
                mode: meta.mode(),
                owner: (meta.uid(), meta.gid()),
                device: if is_device { meta.rdev() } else { 0 },
                seconds: meta.mtime(),
                data,
                xattrs: made.xattrs(|name| !name.starts_with(b"trusted.")).unwrap(),
                first,
            };
            nodes.insert(path, node);
        }
        Self(nodes)
    }

    pub(super) fn copy(from: &Path, to: &Path) {
        let status = Command::new("cp").arg("-aT").arg(from).arg(to).status().unwrap();
        assert!(status.success());
    }

    pub(super) fn must_be(&self, found: &Self, what: &str) {
        for (path, node) in &self.0 {
            let other = found.0.get(path);
            assert_eq!(Some(node), other, "{what}: {}", path.display());
        }
        for path in found.0.keys() {
            assert!(self.0.contains_key(path), "{what}: {} is too much", path.display());
        }
    }
}
