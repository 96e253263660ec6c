//! Archives by hand, header by header.

use crate::diff::tar::BLOCK_BYTES;

/// An archive that is being made, as right or as wrong as one likes.
#[derive(Clone, Default)]
pub(super) struct Archive {
    pub(super) bytes: Vec<u8>,
    /// Without the two blocks at the end.
    pub(super) is_open: bool,
}

/// Fields of a header.
#[derive(Clone)]
pub(super) struct Head {
    pub(super) name: Vec<u8>,
    pub(super) flag: u8,
    pub(super) mode: u32,
    pub(super) owner: (u32, u32),
    pub(super) size: u64,
    pub(super) mtime: u64,
    pub(super) link: Vec<u8>,
    pub(super) device: (u32, u32),
    pub(super) gnu: bool,
    pub(super) prefix: Vec<u8>,
}

impl Head {
    pub(super) fn new(flag: u8, name: impl AsRef<[u8]>) -> Self {
        Self {
            name: name.as_ref().to_owned(),
            flag,
            mode: if flag == b'5' { 0o755 } else { 0o644 },
            owner: (0, 0),
            size: 0,
            mtime: 1_700_000_000,
            link: Vec::new(),
            device: (0, 0),
            gnu: false,
            prefix: Vec::new(),
        }
    }

    pub(super) fn block(&self) -> [u8; BLOCK_BYTES] {
        let mut block = [0; BLOCK_BYTES];
        let mut put = |offset: usize, bytes: &[u8]| {
            block[offset..offset + bytes.len()].copy_from_slice(bytes);
        };
        put(0, &self.name);
        put(100, format!("{:07o}", self.mode).as_bytes());
        put(108, format!("{:07o}", self.owner.0).as_bytes());
        put(116, format!("{:07o}", self.owner.1).as_bytes());
        put(124, format!("{:011o}", self.size).as_bytes());
        put(136, format!("{:011o}", self.mtime).as_bytes());
        put(156, &[self.flag]);
        put(157, &self.link);
        put(257, if self.gnu { b"ustar  \0" } else { b"ustar\x0000" });
        put(329, format!("{:07o}", self.device.0).as_bytes());
        put(337, format!("{:07o}", self.device.1).as_bytes());
        put(345, &self.prefix);
        sum(&mut block);
        block
    }
}

/// Puts the checksum where it belongs.
pub(super) fn sum(block: &mut [u8; BLOCK_BYTES]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
}

impl Archive {
    pub(super) fn new() -> Self {
        Self::default()
    }

    pub(super) fn raw(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    /// An entry with its data.
    pub(super) fn entry(self, head: &Head, data: &[u8]) -> Self {
        let mut this = self.raw(&head.block()).raw(data);
        this.bytes.resize(this.bytes.len().next_multiple_of(BLOCK_BYTES), 0);
        this
    }

    pub(super) fn file(self, name: impl AsRef<[u8]>, data: &str) -> Self {
        let size = data.len() as u64;
        self.entry(&Head { size, ..Head::new(b'0', name) }, data.as_bytes())
    }

    pub(super) fn folder(self, name: impl AsRef<[u8]>) -> Self {
        self.entry(&Head::new(b'5', name), b"")
    }

    pub(super) fn symlink(self, name: impl AsRef<[u8]>, target: &str) -> Self {
        let link = target.as_bytes().to_owned();
        self.entry(&Head { link, ..Head::new(b'2', name) }, b"")
    }

    pub(super) fn hard_link(self, name: impl AsRef<[u8]>, target: &str) -> Self {
        let link = target.as_bytes().to_owned();
        self.entry(&Head { link, ..Head::new(b'1', name) }, b"")
    }

    /// An extended header of these records.
    pub(super) fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut data = Vec::new();
        for (key, value) in records {
            // The length counts its own digits.
            let rest = key.len() + value.len() + 3;
            let mut length = rest + 1;
            while length.to_string().len() + rest != length {
                length += 1;
            }
            data.extend_from_slice(format!("{length} {key}=").as_bytes());
            data.extend_from_slice(value);
            data.push(b'\n');
        }
        let size = data.len() as u64;
        self.entry(&Head { size, ..Head::new(b'x', "pax") }, &data)
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        if !self.is_open {
            bytes.resize(bytes.len() + 2 * BLOCK_BYTES, 0);
        }
        bytes
    }
}
