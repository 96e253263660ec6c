//! Reads an archive as it comes.

use std::io::{self, BufRead};

use rustix::fs::Timespec;
use shim_protocol::{Context, Error, ErrorKind, Result};

use super::{
    BLOCK_BYTES, EPOCH, Entry, Kind, header::Header, malformed, pax, pax::Extended, refused, sparse,
};

/// The most that a header may make us keep: long names, attributes, maps of
/// sparse files. (Go's `archive/tar` has the same limit.)
const MAX_SPECIAL_BYTES: u64 = 1 << 20;

/// Reads entries, and the data of each.
pub(crate) struct Reader<R> {
    source: R,
    /// Data of the entry that is still to come, in bytes.
    left: u64,
    /// What fills the last block of that data.
    padding: u64,
    special: Vec<u8>,
    over: bool,
}

/// What headers before an entry say of it.
#[derive(Default)]
struct Before {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    extended: Extended,
    any: bool,
}

impl<R: BufRead> Reader<R> {
    /// A reader of an archive that nothing was read of.
    pub(crate) fn new(source: R) -> Self {
        Self { source, left: 0, padding: 0, special: Vec::new(), over: false }
    }

    /// The next entry goes into `entry`; `false` at the end. What was not read
    /// of the data of the one before is skipped.
    ///
    /// # Errors
    /// `InvalidArgument` when the archive is malformed, `DataLoss` when it ends
    /// too early; those of the source.
    pub(crate) fn next(&mut self, entry: &mut Entry) -> Result<bool> {
        if self.over {
            return Ok(false);
        }
        self.skip_data()?;
        let mut before = Before::default();
        loop {
            let Some(header) = self.header()? else {
                self.over = true;
                if before.any {
                    return Err(malformed("it ends where an entry must follow"));
                }
                return Ok(false);
            };
            match header.flag() {
                b'x' | b'X' => {
                    self.special(&header)?;
                    before.extended.read(&self.special)?;
                }
                // Holds for all entries; nobody keeps to it, Go neither.
                b'g' => {
                    self.special(&header)?;
                    continue;
                }
                b'L' => {
                    self.special(&header)?;
                    before.name = Some(super::header::text(&self.special).to_owned());
                }
                b'K' => {
                    self.special(&header)?;
                    before.link = Some(super::header::text(&self.special).to_owned());
                }
                _ => {
                    self.describe(&header, before, entry)?;
                    return Ok(true);
                }
            }
            before.any = true;
        }
    }

    /// The next piece of the entry's data; empty at its end. Call
    /// [`Self::consume`] with what was used of it.
    ///
    /// # Errors
    /// `DataLoss` when the archive ends; those of the source.
    pub(crate) fn data(&mut self) -> Result<&[u8]> {
        if self.left == 0 {
            return Ok(&[]);
        }
        let left = usize::try_from(self.left).unwrap_or(usize::MAX);
        let piece = fill(&mut self.source)?;
        if piece.is_empty() {
            return Err(truncated());
        }
        Ok(&piece[..piece.len().min(left)])
    }

    /// So many bytes of the entry's data were used.
    pub(crate) fn consume(&mut self, bytes: usize) {
        self.source.consume(bytes);
        self.left -= bytes as u64;
    }

    /// What the archive comes from, behind its end.
    pub(crate) fn into_source(self) -> R {
        self.source
    }

    fn skip_data(&mut self) -> Result<()> {
        let (padding, mut left) = (self.padding, self.left + self.padding);
        (self.left, self.padding) = (0, 0);
        while left > 0 {
            let piece = fill(&mut self.source)?.len();
            if piece == 0 {
                // All data has come: umoci writes layers that stop there.
                return if left <= padding { Ok(()) } else { Err(truncated()) };
            }
            let used = usize::try_from(left).map_or(piece, |left| piece.min(left));
            self.source.consume(used);
            left -= used as u64;
        }
        Ok(())
    }

    /// The next block; none at the end of the source.
    fn block(&mut self) -> Result<Option<Header>> {
        let mut block = [0; BLOCK_BYTES];
        let mut filled = 0;
        while filled < BLOCK_BYTES {
            let piece = fill(&mut self.source)?;
            if piece.is_empty() {
                return if filled == 0 { Ok(None) } else { Err(truncated()) };
            }
            let used = piece.len().min(BLOCK_BYTES - filled);
            block[filled..filled + used].copy_from_slice(&piece[..used]);
            self.source.consume(used);
            filled += used;
        }
        Ok(Some(Header(block)))
    }

