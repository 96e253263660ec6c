//! Makes what an entry is about.

use std::{
    cell::Cell,
    io::BufRead,
    os::fd::{AsFd, OwnedFd},
};

use rustix::{
    fs::{
        AtFlags, FileType, Mode, OFlags, Stat, fstat, ftruncate, linkat, makedev, mkdirat, mknodat,
        openat, statat, symlinkat,
    },
    io::{Errno, pwrite, write},
};
use shim_protocol::{Error, ErrorKind, Result, error::io_kind};

use super::{
    attributes::{Made, is_of_layers},
    folder::FOLDER,
    lower::{Found, is_whiteout},
    path::{Meaning, clean, meaning, split},
    remove::remove_all,
    tree::{Tree, copy_attributes, timestamps},
};
use crate::diff::{
    cancel::Cancel,
    tar::{Entry, Kind, Reader, refused, shown},
};

/// Only its owner may use it until all of it is there.
const NEW_FILE: OFlags =
    OFlags::WRONLY.union(OFlags::CREATE).union(OFlags::EXCL).union(OFlags::CLOEXEC);

/// Unpacks entries into a tree.
pub(super) struct Unpacker<'a> {
    pub(super) tree: Tree,
    pub(super) cancel: &'a Cancel,
    path: Vec<u8>,
    /// An attribute that the filesystem cannot keep was told of.
    told: Cell<bool>,
}

impl<'a> Unpacker<'a> {
    pub(super) fn new(tree: Tree, cancel: &'a Cancel) -> Self {
        Self { tree, cancel, path: Vec::new(), told: Cell::new(false) }
    }

    /// Unpacks one entry; its data comes from `archive`.
    ///
    /// # Errors
    /// `InvalidArgument` when it cannot be meant, `ResourceExhausted` when the
    /// disk is full; those of the archive, of the disk, and of who gave up.
    pub(super) fn unpack<R: BufRead>(
        &mut self,
        entry: &Entry,
        archive: &mut Reader<R>,
    ) -> Result<()> {
        let mut path = std::mem::take(&mut self.path);
        clean(&entry.name, &mut path)?;
        let (folder, base) = split(&path);
        // The root itself is the snapshotter's (as in containerd).
        let done = if base.is_empty() { Ok(()) } else { self.put(entry, folder, base, archive) };
        self.path = path;
        done
    }

    /// Leaves the tree as it shall be.
    ///
    /// # Errors
    /// Those of the disk.
    pub(super) fn finish(&mut self) -> Result<()> {
        self.tree.finish().map_err(|e| {
            Error::caused(io_kind(&e.into()), "set the times of a folder", std::io::Error::from(e))
        })
    }

    fn put<R: BufRead>(
        &mut self,
        entry: &Entry,
        folder: &[u8],
        base: &[u8],
        archive: &mut Reader<R>,
    ) -> Result<()> {
        let meaning = meaning(base)?;
        if meaning == Meaning::Word {
            return Ok(());
        }
        let about = |errno: Errno| failed(entry, errno);
        self.tree.enter(folder).map_err(about)?;
        match meaning {
            Meaning::Word => Ok(()),
            Meaning::Opaque => self.hide_below().map_err(about),
            Meaning::Whiteout(name) => self.hide(name).map_err(about),
            Meaning::Thing(name) => match entry.kind {
                Kind::File => self.file(entry, name, archive),
                Kind::Folder => self.folder(entry, name).map_err(about),
                Kind::HardLink => self.hard_link(entry, folder, name),
                Kind::Symlink => self.symlink(entry, name).map_err(about),
                Kind::CharDevice | Kind::BlockDevice | Kind::Fifo => self.node(entry, name),
            },
        }
    }

    fn file<R: BufRead>(
        &mut self,
        entry: &Entry,
        name: &[u8],
        archive: &mut Reader<R>,
    ) -> Result<()> {
        let about = |errno: Errno| failed(entry, errno);
        let mode = Mode::from_bits_truncate(entry.mode);
        let file = self.fresh(name, |here| openat(here, name, NEW_FILE, mode)).map_err(about)?;
        match &entry.sparse {
            None => loop {
                let piece = archive.data()?;
                if piece.is_empty() {
                    break;
                }
                let written = retry(|| write(&file, piece)).map_err(about)?;
                archive.consume(written);
                self.cancel.check()?;
            },
            Some(map) => {
                for (offset, length) in map {
                    self.piece(entry, &file, *offset, *length, archive)?;
                }
                ftruncate(&file, entry.size).map_err(about)?;
            }
        }
        let passes_on = self.tree.here().passes_on;
        self.dress(entry, Made::Open(file.as_fd()), passes_on).map_err(about)
    }

