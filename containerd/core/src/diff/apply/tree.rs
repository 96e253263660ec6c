//! The tree that a layer is unpacked into: the way to each entry's folder.
//!
//! Names lead as they would with the tree's root as `/`: symbolic links on the
//! way are followed, but never out. Where the tree is the upper layer of an
//! overlay, what is not in it is looked up in the layers below.

use std::{
    collections::VecDeque,
    os::fd::{AsFd, OwnedFd},
};

use rustix::{
    fs::{
        FileType, Gid, Mode, OFlags, ResolveFlags, Timestamps, Uid, mkdirat, openat2, readlinkat,
        statat,
    },
    io::Errno,
    process::{getegid, geteuid},
};

use super::{
    attributes::Made,
    folder::{FOLDER, Folder, STRAIGHT, times_of},
    lower::{Found, Lower, is_opaque, is_whiteout},
    path::{MAX_BYTES, is_within},
    unpacked::Unpacked,
};

/// How many links one path may lead through (as in Linux).
const MAX_LINKS: usize = 40;

/// How many folders stay open on the way to the last one.
const MAX_OPEN: usize = 64;

/// Mode of folders that a layer only implies.
const IMPLIED_MODE: u32 = 0o755;

/// How layers below are hidden.
pub(super) struct Overlay {
    pub(super) lower: Lower,
    /// Name of the attribute of folders that hide what is below them.
    pub(super) opaque: &'static str,
}

/// A tree that is being written to, by one thread.
pub(super) struct Tree {
    root: Folder,
    /// From the root to the folder that the last entry was in: those that were
    /// entered, straight on.
    folders: Vec<Folder>,
    /// The path of the last of them.
    path: Vec<u8>,
    /// The folder of the last entry and its path, if a link led there.
    aside: Option<(Folder, Vec<u8>)>,
    /// `None` where layers are merged as they come.
    pub(super) overlay: Option<Overlay>,
    /// `None` where there was nothing before.
    pub(super) unpacked: Option<Unpacked>,
    pub(super) owner: (u32, u32),
}

impl Tree {
    /// A tree whose root is open.
    pub(super) fn new(root: OwnedFd, overlay: Option<Overlay>) -> Result<Self, Errno> {
        let is_empty = super::unpacked::names(&root)?.is_empty();
        Ok(Self {
            root: Folder::new(root, 0)?,
            folders: Vec::new(),
            path: Vec::new(),
            aside: None,
            overlay,
            unpacked: (!is_empty).then(Unpacked::default),
            owner: (geteuid().as_raw(), getegid().as_raw()),
        })
    }

    pub(super) fn root(&self) -> &OwnedFd {
        &self.root.fd
    }

    /// The folder that was entered last.
    pub(super) fn here(&self) -> &Folder {
        match &self.aside {
            Some((folder, _)) => folder,
            None => self.folders.last().unwrap_or(&self.root),
        }
    }

    /// Notes that something here is not as it was.
    pub(super) fn touch(&mut self) {
        let here = match &mut self.aside {
            Some((folder, _)) => folder,
            None => self.folders.last_mut().unwrap_or(&mut self.root),
        };
        here.changed = true;
    }

    /// The path of that folder that leads there through no link.
    fn real(&self) -> &[u8] {
        match &self.aside {
            Some((_, real)) => real,
            None => &self.path,
        }
    }

    /// Notes that this layer has made `name` here.
    pub(super) fn made(&mut self, name: &[u8]) {
        self.touch();
        let folder = (self.here().device, self.here().inode);
        if let Some(unpacked) = &mut self.unpacked {
            unpacked.add(folder, name);
        }
    }

    /// Whether what has this name here was made by this layer.
    pub(super) fn is_ours(&self, name: &[u8]) -> bool {
        let folder = (self.here().device, self.here().inode);
        self.unpacked.as_ref().is_none_or(|unpacked| unpacked.has(folder, name))
    }

    /// Goes to the folder of a clean path, and makes what is not there of it.
    ///
    /// # Errors
    /// `ENOTDIR` when it leads through something else than a folder, `ELOOP`
    /// when there are too many links on the way; those of the disk.
    pub(super) fn enter(&mut self, path: &[u8]) -> Result<(), Errno> {
        if let Some((folder, _)) = self.aside.take() {
            folder.leave()?;
        }
        while !self.folders.is_empty() && !is_within(path, &self.path) {
            self.leave_last()?;
        }
        if path.len() == self.path.len() {
            return Ok(());
        }
        let rest = &path[self.path.len()..];
        let rest = rest.strip_prefix(b"/").unwrap_or(rest);
        match openat2(&self.here().fd, rest, FOLDER, Mode::empty(), STRAIGHT) {
            Ok(fd) => {
                self.folders.push(Folder::new(fd, path.len())?);
                self.path.clear();
                self.path.extend_from_slice(path);
                if self.folders.len() > MAX_OPEN {
                    self.folders.remove(0).leave()?;
                }
                Ok(())
            }
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => self.find_way(path),
            Err(e) => Err(e),
        }
    }