    /// The next header; none at the end: two blocks of zeros, or where there is
    /// nothing more.
    fn header(&mut self) -> Result<Option<Header>> {
        let Some(header) = self.block()? else { return Ok(None) };
        if !header.is_zero() {
            header.check()?;
            return Ok(Some(header));
        }
        match self.block()? {
            Some(second) if !second.is_zero() => Err(malformed("zeros in place of a header")),
            _ => Ok(None),
        }
    }

    /// Reads the data of an entry that describes the one behind it.
    fn special(&mut self, header: &Header) -> Result<()> {
        let size = length(header.size()?)?;
        if size > MAX_SPECIAL_BYTES {
            let text = format!("a header of {size} bytes; {MAX_SPECIAL_BYTES} are allowed");
            return Err(malformed(&text));
        }
        self.expect(size);
        self.special.clear();
        loop {
            let piece = if self.left == 0 { &[] } else { fill(&mut self.source)? };
            if piece.is_empty() {
                break;
            }
            let used = usize::try_from(self.left).map_or(piece.len(), |l| piece.len().min(l));
            self.special.extend_from_slice(&piece[..used]);
            self.consume(used);
        }
        if self.left > 0 {
            return Err(truncated());
        }
        self.skip_data()
    }

    fn expect(&mut self, size: u64) {
        let block = BLOCK_BYTES as u64;
        (self.left, self.padding) = (size, (block - size % block) % block);
    }

    fn describe(&mut self, header: &Header, before: Before, entry: &mut Entry) -> Result<()> {
        let Before { name, link, extended, .. } = before;
        header.name(&mut entry.name);
        header.link(&mut entry.link);
        if let Some(name) = name.or(extended.path).or(extended.sparse.name.clone()) {
            entry.name = name;
        }
        if let Some(name) = &extended.sparse.name {
            entry.name.clone_from(name);
        }
        if let Some(link) = link.or(extended.link) {
            entry.link = link;
        }
        entry.kind = kind(header.flag(), &entry.name)?;
        let context = |e: Error| {
            let text = format!("entry {}", super::shown(&entry.name));
            Error::caused(e.kind(), text, e)
        };
        let or = |value: Option<i64>, field: Result<i64>| value.map_or(field, Ok).map_err(context);
        entry.mode = u32::try_from(header.mode().map_err(context)? & 0o7777).unwrap_or_default();
        entry.uid = id(or(extended.uid, header.uid())?, "owner").map_err(context)?;
        entry.gid = id(or(extended.gid, header.gid())?, "group").map_err(context)?;
        let seconds = |tv_sec| Timespec { tv_sec, tv_nsec: 0 };
        entry.modified = match extended.modified {
            Some(time) => bounded(time),
            None => bounded(seconds(header.modified().map_err(context)?)),
        };
        let accessed = match extended.accessed {
            Some(time) => Some(time),
            None => header.accessed().map_err(context)?.map(seconds),
        };
        entry.accessed = later(accessed.map_or(entry.modified, bounded), entry.modified);
        entry.device = match entry.kind {
            Kind::CharDevice | Kind::BlockDevice => {
                let (major, minor) = header.device().map_err(context)?;
                let number = |n| u64::try_from(n).map_err(|_| malformed("a device's number"));
                (number(major).map_err(context)?, number(minor).map_err(context)?)
            }
            _ => (0, 0),
        };
        entry.xattrs = extended.xattrs;
        entry.sparse = None;
        let stored = or(extended.size, header.size())?;
        let stored = length(stored).map_err(context)?;
        if entry.kind != Kind::File {
            // Whatever it says, nothing follows.
            entry.size = 0;
            self.expect(0);
            return Ok(());
        }
        entry.size = stored;
        self.expect(stored);
        let sparse = self.sparse(header, stored, &extended.sparse);
        if let Some((map, size)) = sparse.map_err(context)? {
            sparse::check(&map, size, self.left).map_err(context)?;
            entry.size = size;
            entry.sparse = Some(map);
        }
        Ok(())
    }