    /// Writes what is between two holes.
    fn piece<R: BufRead>(
        &mut self,
        entry: &Entry,
        file: &OwnedFd,
        mut offset: u64,
        mut left: u64,
        archive: &mut Reader<R>,
    ) -> Result<()> {
        while left > 0 {
            let piece = archive.data()?;
            let length = usize::try_from(left).map_or(piece.len(), |left| piece.len().min(left));
            let written = retry(|| pwrite(file, &piece[..length], offset));
            let written = written.map_err(|errno| failed(entry, errno))?;
            archive.consume(written);
            offset += written as u64;
            left -= written as u64;
            self.cancel.check()?;
        }
        Ok(())
    }

    fn folder(&mut self, entry: &Entry, name: &[u8]) -> Result<(), Errno> {
        // mkdir(2) knows no other bits.
        let mode = Mode::from_bits_truncate(entry.mode & 0o1777);
        let mut special = entry.mode & 0o6000 != 0 || self.tree.here().passes_on;
        let (mut whiteout, mut merged) = (false, false);
        match mkdirat(&self.tree.here().fd, name, mode) {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                let stat = self.stat(name)?;
                if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                    (special, merged) = (true, true);
                } else {
                    whiteout = self.tree.overlay.is_some() && is_whiteout(&stat);
                    remove_all(self.tree.here().fd.as_fd(), name)?;
                    mkdirat(&self.tree.here().fd, name, mode)?;
                }
            }
            Err(e) => return Err(e),
        }
        self.tree.made(name);
        if whiteout {
            self.make_opaque(name)?;
        }
        if merged {
            self.strip(entry, self.named(name))?;
        }
        self.dress(entry, self.named(name), special)
    }

    /// Takes from a folder of before what the entry does not say of it: in an
    /// overlay, nothing of that would show either.
    fn strip(&self, entry: &Entry, made: Made<'_>) -> Result<(), Errno> {
        for (name, _) in made.xattrs(is_of_layers)? {
            if !entry.xattrs.iter().any(|(kept, _)| *kept == name) {
                made.remove_xattr(&name)?;
            }
        }
        Ok(())
    }

    fn symlink(&mut self, entry: &Entry, name: &[u8]) -> Result<(), Errno> {
        self.fresh(name, |here| symlinkat(entry.link.as_slice(), here, name))?;
        self.dress(entry, self.named(name), self.tree.here().passes_on)
    }

    fn node(&mut self, entry: &Entry, name: &[u8]) -> Result<()> {
        let kind = match entry.kind {
            Kind::CharDevice => FileType::CharacterDevice,
            Kind::BlockDevice => FileType::BlockDevice,
            _ => FileType::Fifo,
        };
        let number = |number: u64| {
            let (major, minor) = entry.device;
            u32::try_from(number)
                .map_err(|_| refused(&entry.name, &format!("there is no device {major}:{minor}")))
        };
        let device = makedev(number(entry.device.0)?, number(entry.device.1)?);
        let about = |errno: Errno| failed(entry, errno);
        let mode = Mode::from_bits_truncate(entry.mode);
        self.fresh(name, |here| mknodat(here, name, kind, mode, device)).map_err(about)?;
        self.dress(entry, self.named(name), self.tree.here().passes_on).map_err(about)
    }

    fn hard_link(&mut self, entry: &Entry, folder: &[u8], name: &[u8]) -> Result<()> {
        let mut target = Vec::new();
        clean(&entry.link, &mut target)?;
        let (target_folder, target_name) = split(&target);
        let to = shown(&entry.link);
        if target_name.is_empty() {
            return Err(refused(&entry.name, &format!("a hard link to {to}, a folder")));
        }
        let about = |errno: Errno| match errno {
            Errno::NOENT => {
                refused(&entry.name, &format!("a hard link to {to}, which is not there"))
            }
            Errno::PERM => refused(&entry.name, &format!("a hard link to {to}, a folder")),
            errno => failed(entry, errno),
        };
        let linked = match self.tree.find(target_folder) {
            Ok(source) => self.link(&source, target_name, name),
            Err(e) => Err(e),
        };
        match linked {
            Err(Errno::NOENT) if self.tree.overlay.is_some() => {
                // It is below; a link needs it here.
                self.tree.enter(target_folder).map_err(about)?;
                let source = self.copy_up(target_name).map_err(about)?;
                self.tree.enter(folder).map_err(about)?;
                self.link(&source, target_name, name).map_err(about)?;
            }
            linked => linked.map_err(about)?,
        }
        self.dress_link(entry, name).map_err(about)
    }

    fn link(&mut self, source: &OwnedFd, target: &[u8], name: &[u8]) -> Result<(), Errno> {
        let there = statat(source, target, AtFlags::SYMLINK_NOFOLLOW)?;
        if self.tree.overlay.is_some() && is_whiteout(&there) {
            return Err(Errno::NOENT);
        }
        if let Ok(here) = self.stat(name)
            && (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)
        {
            self.tree.made(name);
            return Ok(());
        }
        self.fresh(name, |here| linkat(source, target, here, name, AtFlags::empty()))
    }

    /// Gives a file that has further names what the entry says, and leaves alone
    /// what is so already: a change of owner would take capabilities away.
    fn dress_link(&self, entry: &Entry, name: &[u8]) -> Result<(), Errno> {
        let (stat, made) = (self.stat(name)?, self.named(name));
        let (uid, gid) = owner(entry);
        if (stat.st_uid, stat.st_gid) != (uid, gid) {
            made.set_owner(uid, gid)?;
        }
        self.set_xattrs(entry, made)?;
        let is_link = FileType::from_raw_mode(stat.st_mode) == FileType::Symlink;
        if !is_link && stat.st_mode & 0o7777 != entry.mode {
            made.set_mode(entry.mode)?;
        }
        made.set_times(&timestamps(entry))
    }

    /// Owner, attributes, mode and times of what was just made. The mode is
    /// set if it may be another one, `special`.
    fn dress(&self, entry: &Entry, made: Made<'_>, special: bool) -> Result<(), Errno> {
        let (uid, gid) = owner(entry);
        let mut special = special;
        if (uid, gid) != self.tree.owner || special {
            made.set_owner(uid, gid)?;
            // Such bits do not survive that (chown(2)).
            special |= entry.mode & 0o6000 != 0;
        }
        special |= entry.kind == Kind::Folder && entry.mode & 0o6000 != 0;
        self.set_xattrs(entry, made)?;
        if special && entry.kind != Kind::Symlink {
            made.set_mode(entry.mode)?;
        }
        made.set_times(&timestamps(entry))
    }

    fn set_xattrs(&self, entry: &Entry, made: Made<'_>) -> Result<(), Errno> {
        for (name, value) in &entry.xattrs {
            // What is for the kernel alone does not come from archives.
            if name.starts_with(b"trusted.") || name.starts_with(b"user.overlay.") {
                continue;
            }
            match made.set_xattr(name, value) {
                Ok(()) => {}
                // Only files and folders have any (xattr(7)).
                Err(Errno::PERM)
                    if name.starts_with(b"user.")
                        && !matches!(entry.kind, Kind::File | Kind::Folder) => {}
                Err(Errno::NOTSUP) => {
                    if !self.told.replace(true) {
                        let (entry, name) = (shown(&entry.name), String::from_utf8_lossy(name));
                        tracing::warn!(%entry, %name, "the filesystem cannot keep an attribute");
                    }
                }
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Makes something here; what has the name gives way.
    fn fresh<T>(
        &mut self,
        name: &[u8],
        make: impl Fn(&OwnedFd) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let here = &self.tree.here().fd;
        let made = match make(here) {
            Err(Errno::EXIST) => {
                remove_all(here.as_fd(), name)?;
                make(here)?
            }
            made => made?,
        };
        self.tree.made(name);
        Ok(made)
    }

    fn named<'b>(&'b self, name: &'b [u8]) -> Made<'b> {
        Made::Named(self.tree.here().fd.as_fd(), name)
    }

    fn stat(&self, name: &[u8]) -> Result<Stat, Errno> {
        statat(&self.tree.here().fd, name, AtFlags::SYMLINK_NOFOLLOW)
    }

    /// Hides what the layers below have of that name.
    fn hide(&mut self, name: &[u8]) -> Result<(), Errno> {
        let ours = self.tree.is_ours(name);
        match self.stat(name) {
            Err(Errno::NOENT) => {}
            Err(e) => return Err(e),
            Ok(_) if !ours => {
                self.tree.touch();
                remove_all(self.tree.here().fd.as_fd(), name)?;
            }
            // It is of this layer, and stays; so only what is in it is hidden.
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                return self.make_opaque(name);
            }
            Ok(_) => return Ok(()),
        }
        if self.tree.overlay.is_some() {
            let (kind, none) = (FileType::CharacterDevice, makedev(0, 0));
            mknodat(&self.tree.here().fd, name, kind, Mode::empty(), none)?;
            self.tree.made(name);
        }
        Ok(())
    }

    /// Hides what the layers below have in this folder.
    fn hide_below(&mut self) -> Result<(), Errno> {
        let here = self.tree.here().fd.try_clone().map_err(|_| Errno::MFILE)?;
        let is_root = same(&here, self.tree.root())?;
        self.tree.touch();
        if is_root && let Some(overlay) = &self.tree.overlay {
            // The kernel does not ask whether the root is opaque.
            for name in overlay.lower.root_names()? {
                self.hide(&name)?;
            }
            return self.keep_ours(&here);
        }
        self.set_opaque(&here)
    }

    fn make_opaque(&self, name: &[u8]) -> Result<(), Errno> {
        let folder = openat(&self.tree.here().fd, name, FOLDER, Mode::empty())?;
        self.set_opaque(&folder)
    }

    fn set_opaque(&self, folder: &OwnedFd) -> Result<(), Errno> {
        if let Some(overlay) = &self.tree.overlay {
            Made::Open(folder.as_fd()).set_xattr(overlay.opaque.as_bytes(), b"y")?;
        }
        self.keep_ours(folder)
    }

    fn keep_ours(&self, folder: &OwnedFd) -> Result<(), Errno> {
        match &self.tree.unpacked {
            Some(unpacked) => unpacked.keep_only(folder).map(drop),
            None => Ok(()),
        }
    }

    /// Copies what a lower layer has of that name into the folder that was
    /// entered; answers that folder.
    fn copy_up(&mut self, name: &[u8]) -> Result<OwnedFd, Errno> {
        let here = self.tree.here().fd.try_clone().map_err(|_| Errno::MFILE)?;
        if self.stat(name).is_ok() {
            // A whiteout, or the link would have been made.
            return Err(Errno::NOENT);
        }
        let found = self.tree.below(name)?.ok_or(Errno::NOENT)?;
        match found.file_type() {
            FileType::RegularFile => copy_file(&found, &here, name)?,
            FileType::Symlink => symlinkat(found.target()?, &here, name)?,
            FileType::Directory => return Err(Errno::PERM),
            kind => mknodat(&here, name, kind, Mode::RUSR, found.stat.st_rdev)?,
        }
        let from = Made::Named(found.folder.as_fd(), &found.name);
        let to = Made::Named(here.as_fd(), name);
        copy_attributes(&found, from, to)?;
        to.set_times(&super::folder::times_of(&found.stat))?;
        self.tree.made(name);
        Ok(here)
    }
}

fn copy_file(found: &Found, folder: &OwnedFd, name: &[u8]) -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let from = openat(&found.folder, &found.name, flags, Mode::empty())?;
    let to = openat(folder, name, NEW_FILE, Mode::RUSR)?;
    let (mut from, mut to) = (std::fs::File::from(from), std::fs::File::from(to));
    let copied = std::io::copy(&mut from, &mut to);
    copied.map(drop).map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))
}

