//! The archive format of layers, read and written.
//!
//! Reading is not left to the crate of that name: it cuts records of extended
//! headers at newlines, which values of attributes may contain; it knows
//! sparse files of one of the four formats only; it puts no limit to what a
//! header makes it keep in memory; and it copies all data once more. Tests
//! compare the two.

mod header;
mod pax;
mod reader;
mod sparse;
#[cfg(test)]
mod tests;
mod writer;

use rustix::fs::Timespec;
use shim_protocol::Error;

pub(super) use reader::Reader;
pub(super) use writer::{Head, Writer};

/// All of an archive comes in blocks of so many bytes.
pub(super) const BLOCK_BYTES: usize = 512;

/// Prefix of the records that hold attributes.
const XATTR: &[u8] = b"SCHILY.xattr.";

/// Names and values of extended attributes.
pub(super) type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// How much of a long name an error shows.
const SHOWN_BYTES: usize = 256;

/// What an entry makes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Kind {
    #[default]
    File,
    Folder,
    Symlink,
    HardLink,
    CharDevice,
    BlockDevice,
    Fifo,
}

/// One entry, without its data. Names are what the archive says: nothing of
/// them is checked, but that they have no NUL byte.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) kind: Kind,
    pub(super) name: Vec<u8>,
    /// What a link leads to.
    pub(super) link: Vec<u8>,
    /// Without the type.
    pub(super) mode: u32,
    pub(super) uid: u64,
    pub(super) gid: u64,
    pub(super) modified: Timespec,
    /// Never before `modified`.
    pub(super) accessed: Timespec,
    /// How long the file will be, holes and all.
    pub(super) size: u64,
    /// Where data goes in a sparse file: offsets and lengths, in order.
    pub(super) sparse: Option<Vec<(u64, u64)>>,
    /// Major and minor number.
    pub(super) device: (u64, u64),
    /// Extended attributes, names and values.
    pub(super) xattrs: Xattrs,
}

impl Default for Entry {
    fn default() -> Self {
        Self {
            kind: Kind::File,
            name: Vec::new(),
            link: Vec::new(),
            mode: 0,
            uid: 0,
            gid: 0,
            modified: EPOCH,
            accessed: EPOCH,
            size: 0,
            sparse: None,
            device: (0, 0),
            xattrs: Vec::new(),
        }
    }
}

/// 1970.
pub(super) const EPOCH: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// A name as errors show it.
pub(super) fn shown(name: &[u8]) -> String {
    let cut = &name[..name.len().min(SHOWN_BYTES)];
    let dots = if cut.len() < name.len() { "…" } else { "" };
    format!("{:?}{dots}", String::from_utf8_lossy(cut))
}

/// The error for an archive that cannot be meant.
fn malformed(what: &str) -> Error {
    Error::invalid(format!("malformed archive: {what}"))
}

/// The same, where an entry can be named.
pub(super) fn refused(name: &[u8], why: &str) -> Error {
    Error::invalid(format!("entry {}: {why}", shown(name)))
}