    /// Leaves all folders.
    pub(super) fn finish(&mut self) -> Result<(), Errno> {
        if let Some((folder, _)) = self.aside.take() {
            folder.leave()?;
        }
        while !self.folders.is_empty() {
            self.leave_last()?;
        }
        Ok(())
    }

    fn leave_last(&mut self) -> Result<(), Errno> {
        let left = self.folders.pop().map_or(Ok(()), Folder::leave);
        self.path.truncate(self.folders.last().map_or(0, |folder| folder.length));
        left
    }

    /// Goes part by part from the root.
    fn find_way(&mut self, path: &[u8]) -> Result<(), Errno> {
        // A link may lead to what is open.
        self.finish()?;
        let mut way = Way::new(self.clone_root()?, path);
        while let Some(part) = way.rest.pop_front() {
            match part.as_slice() {
                b"" | b"." => continue,
                b".." => {
                    let above = super::path::split(&way.real).0.len();
                    way.real.truncate(above);
                    let folder = self.open(&way.real)?;
                    way.go(folder)?;
                    way.hidden = self.is_hidden(&way.real)?;
                    continue;
                }
                _ => {}
            }
            let length = way.real.len();
            if length > 0 {
                way.real.push(b'/');
            }
            way.real.extend_from_slice(&part);
            if way.real.len() >= MAX_BYTES {
                return Err(Errno::NAMETOOLONG);
            }
            let link = match openat2(&way.folder.fd, &part, FOLDER, Mode::empty(), STRAIGHT) {
                Ok(fd) => {
                    way.hidden |= self.overlay.as_ref().is_some_and(|o| is_opaque(&fd, o.opaque));
                    way.go(Folder::new(fd, path.len())?)?;
                    None
                }
                Err(Errno::NOENT) => self.look_below(&mut way, &part)?,
                Err(Errno::NOTDIR | Errno::LOOP) => self.look_at(&mut way, &part)?,
                Err(e) => return Err(e),
            };
            if let Some(target) = link {
                way.real.truncate(length);
                if way.follow(&target)? {
                    let root = self.clone_root()?;
                    way.go(root)?;
                }
            }
        }
        if way.real.is_empty() {
            way.folder.leave()?;
        } else if way.links > 0 {
            self.aside = Some((way.folder, way.real));
        } else {
            self.folders.push(way.folder);
            self.path.extend_from_slice(path);
        }
        Ok(())
    }

    /// What is at `part` is no folder: where it leads, if it is a link.
    fn look_at(&mut self, way: &mut Way, part: &[u8]) -> Result<Option<Vec<u8>>, Errno> {
        match readlinkat(&way.folder.fd, part, Vec::new()) {
            Ok(target) => return Ok(Some(target.into_bytes())),
            Err(Errno::INVAL) => {}
            Err(e) => return Err(e),
        }
        let stat = statat(&way.folder.fd, part, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)?;
        if self.overlay.is_none() || !is_whiteout(&stat) {
            return Err(Errno::NOTDIR);
        }
        // Hidden, and now there is something new.
        rustix::fs::unlinkat(&way.folder.fd, part, rustix::fs::AtFlags::empty())?;
        way.hidden = true;
        let fd = self.make(way, part, None)?;
        if let Some(overlay) = &self.overlay {
            Made::Open(fd.as_fd()).set_xattr(overlay.opaque.as_bytes(), b"y")?;
        }
        way.go(Folder::new(fd, way.length)?)?;
        Ok(None)
    }

    /// There is nothing at `part`, but a lower layer may have something: where
    /// it leads, if it is a link.
    fn look_below(&mut self, way: &mut Way, part: &[u8]) -> Result<Option<Vec<u8>>, Errno> {
        let found = match &self.overlay {
            Some(overlay) if !way.hidden => overlay.lower.find(&way.real)?,
            _ => None,
        };
        if let Some(found) = &found
            && found.file_type() == FileType::Symlink
        {
            return found.target().map(Some);
        }
        let model = found.filter(|found| found.file_type() == FileType::Directory);
        let times = model.as_ref().map(|found| times_of(&found.stat));
        let fd = self.make(way, part, model)?;
        let mut folder = Folder::new(fd, way.length)?;
        if let Some(times) = times {
            (folder.times, folder.changed) = (times, true);
        }
        way.go(folder)?;
        Ok(None)
    }

