//! Extended headers (pax(1), "pax Extended Header").

use rustix::fs::Timespec;
use shim_protocol::Result;

use super::{XATTR, Xattrs, malformed};

/// What an extended header says of the entry behind it. An empty value takes
/// back what an earlier record said.
#[derive(Clone, Debug, Default)]
pub(super) struct Extended {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<i64>,
    pub(super) uid: Option<i64>,
    pub(super) gid: Option<i64>,
    pub(super) modified: Option<Timespec>,
    pub(super) accessed: Option<Timespec>,
    pub(super) xattrs: Xattrs,
    pub(super) sparse: Sparse,
}

/// GNU's records of sparse files (tar's manual, "Storing Sparse Files").
#[derive(Clone, Debug, Default)]
pub(super) struct Sparse {
    pub(super) major: Option<u64>,
    pub(super) minor: Option<u64>,
    pub(super) name: Option<Vec<u8>>,
    /// The length with all holes: `GNU.sparse.size` or `GNU.sparse.realsize`.
    pub(super) size: Option<u64>,
    /// Offsets and lengths in turn, of versions 0.0 and 0.1.
    pub(super) map: Vec<u64>,
    /// Is there a map, if an empty one?
    pub(super) mapped: bool,
}

impl Extended {
    /// Reads the records of one header, on top of earlier ones.
    ///
    /// # Errors
    /// `InvalidArgument`.
    pub(super) fn read(&mut self, mut records: &[u8]) -> Result<()> {
        while !records.is_empty() {
            let (key, value, rest) =
                record(records).ok_or_else(|| malformed("record of an extended header"))?;
            self.take(key, value).ok_or_else(|| {
                let key = String::from_utf8_lossy(&key[..key.len().min(64)]);
                malformed(&format!("value of {key:?} in an extended header"))
            })?;
            records = rest;
        }
        Ok(())
    }

    /// None if the value makes no sense.
    fn take(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        match key {
            b"path" => self.path = name(value)?,
            b"linkpath" => self.link = name(value)?,
            b"size" => self.size = unless_empty(value, decimal)?,
            b"uid" => self.uid = unless_empty(value, decimal)?,
            b"gid" => self.gid = unless_empty(value, decimal)?,
            b"mtime" => self.modified = unless_empty(value, time)?,
            b"atime" => self.accessed = unless_empty(value, time)?,
            b"GNU.sparse.major" => self.sparse.major = unless_empty(value, unsigned)?,
            b"GNU.sparse.minor" => self.sparse.minor = unless_empty(value, unsigned)?,
            b"GNU.sparse.name" => self.sparse.name = name(value)?,
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => {
                self.sparse.size = unless_empty(value, unsigned)?;
            }
            b"GNU.sparse.map" => {
                self.sparse.mapped = true;
                self.sparse.map.clear();
                if !value.is_empty() {
                    for part in value.split(|byte| *byte == b',') {
                        self.sparse.map.push(unsigned(part)?);
                    }
                }
            }
            b"GNU.sparse.numblocks" => self.sparse.mapped = true,
            b"GNU.sparse.offset" if self.sparse.map.len().is_multiple_of(2) => {
                self.sparse.map.push(unsigned(value)?);
            }
            b"GNU.sparse.numbytes" if !self.sparse.map.len().is_multiple_of(2) => {
                self.sparse.map.push(unsigned(value)?);
            }
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => return None,
            key => {
                let Some(name) = key.strip_prefix(XATTR) else { return Some(()) };
                if name.is_empty() || name.contains(&0) {
                    return None;
                }
                self.xattrs.retain(|(other, _)| other != name);
                self.xattrs.push((name.to_owned(), value.to_owned()));
            }
        }
        Some(())
    }
}

/// The first record, and what is behind it: its length, a blank, its key, an
/// equals sign, its value, a newline.
fn record(records: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    // More digits than any header is long need not be read.
    let blank = records.iter().take(20).position(|byte| *byte == b' ')?;
    let length = usize::try_from(unsigned(&records[..blank])?).ok()?;
    if length <= blank + 1 || length > records.len() {
        return None;
    }
    let (record, rest) = records.split_at(length);
    let record = record[blank + 1..].strip_suffix(b"\n")?;
    let equals = record.iter().position(|byte| *byte == b'=')?;
    let (key, value) = (&record[..equals], &record[equals + 1..]);
    (!key.is_empty() && !key.contains(&0)).then_some((key, value, rest))
}

fn unless_empty<T>(value: &[u8], read: fn(&[u8]) -> Option<T>) -> Option<Option<T>> {
    if value.is_empty() { Some(None) } else { read(value).map(Some) }
}

/// A name has no NUL byte.
fn name(value: &[u8]) -> Option<Option<Vec<u8>>> {
    if value.contains(&0) {
        return None;
    }
    Some(Some(value.to_owned()).filter(|value| !value.is_empty()))
}

pub(super) fn unsigned(digits: &[u8]) -> Option<u64> {
    let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    if is_number { std::str::from_utf8(digits).ok()?.parse().ok() } else { None }
}

fn decimal(digits: &[u8]) -> Option<i64> {
    match digits.strip_prefix(b"-") {
        Some(digits) => i64::try_from(unsigned(digits)?).ok()?.checked_neg(),
        None => i64::try_from(unsigned(digits)?).ok(),
    }
}

/// Seconds with a fraction, of which nine digits count.
fn time(text: &[u8]) -> Option<Timespec> {
    let (whole, fraction) = match text.iter().position(|byte| *byte == b'.') {
        Some(point) => (&text[..point], &text[point + 1..]),
        None => (text, &text[..0]),
    };
    let seconds = decimal(whole)?;
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digit = |position| fraction.get(position).map_or(0, |digit| i64::from(digit - b'0'));
    let nanoseconds = (0..9).fold(0, |value, position| value * 10 + digit(position));
    if whole.starts_with(b"-") && nanoseconds > 0 {
        let tv_sec = seconds.checked_sub(1)?;
        return Some(Timespec { tv_sec, tv_nsec: 1_000_000_000 - nanoseconds });
    }
    Some(Timespec { tv_sec: seconds, tv_nsec: nanoseconds })
}
