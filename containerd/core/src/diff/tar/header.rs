//! One header block (POSIX.1-1988 and later, pax(1) "ustar Interchange Format";
//! GNU's in tar's manual, "Basic Tar Format").

use shim_protocol::Result;

use super::{BLOCK_BYTES, malformed};

/// A block that is a header.
#[derive(Clone, Copy)]
pub(super) struct Header(pub(super) [u8; BLOCK_BYTES]);

/// Which fields a header has beyond those of the oldest format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Old,
    Ustar,
    /// Schilling's: times behind a shorter prefix.
    Star,
    Gnu,
}

impl Header {
    /// Is it the mark of the end?
    pub(super) fn is_zero(&self) -> bool {
        self.0.iter().all(|byte| *byte == 0)
    }

    /// # Errors
    /// `InvalidArgument` when it is none.
    pub(super) fn check(&self) -> Result<()> {
        // Some old archivers took bytes for signed ones.
        let (mut unsigned, mut signed) = (0, 0);
        for (position, byte) in self.0.iter().enumerate() {
            let byte = if (148..156).contains(&position) { b' ' } else { *byte };
            unsigned += i64::from(byte);
            signed += i64::from(byte.cast_signed());
        }
        match self.number("checksum", 148, 8)? {
            sum if sum == unsigned || sum == signed => Ok(()),
            _ => Err(malformed("the checksum of a header is wrong")),
        }
    }

    pub(super) fn format(&self) -> Format {
        match &self.0[257..265] {
            b"ustar  \0" => Format::Gnu,
            magic if magic.starts_with(b"ustar\0") => match &self.0[508..] {
                b"tar\0" => Format::Star,
                _ => Format::Ustar,
            },
            _ => Format::Old,
        }
    }

    pub(super) fn flag(&self) -> u8 {
        self.0[156]
    }

    /// Its name, with the prefix if there is one.
    pub(super) fn name(&self, into: &mut Vec<u8>) {
        let prefix = match self.format() {
            Format::Ustar => text(&self.0[345..500]),
            Format::Star => text(&self.0[345..476]),
            Format::Old | Format::Gnu => &[],
        };
        into.clear();
        into.extend_from_slice(prefix);
        if !prefix.is_empty() {
            into.push(b'/');
        }
        into.extend_from_slice(text(&self.0[..100]));
    }

    pub(super) fn link(&self, into: &mut Vec<u8>) {
        into.clear();
        into.extend_from_slice(text(&self.0[157..257]));
    }

    /// # Errors
    /// `InvalidArgument` when it is no number, as with all of these.
    pub(super) fn mode(&self) -> Result<i64> {
        self.number("mode", 100, 8)
    }

    pub(super) fn uid(&self) -> Result<i64> {
        self.number("uid", 108, 8)
    }

    pub(super) fn gid(&self) -> Result<i64> {
        self.number("gid", 116, 8)
    }

    pub(super) fn size(&self) -> Result<i64> {
        self.number("size", 124, 12)
    }

    pub(super) fn modified(&self) -> Result<i64> {
        self.number("mtime", 136, 12)
    }

    /// Time of last access; none if there is no such field.
    pub(super) fn accessed(&self) -> Result<Option<i64>> {
        match self.format() {
            // Those who do not write it leave zeros.
            Format::Gnu if self.0[345] != 0 => self.number("atime", 345, 12).map(Some),
            Format::Star => self.number("atime", 476, 12).map(Some),
            _ => Ok(None),
        }
    }

    /// Major and minor number of a device.
    pub(super) fn device(&self) -> Result<(i64, i64)> {
        match self.format() {
            Format::Old => Ok((0, 0)),
            _ => Ok((self.number("major", 329, 8)?, self.number("minor", 337, 8)?)),
        }
    }

    /// The number in the field of `length` bytes at `offset`.
    pub(super) fn number(&self, what: &str, offset: usize, length: usize) -> Result<i64> {
        number(&self.0[offset..offset + length])
            .ok_or_else(|| malformed(&format!("{what} of a header is no number")))
    }
}

/// What is before the first NUL byte.
pub(super) fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// Octal digits with blanks around, or two's complement where the first bit is
/// set. An empty field is zero.
pub(super) fn number(field: &[u8]) -> Option<i64> {
    let first = *field.first()?;
    if first & 0x80 != 0 {
        let negative = first & 0x40 != 0;
        let mut value: i128 = if negative { -1 } else { 0 };
        for (position, byte) in field.iter().enumerate() {
            let byte = match (position, negative) {
                (0, true) => byte | 0x80,
                (0, false) => byte & 0x7f,
                _ => *byte,
            };
            value = (value << 8) | i128::from(byte);
        }
        return i64::try_from(value).ok();
    }
    let digits = field.trim_ascii_start();
    let digits = digits.split(|byte| matches!(byte, 0 | b' ')).next()?;
    let blank = &field[field.len() - field.trim_ascii_start().len() + digits.len()..];
    if !blank.iter().all(|byte| matches!(byte, 0 | b' ')) {
        return None;
    }
    digits.iter().try_fold(0_i64, |value, digit| match digit {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(i64::from(digit - b'0')),
        _ => None,
    })
}
