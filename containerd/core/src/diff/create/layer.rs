//! Writes what the walk tells as a layer.

use std::{
    collections::HashMap,
    io::{self, Write},
    os::fd::OwnedFd,
};

use rustix::{
    fs::{FileType, SeekFrom, major, minor, seek},
    io::{Errno, pread},
};
use shim_protocol::{Error, ErrorKind, error::io_kind};

use super::{
    meta::{At, Meta},
    walk::{Change, Visit},
};
use crate::diff::{
    cancel::Cancel,
    tar::{Head, Writer, Xattrs, shown},
};

/// How much of a file is read at once.
const COPIED_BYTES: usize = 256 << 10;

/// Why a layer was not made.
pub(super) enum Stop {
    /// An overlay's layer is more than it shows: the trees have to be mounted.
    Indirect,
    Failed(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl From<Errno> for Stop {
    fn from(errno: Errno) -> Self {
        let errno = io::Error::from(errno);
        Self::Failed(Error::caused(io_kind(&errno), "compare the trees", errno))
    }
}

/// A folder that the walk is in.
struct Open {
    length: usize,
    /// Its header, if that is not written yet.
    header: Option<Header>,
}

struct Header {
    meta: Meta,
    xattrs: Xattrs,
}

/// A layer that is being written.
pub(super) struct Layer<'a, W> {
    archive: Writer<W>,
    cancel: &'a Cancel,
    /// No time is later, in seconds.
    latest: Option<i64>,
    /// From the root to where the walk is.
    open: Vec<Open>,
    /// Files with several names: the one that was written first.
    written: HashMap<(u64, u64), Vec<u8>>,
    /// Files with several names of which none was written: all of them are as
    /// they were.
    unwritten: HashMap<(u64, u64), Vec<Vec<u8>>>,
    buffer: Vec<u8>,
    is_upper: bool,
}

impl<'a, W: Write> Layer<'a, W> {
    /// With `is_upper` the new tree is an overlay's layer, of which not all may
    /// show.
    pub(super) fn new(sink: W, latest: Option<i64>, is_upper: bool, cancel: &'a Cancel) -> Self {
        Self {
            archive: Writer::new(sink),
            cancel,
            latest,
            open: Vec::new(),
            written: HashMap::new(),
            unwritten: HashMap::new(),
            buffer: vec![0; COPIED_BYTES],
            is_upper,
        }
    }

    /// Writes the end; answers what was written to.
    pub(super) fn finish(self) -> Result<W, Error> {
        self.archive.finish().map_err(|e| failed(b"", "write the layer", e))
    }

    fn xattrs(&self, at: At<'_>) -> Result<Xattrs, Stop> {
        match at.xattrs()? {
            Some(xattrs) => Ok(xattrs),
            None if self.is_upper => Err(Stop::Indirect),
            None => Ok(Vec::new()),
        }
    }

    /// Writes the headers of the folders that something is in.
    fn lead_to(&mut self, path: &[u8]) -> Result<(), Stop> {
        for position in 0..self.open.len() {
            let Some(header) = self.open[position].header.take() else { continue };
            let length = self.open[position].length;
            self.folder(&path[..length], &header)?;
        }
        Ok(())
    }

    fn folder(&mut self, path: &[u8], header: &Header) -> Result<(), Stop> {
        let name = [path, b"/"].concat();
        let head = self.head(b'5', &name, &header.meta);
        self.entry(path, &Head { xattrs: &header.xattrs, ..head })
    }