    /// The map of a sparse file and its size; none if it is not sparse. Its
    /// data comes next.
    fn sparse(
        &mut self,
        header: &Header,
        stored: u64,
        records: &pax::Sparse,
    ) -> Result<Option<(sparse::Map, u64)>> {
        if header.flag() == b'S' {
            let size = length(header.number("real size", 483, 12)?)?;
            let mut map = sparse::Map::new();
            let mut more = sparse::read_old(header, true, &mut map)?;
            while more {
                let block = self.block()?.ok_or_else(truncated)?;
                more = sparse::read_old(&block, false, &mut map)?;
            }
            return Ok(Some((map, size)));
        }
        match (records.major, records.minor) {
            (Some(1), Some(0)) => {
                let size = records.size.ok_or_else(|| malformed("a sparse file without size"))?;
                Ok(Some((self.map_in_data(stored)?, size)))
            }
            (None, None) | (Some(0), Some(0 | 1)) if records.mapped => {
                let size = records.size.ok_or_else(|| malformed("a sparse file without size"))?;
                Ok(Some((sparse::from_list(&records.map)?, size)))
            }
            (None, None) => Ok(None),
            (Some(0), Some(0 | 1)) => Ok(None),
            _ => Err(malformed("unknown version of sparse files")),
        }
    }

    /// Version 1.0 has the map in front of the data, in blocks of its own:
    /// decimal numbers, each with a newline behind it; the first one says how
    /// many pieces there are.
    fn map_in_data(&mut self, stored: u64) -> Result<sparse::Map> {
        let (mut list, mut digits) = (Vec::new(), Vec::new());
        let (mut wanted, mut used) = (1_usize, 0_u64);
        while list.len() < wanted {
            used += BLOCK_BYTES as u64;
            if used > stored {
                return Err(malformed("map of a sparse file"));
            }
            let block = self.block()?.ok_or_else(truncated)?;
            for byte in block.0 {
                if byte != b'\n' {
                    digits.push(byte);
                    if digits.len() > 20 {
                        return Err(malformed("map of a sparse file"));
                    }
                    continue;
                }
                let number = pax::unsigned(&digits).ok_or_else(|| malformed("a sparse map"))?;
                digits.clear();
                list.push(number);
                if list.len() == 1 {
                    wanted = usize::try_from(number)
                        .ok()
                        .filter(|pieces| *pieces <= sparse::MAX_PIECES)
                        .ok_or_else(|| malformed("a sparse file has too many pieces"))?
                        * 2
                        + 1;
                }
                if list.len() == wanted {
                    break;
                }
            }
        }
        // The padding is that of all that is stored, so it stays the same.
        self.left = stored - used;
        sparse::from_list(&list[1..])
    }
}

/// What is there of the source; empty at its end.
fn fill<R: BufRead>(source: &mut R) -> Result<&[u8]> {
    // Asked twice, because an error would keep the borrow otherwise.
    loop {
        match source.fill_buf() {
            Ok(_) => break,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e).context("read", "the archive"),
        }
    }
    source.fill_buf().context("read", "the archive")
}

fn kind(flag: u8, name: &[u8]) -> Result<Kind> {
    Ok(match flag {
        // The oldest archivers had no folders.
        0 if name.ends_with(b"/") => Kind::Folder,
        0 | b'0' | b'7' | b'S' => Kind::File,
        b'1' => Kind::HardLink,
        b'2' => Kind::Symlink,
        b'3' => Kind::CharDevice,
        b'4' => Kind::BlockDevice,
        b'5' => Kind::Folder,
        b'6' => Kind::Fifo,
        flag => {
            let flag = char::from(flag);
            return Err(refused(name, &format!("there is no type {flag:?} of entries in layers")));
        }
    })
}

fn length(size: i64) -> Result<u64> {
    u64::try_from(size).map_err(|_| malformed("a negative size"))
}

/// What an owner may be; the largest one stands for nobody (chown(2)).
fn id(number: i64, what: &str) -> Result<u64> {
    match u32::try_from(number) {
        Ok(id) if id != u32::MAX => Ok(id.into()),
        _ => Err(malformed(&format!("{what} {number} is none"))),
    }
}

/// A time that files can have; others become 1970 (as in containerd).
fn bounded(time: Timespec) -> Timespec {
    // What nanoseconds in 64 bits reach.
    const MAX_SECONDS: i64 = i64::MAX / 1_000_000_000;
    if (0..MAX_SECONDS).contains(&time.tv_sec) { time } else { EPOCH }
}

fn later(a: Timespec, b: Timespec) -> Timespec {
    if (a.tv_sec, a.tv_nsec) < (b.tv_sec, b.tv_nsec) { b } else { a }
}

fn truncated() -> Error {
    Error::new(ErrorKind::DataLoss, "the archive ends in the middle of an entry")
}
