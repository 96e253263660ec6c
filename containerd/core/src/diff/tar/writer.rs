//! Writes an archive, the same bytes for the same entries.

use std::io::{self, Write};

use super::{BLOCK_BYTES, XATTR};

/// The largest numbers that fit into fields of eight and twelve digits.
const MAX_SHORT: u64 = 0o7_777_777;
const MAX_LONG: u64 = 0o77_777_777_777;

/// The longest name that a header has itself.
const MAX_NAME: usize = 100;

/// An entry to be written.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::diff) struct Head<'a> {
    /// Its type, as in archives.
    pub(in crate::diff) flag: u8,
    pub(in crate::diff) name: &'a [u8],
    pub(in crate::diff) link: &'a [u8],
    pub(in crate::diff) mode: u32,
    pub(in crate::diff) uid: u32,
    pub(in crate::diff) gid: u32,
    /// In bytes; so many follow.
    pub(in crate::diff) size: u64,
    /// Seconds since 1970.
    pub(in crate::diff) modified: i64,
    /// Major and minor number.
    pub(in crate::diff) device: (u32, u32),
    pub(in crate::diff) xattrs: &'a [(Vec<u8>, Vec<u8>)],
}

/// Writes entries one after the other.
pub(in crate::diff) struct Writer<W> {
    sink: W,
    /// How much of the entry's data is still to come.
    left: u64,
    padding: usize,
}

impl<W: Write> Writer<W> {
    pub(in crate::diff) fn new(sink: W) -> Self {
        Self { sink, left: 0, padding: 0 }
    }

    /// Writes the header of an entry, whose data must follow.
    ///
    /// # Errors
    /// Those of the sink.
    pub(in crate::diff) fn entry(&mut self, head: &Head<'_>) -> io::Result<()> {
        let records = records(head);
        if !records.is_empty() {
            let base = head.name.rsplit(|byte| *byte == b'/').find(|part| !part.is_empty());
            let base = base.filter(|base| base.is_ascii()).unwrap_or(b"entry");
            let name = [b"PaxHeaders.0/", &base[..base.len().min(64)]].concat();
            let size = records.len() as u64;
            let extended = Head { flag: b'x', name: &name, mode: 0, size, ..Head::default() };
            self.sink.write_all(&block(&extended))?;
            self.left = size;
            self.padding = padding(size);
            self.data(&records)?;
        }
        self.sink.write_all(&block(head))?;
        (self.left, self.padding) = (head.size, padding(head.size));
        Ok(())
    }

    /// Writes a piece of the entry's data.
    ///
    /// # Errors
    /// Those of the sink; more data than was announced.
    pub(in crate::diff) fn data(&mut self, piece: &[u8]) -> io::Result<()> {
        self.left = self
            .left
            .checked_sub(piece.len() as u64)
            .ok_or_else(|| io::Error::other("more data than the header says"))?;
        self.sink.write_all(piece)?;
        if self.left == 0 {
            self.sink.write_all(&[0; BLOCK_BYTES][..self.padding])?;
            self.padding = 0;
        }
        Ok(())
    }

    /// Writes the end; answers what was written to.
    ///
    /// # Errors
    /// Those of the sink.
    pub(in crate::diff) fn finish(mut self) -> io::Result<W> {
        self.sink.write_all(&[0; 2 * BLOCK_BYTES])?;
        Ok(self.sink)
    }
}

fn padding(size: u64) -> usize {
    let used = usize::try_from(size % BLOCK_BYTES as u64).unwrap_or_default();
    (BLOCK_BYTES - used) % BLOCK_BYTES
}

/// What does not fit into the header, in the order of its fields.
fn records(head: &Head<'_>) -> Vec<u8> {
    let mut records = Vec::new();
    let mut number = |key: &str, value: i64, max: u64| {
        if u64::try_from(value).ok().is_none_or(|value| value > max) {
            record(&mut records, key.as_bytes(), value.to_string().as_bytes());
        }
    };
    number("mtime", head.modified, MAX_LONG);
    number("size", i64::try_from(head.size).unwrap_or(i64::MAX), MAX_LONG);
    number("uid", head.uid.into(), MAX_SHORT);
    number("gid", head.gid.into(), MAX_SHORT);
    for (key, name) in [("path", head.name), ("linkpath", head.link)] {
        // In a header it is no more than bytes; in a record it has an encoding.
        let is_text = !name.is_ascii() && std::str::from_utf8(name).is_ok();
        if name.len() > MAX_NAME || is_text {
            record(&mut records, key.as_bytes(), name);
        }
    }
    for (name, value) in head.xattrs {
        record(&mut records, &[XATTR, name].concat(), value);
    }
    records
}

/// A record begins with its length, which counts its own digits.
fn record(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + length.to_string().len() > length {
        length += 1;
    }
    records.extend_from_slice(length.to_string().as_bytes());
    records.push(b' ');
    records.extend_from_slice(key);
    records.push(b'=');
    records.extend_from_slice(value);
    records.push(b'\n');
}

fn block(head: &Head<'_>) -> [u8; BLOCK_BYTES] {
    let mut block = [0; BLOCK_BYTES];
    let mut put = |offset: usize, bytes: &[u8]| {
        block[offset..offset + bytes.len()].copy_from_slice(bytes);
    };
    let short = |value: u64| format!("{:07o}", if value > MAX_SHORT { 0 } else { value });
    let long = |value: u64| format!("{:011o}", if value > MAX_LONG { 0 } else { value });
    put(0, &head.name[..head.name.len().min(MAX_NAME)]);
    put(100, short(head.mode.into()).as_bytes());
    put(108, short(head.uid.into()).as_bytes());
    put(116, short(head.gid.into()).as_bytes());
    put(124, long(head.size).as_bytes());
    put(136, long(u64::try_from(head.modified).unwrap_or_default()).as_bytes());
    put(148, b"        ");
    put(156, &[head.flag]);
    put(157, &head.link[..head.link.len().min(MAX_NAME)]);
    put(257, b"ustar\x0000");
    put(329, short(head.device.0.into()).as_bytes());
    put(337, short(head.device.1.into()).as_bytes());
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}