    fn head<'b>(&self, flag: u8, name: &'b [u8], meta: &Meta) -> Head<'b> {
        let modified = self.latest.map_or(meta.modified.0, |latest| meta.modified.0.min(latest));
        Head {
            flag,
            name,
            mode: meta.mode & 0o7777,
            uid: meta.uid,
            gid: meta.gid,
            modified,
            ..Head::default()
        }
    }

    fn entry(&mut self, path: &[u8], head: &Head<'_>) -> Result<(), Stop> {
        self.archive.entry(head).map_err(|e| failed(path, "write", e).into())
    }

    fn whiteout(&mut self, path: &[u8]) -> Result<(), Stop> {
        let slash = path.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
        let name = [&path[..slash], b".wh.", &path[slash..]].concat();
        self.lead_to(path)?;
        // Without owner and time, as in containerd since 2.0.
        self.entry(path, &Head { flag: b'0', name: &name, ..Head::default() })
    }

    fn file(&mut self, path: &[u8], change: Change, at: At<'_>) -> Result<(), Stop> {
        if at.meta.kind() == FileType::Socket {
            // Nobody could connect to it.
            return Ok(());
        }
        let mut others = Vec::new();
        if at.meta.links > 1 {
            if let Some(first) = self.written.get(&at.meta.identity).cloned() {
                return self.link(path, &first, at);
            }
            if change == Change::Same {
                let names = self.unwritten.entry(at.meta.identity).or_default();
                names.push(path.to_owned());
                return Ok(());
            }
            self.written.insert(at.meta.identity, path.to_owned());
            others = self.unwritten.remove(&at.meta.identity).unwrap_or_default();
        } else if change == Change::Same {
            return Ok(());
        }
        self.contents(path, at)?;
        for other in others {
            // Names of before, which belong to what was written now.
            self.link_by_name(&other, path, at)?;
        }
        Ok(())
    }

    fn contents(&mut self, path: &[u8], at: At<'_>) -> Result<(), Stop> {
        let xattrs = self.xattrs(at)?;
        self.lead_to(path)?;
        let (flag, target) = match at.meta.kind() {
            FileType::Symlink => (b'2', at.target()?),
            FileType::CharacterDevice => (b'3', Vec::new()),
            FileType::BlockDevice => (b'4', Vec::new()),
            FileType::Fifo => (b'6', Vec::new()),
            _ => (b'0', Vec::new()),
        };
        let mut head = self.head(flag, path, at.meta);
        (head.xattrs, head.link) = (&xattrs, &target);
        if matches!(flag, b'3' | b'4') {
            head.device = (major(at.meta.device), minor(at.meta.device));
        }
        if flag != b'0' {
            return self.entry(path, &head);
        }
        head.size = at.meta.size;
        let file = at.open().map_err(|e| failed(path, "open", e.into()))?;
        self.entry(path, &head)?;
        self.copy(path, &file, at.meta.size)
    }

    fn link(&mut self, path: &[u8], first: &[u8], at: At<'_>) -> Result<(), Stop> {
        self.lead_to(path)?;
        self.link_by_name(path, first, at)
    }

    fn link_by_name(&mut self, path: &[u8], first: &[u8], at: At<'_>) -> Result<(), Stop> {
        let xattrs = self.xattrs(at)?;
        let head = self.head(b'1', path, at.meta);
        self.entry(path, &Head { link: first, xattrs: &xattrs, ..head })
    }

    /// Copies a file of `size` bytes. Holes are not read.
    fn copy(&mut self, path: &[u8], file: &OwnedFd, size: u64) -> Result<(), Stop> {
        let mut position = 0;
        while position < size {
            let (start, end) = self.extent(path, file, position, size)?;
            self.zeros(path, start - position)?;
            position = start;
            while position < end {
                self.cancel.check()?;
                let length = usize::try_from(end - position).unwrap_or(usize::MAX);
                let length = length.min(self.buffer.len());
                match pread(file, &mut self.buffer[..length], position) {
                    Ok(0) => return Err(shrunk(path).into()),
                    Ok(read) => {
                        let written = self.archive.data(&self.buffer[..read]);
                        written.map_err(|e| failed(path, "write", e))?;
                        position += read as u64;
                    }
                    Err(Errno::INTR) => {}
                    Err(e) => return Err(failed(path, "read", e.into()).into()),
                }
            }
        }
        Ok(())
    }

    /// Where the next data of a file is.
    fn extent(
        &self,
        path: &[u8],
        file: &OwnedFd,
        position: u64,
        size: u64,
    ) -> Result<(u64, u64), Stop> {
        let start = match seek(file, SeekFrom::Data(position)) {
            Ok(start) => start.min(size),
            // There is no more, if it is not shorter now.
            Err(Errno::NXIO) => return Ok((size, size)),
            // Not every filesystem knows.
            Err(Errno::INVAL) => return Ok((position, size)),
            Err(e) => return Err(failed(path, "read", e.into()).into()),
        };
        match seek(file, SeekFrom::Hole(start)) {
            Ok(end) => Ok((start, end.min(size))),
            Err(_) => Ok((start, size)),
        }
    }

    fn zeros(&mut self, path: &[u8], mut count: u64) -> Result<(), Stop> {
        static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
        while count > 0 {
            self.cancel.check()?;
            let length = usize::try_from(count).map_or(ZEROS.len(), |left| left.min(ZEROS.len()));
            let written = self.archive.data(&ZEROS[..length]);
            written.map_err(|e| failed(path, "write", e))?;
            count -= length as u64;
        }
        Ok(())
    }
}

impl<W: Write> Visit for Layer<'_, W> {
    type Error = Stop;

    fn visit(&mut self, path: &[u8], change: Change, at: Option<At<'_>>) -> Result<(), Stop> {
        self.cancel.check()?;
        crate::fault::point("diff.create.entry");
        let Some(at) = at else { return self.whiteout(path) };
        if !at.meta.is_folder() {
            return self.file(path, change, at);
        }
        let header = Header { meta: *at.meta, xattrs: self.xattrs(at)? };
        let header = match change {
            Change::Same => Some(header),
            _ => {
                self.lead_to(path)?;
                self.folder(path, &header)?;
                None
            }
        };
        self.open.push(Open { length: path.len(), header });
        Ok(())
    }

    fn leave(&mut self, _path: &[u8]) {
        self.open.pop();
    }
}

fn shrunk(path: &[u8]) -> Error {
    Error::new(ErrorKind::Aborted, format!("{} became shorter while it was read", shown(path)))
}

fn failed(path: &[u8], action: &str, error: io::Error) -> Error {
    match error.downcast::<Error>() {
        Ok(own) => own,
        Err(error) => Error::caused(io_kind(&error), format!("{action} {}", shown(path)), error),
    }
}