fn same(a: &OwnedFd, b: &OwnedFd) -> Result<bool, Errno> {
    let (a, b) = (fstat(a)?, fstat(b)?);
    Ok((a.st_dev, a.st_ino) == (b.st_dev, b.st_ino))
}

/// Checked when the archive was read.
fn owner(entry: &Entry) -> (u32, u32) {
    (entry.uid.try_into().unwrap_or_default(), entry.gid.try_into().unwrap_or_default())
}

fn retry<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            done => return done,
        }
    }
}

/// The error for an entry with which the kernel refused something.
fn failed(entry: &Entry, errno: Errno) -> Error {
    let kind = match errno {
        // It can be unpacked nowhere.
        Errno::NOTDIR
        | Errno::LOOP
        | Errno::NAMETOOLONG
        | Errno::INVAL
        | Errno::NOENT
        | Errno::RANGE
        | Errno::TOOBIG
        | Errno::ILSEQ => ErrorKind::InvalidArgument,
        Errno::PERM | Errno::ACCESS => ErrorKind::PermissionDenied,
        Errno::ROFS => ErrorKind::FailedPrecondition,
        Errno::DQUOT | Errno::MLINK => ErrorKind::ResourceExhausted,
        errno => io_kind(&errno.into()),
    };
    let text = format!("unpack entry {}", shown(&entry.name));
    Error::caused(kind, text, std::io::Error::from(errno))
}