    /// Makes a folder that the layer implies, like the one below if there is one.
    fn make(&mut self, way: &mut Way, part: &[u8], model: Option<Found>) -> Result<OwnedFd, Errno> {
        mkdirat(&way.folder.fd, part, Mode::from_bits_truncate(IMPLIED_MODE))?;
        way.folder.changed = true;
        if let Some(unpacked) = &mut self.unpacked {
            unpacked.add((way.folder.device, way.folder.inode), part);
        }
        let fd = openat2(&way.folder.fd, part, FOLDER, Mode::empty(), STRAIGHT)?;
        if let Some(model) = model {
            let source = openat2(&model.folder, &model.name, FOLDER, Mode::empty(), STRAIGHT)?;
            copy_attributes(&model, Made::Open(source.as_fd()), Made::Open(fd.as_fd()))?;
        } else if way.folder.passes_on {
            rustix::fs::fchown(&fd, Some(Uid::ROOT), Some(Gid::ROOT))?;
            rustix::fs::fchmod(&fd, Mode::from_bits_truncate(IMPLIED_MODE))?;
        }
        Ok(fd)
    }

    fn clone_root(&self) -> Result<Folder, Errno> {
        let fd = self.root().try_clone().map_err(|_| Errno::MFILE)?;
        Folder::new(fd, 0)
    }

    /// Opens a folder by a path that leads through no link.
    fn open(&self, path: &[u8]) -> Result<Folder, Errno> {
        if path.is_empty() {
            return self.clone_root();
        }
        Folder::new(openat2(self.root(), path, FOLDER, Mode::empty(), STRAIGHT)?, path.len())
    }

    /// Finds a folder that is there, for a hard link's target, without making
    /// anything. Links on the way are followed.
    pub(super) fn find(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        if path.is_empty() {
            return self.root().try_clone().map_err(|_| Errno::MFILE);
        }
        let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        openat2(self.root(), path, FOLDER - OFlags::NOFOLLOW, Mode::empty(), inside)
    }

    /// What the layers below have of that name in the folder that was entered,
    /// if nothing hides it.
    pub(super) fn below(&self, name: &[u8]) -> Result<Option<Found>, Errno> {
        let (Some(overlay), real) = (&self.overlay, self.real()) else { return Ok(None) };
        if self.is_hidden(real)? {
            return Ok(None);
        }
        let mut path = real.to_owned();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        overlay.lower.find(&path)
    }

    /// Whether a folder on the way to this one, or itself, hides what is below.
    fn is_hidden(&self, real: &[u8]) -> Result<bool, Errno> {
        let Some(overlay) = &self.overlay else { return Ok(true) };
        let ends = real.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(end, _)| end);
        for end in ends.chain([real.len()]).filter(|end| *end > 0) {
            let folder = openat2(self.root(), &real[..end], FOLDER, Mode::empty(), STRAIGHT)?;
            if is_opaque(&folder, overlay.opaque) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Gives `to` owner, mode and attributes of what was found.
pub(super) fn copy_attributes(model: &Found, from: Made<'_>, to: Made<'_>) -> Result<(), Errno> {
    to.set_owner(model.stat.st_uid, model.stat.st_gid)?;
    // A layer's own matters stay where they are.
    let xattrs =
        from.xattrs(|name| !name.starts_with(b"trusted.") && !name.starts_with(b"user.overlay."))?;
    for (name, value) in xattrs {
        match to.set_xattr(&name, &value) {
            Ok(()) | Err(Errno::NOTSUP) => {}
            Err(e) => return Err(e),
        }
    }
    match model.file_type() {
        FileType::Symlink => Ok(()),
        _ => to.set_mode(model.stat.st_mode & 0o7777),
    }
}

/// On the way to a folder.
struct Way {
    folder: Folder,
    /// The path that leads there through no link.
    real: Vec<u8>,
    rest: VecDeque<Vec<u8>>,
    links: usize,
    /// Whether nothing of the layers below shows here.
    hidden: bool,
    /// Of the path that was asked for.
    length: usize,
}

impl Way {
    fn new(root: Folder, path: &[u8]) -> Self {
        let rest = path.split(|byte| *byte == b'/').map(<[u8]>::to_owned).collect();
        let (real, length) = (Vec::new(), path.len());
        Self { folder: root, real, rest, links: 0, hidden: false, length }
    }

    fn go(&mut self, next: Folder) -> Result<(), Errno> {
        std::mem::replace(&mut self.folder, next).leave()
    }

    /// Puts the parts of a link's target in front. Answers whether they begin
    /// at the root.
    fn follow(&mut self, target: &[u8]) -> Result<bool, Errno> {
        self.links += 1;
        if self.links > MAX_LINKS {
            return Err(Errno::LOOP);
        }
        for part in target.rsplit(|byte| *byte == b'/') {
            self.rest.push_front(part.to_owned());
        }
        let absolute = target.starts_with(b"/");
        if absolute {
            self.real.clear();
            self.hidden = false;
        }
        Ok(absolute)
    }
}

/// Times for a file.
pub(super) fn timestamps(entry: &super::super::tar::Entry) -> Timestamps {
    Timestamps { last_access: entry.accessed, last_modification: entry.modified }
}
