//! Reads tar archives that come from strangers, entry by entry. Unlike the one of
//! the crate `tar`, this reader holds nothing in memory whose size the archive
//! chooses.

use std::{
    collections::BTreeMap,
    io::{self, Read},
};

use shim_protocol::{Context, Error, ErrorKind, Result};
use tar::{EntryType, Header};

const BLOCK_BYTES: usize = 512;

/// How long a name may be.
const MAX_NAME_BYTES: u64 = 4096;

/// How many bytes an extended header may have.
const MAX_EXTENSION_BYTES: u64 = 1 << 20;

/// How many extended headers one entry may have.
const MAX_EXTENSIONS: usize = 16;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    /// The same file as another one.
    HardLink,
    SymLink,
    /// Nothing that has content.
    Other,
}

/// An entry of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) kind: Kind,
    pub(crate) name: String,
    /// What a link points to.
    pub(crate) link: String,
    /// Length of its content in bytes.
    pub(crate) size: u64,
}

/// An archive that is being read.
pub(crate) struct Reader<R> {
    input: R,
    /// What is left of the present entry's content, and of what fills its last
    /// block.
    left: u64,
    padding: u64,
}

/// What extended headers say about the next entry.
#[derive(Default)]
struct Extended {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
}

impl<R: Read> Reader<R> {
    pub(crate) fn new(input: R) -> Self {
        Self { input, left: 0, padding: 0 }
    }

    /// The next entry; what is left of the one before is skipped. None at the
    /// end.
    ///
    /// # Errors
    /// `DataLoss` when it ends in the middle; `InvalidArgument` when it is no
    /// archive, or one with names that nobody needs.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>> {
        let mut extended = Extended::default();
        for _ in 0..MAX_EXTENSIONS {
            self.skip(self.left + self.padding)?;
            (self.left, self.padding) = (0, 0);
            let Some(header) = self.header()? else { return Ok(None) };
            let size = header.entry_size().context_as(
                ErrorKind::InvalidArgument,
                "read",
                "the size of an archive's entry",
            )?;
            match header.entry_type() {
                EntryType::GNULongName => extended.name = Some(self.text(size, MAX_NAME_BYTES)?),
                EntryType::GNULongLink => extended.link = Some(self.text(size, MAX_NAME_BYTES)?),
                EntryType::XHeader => extended.read(&self.text(size, MAX_EXTENSION_BYTES)?)?,
                EntryType::XGlobalHeader => drop(self.text(size, MAX_EXTENSION_BYTES)?),
                kind => return self.entry(&header, kind, size, extended).map(Some),
            }
        }
        Err(Error::invalid(format!("an entry has more than {MAX_EXTENSIONS} extended headers")))
    }

    /// Reads of the present entry's content; nothing at its end.
    ///
    /// # Errors
    /// `DataLoss` when the archive ends before; those of the input.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let length = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if length == 0 {
            return Ok(0);
        }
        match self.input.read(&mut buffer[..length]).map_err(damaged)? {
            0 => Err(cut_off()),
            read => {
                self.left -= read as u64;
                Ok(read)
            }
        }
    }

    /// Reads what is behind the archive's end, but not more than `most` bytes, so
    /// that damage there is found as well.
    ///
    /// # Errors
    /// Those of the input.
    pub(crate) fn finish(&mut self, most: u64) -> Result<()> {
        let rest = io::copy(&mut (&mut self.input).take(most), &mut io::sink());
        rest.map_err(damaged).map(drop)
    }

    fn entry(
        &mut self,
        header: &Header,
        kind: EntryType,
        size: u64,
        extended: Extended,
    ) -> Result<Entry> {
        let kind = match kind {
            EntryType::Regular | EntryType::Continuous => Kind::File,
            EntryType::Link => Kind::HardLink,
            EntryType::Symlink => Kind::SymLink,
            EntryType::GNUSparse => {
                return Err(Error::invalid("archives with sparse files are not supported"));
            }
            _ => Kind::Other,
        };
        let size = extended.size.unwrap_or(size);
        // Only files are followed by content, whatever the header says.
        let size = if matches!(kind, Kind::HardLink | Kind::SymLink) { 0 } else { size };
        self.left = size;
        self.padding = (BLOCK_BYTES as u64 - size % BLOCK_BYTES as u64) % BLOCK_BYTES as u64;
        let link = header.link_name_bytes().unwrap_or_default().into_owned();
        Ok(Entry {
            kind,
            name: utf8(extended.name.unwrap_or_else(|| header.path_bytes().into_owned()))?,
            link: utf8(extended.link.unwrap_or(link))?,
            size,
        })
    }

    /// The next header; none at the end.
    fn header(&mut self) -> Result<Option<Header>> {
        let mut header = Header::new_old();
        let block = header.as_mut_bytes();
        let mut read = 0;
        while read < BLOCK_BYTES {
            match self.input.read(&mut block[read..]).map_err(damaged)? {
                // Some writers leave away the empty blocks at the end.
                0 if read == 0 => return Ok(None),
                0 => return Err(cut_off()),
                more => read += more,
            }
        }
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let noted = block[148..156].to_vec();
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        let sum = sum - noted.iter().map(|byte| u32::from(*byte)).sum::<u32>();
        // The sum is made with blanks in its own place.
        if header.cksum().ok() != Some(sum + 8 * u32::from(b' ')) {
            return Err(Error::invalid("it is no archive, or a damaged one"));
        }
        Ok(Some(header))
    }

    /// The content of an extended header, up to a NUL byte.
    fn text(&mut self, size: u64, most: u64) -> Result<Vec<u8>> {
        if size > most {
            let text = format!("a header in the archive has {size} bytes, {most} are allowed");
            return Err(Error::invalid(text));
        }
        let padded = size.next_multiple_of(BLOCK_BYTES as u64);
        let mut text = Vec::new();
        let taken = (&mut self.input).take(padded).read_to_end(&mut text);
        if taken.map_err(damaged)? as u64 != padded {
            return Err(cut_off());
        }
        text.truncate(usize::try_from(size).unwrap_or_default());
        Ok(text)
    }

    fn skip(&mut self, length: u64) -> Result<()> {
        let skipped = io::copy(&mut (&mut self.input).take(length), &mut io::sink());
        match skipped.map_err(damaged)? == length {
            true => Ok(()),
            false => Err(cut_off()),
        }
    }
}

impl Extended {
    /// Reads records of the form `<length> <key>=<value>\n` (POSIX, "pax Header
    /// Block").
    fn read(&mut self, records: &[u8]) -> Result<()> {
        let records = records_of(records)
            .ok_or_else(|| Error::invalid("an extended header in the archive is malformed"))?;
        for (key, value) in records {
            match key {
                b"path" => self.name = Some(value.to_vec()),
                b"linkpath" => self.link = Some(value.to_vec()),
                b"size" => {
                    let text = str::from_utf8(value).ok();
                    let size = text.and_then(|text| text.parse().ok());
                    self.size = Some(size.ok_or_else(|| Error::invalid("malformed size"))?);
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// The records, the last one of a key; none when they are malformed.
fn records_of(mut rest: &[u8]) -> Option<BTreeMap<&[u8], &[u8]>> {
    let mut records = BTreeMap::new();
    while !rest.is_empty() {
        let blank = rest.iter().position(|byte| *byte == b' ')?;
        let length: usize = str::from_utf8(&rest[..blank]).ok()?.parse().ok()?;
        let record = rest.get(blank + 1..length)?.strip_suffix(b"\n")?;
        let equals = record.iter().position(|byte| *byte == b'=')?;
        records.insert(&record[..equals], &record[equals + 1..]);
        rest = &rest[length..];
    }
    Some(records)
}

fn utf8(mut name: Vec<u8>) -> Result<String> {
    if let Some(end) = name.iter().position(|byte| *byte == 0) {
        name.truncate(end);
    }
    if name.len() as u64 > MAX_NAME_BYTES {
        return Err(Error::invalid(format!("a name in the archive has {} bytes", name.len())));
    }
    String::from_utf8(name)
        .map_err(|e| Error::caused(ErrorKind::InvalidArgument, "a name in the archive", e))
}

/// The input comes out of memory and perhaps a decompressor: what fails there is
/// the content.
fn damaged(error: io::Error) -> Error {
    Error::caused(ErrorKind::DataLoss, "unpack the archive", error)
}

fn cut_off() -> Error {
    Error::new(ErrorKind::DataLoss, "the archive ends too early")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::kind;

    fn archive(entries: &[(&str, EntryType, &str, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, kind, link, content) in entries {
            let mut header = Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            match link.is_empty() {
                true => builder.append_data(&mut header, name, *content).unwrap(),
                false => builder.append_link(&mut header, name, link).unwrap(),
            }
        }
        builder.into_inner().unwrap()
    }

    fn read_all(archive: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>> {
        let mut reader = Reader::new(archive);
        let mut entries = Vec::new();
        while let Some(entry) = reader.next()? {
            let (mut content, mut buffer) = (Vec::new(), [0; 100]);
            loop {
                match reader.read(&mut buffer)? {
                    0 => break,
                    length => content.extend_from_slice(&buffer[..length]),
                }
            }
            entries.push((entry, content));
        }
        Ok(entries)
    }

    #[test]
    fn what_others_write_is_read() {
        let long = "x/".repeat(150) + "name";
        let content = vec![7; 1000];
        let written = archive(&[
            ("a", EntryType::Regular, "", &content),
            ("folder", EntryType::Directory, "", b""),
            (&long, EntryType::Regular, "", b"b"),
            ("link", EntryType::Symlink, &long, b""),
            ("hard", EntryType::Link, "a", b""),
        ]);
        let read = read_all(&written).unwrap();
        let kinds: Vec<_> = read.iter().map(|(entry, _)| entry.kind).collect();
        let expected = [Kind::File, Kind::Other, Kind::File, Kind::SymLink, Kind::HardLink];
        assert_eq!(kinds, expected);
        assert_eq!(read[0].1, content);
        assert_eq!((&read[2].0.name, &read[2].1[..]), (&long, &b"b"[..]));
        assert_eq!(read[3].0.link, long);
        assert_eq!(read[4].0.link, "a");
    }

    #[test]
    fn extended_headers_count() {
        let mut builder = tar::Builder::new(Vec::new());
        let size = b"3".as_slice();
        builder.append_pax_extensions([("path", b"other".as_slice()), ("size", size)]).unwrap();
        let mut header = Header::new_ustar();
        header.set_size(3);
        builder.append_data(&mut header, "name", b"abc".as_slice()).unwrap();
        let read = read_all(&builder.into_inner().unwrap()).unwrap();
        assert_eq!((read[0].0.name.as_str(), read[0].0.size), ("other", 3));
    }

    #[test]
    fn what_is_cut_off_is_found_out() {
        let written = archive(&[("a", EntryType::Regular, "", &[7; 1000])]);
        for length in [1, 511, 513, 1400, 1500] {
            assert_eq!(kind(read_all(&written[..length])), ErrorKind::DataLoss, "{length}");
        }
        // Nothing but the empty blocks is missing.
        assert_eq!(read_all(&written[..512 + 1024]).unwrap().len(), 1);
    }

    #[test]
    fn nonsense_is_refused() {
        assert_eq!(kind(read_all(&[b'x'; 1024])), ErrorKind::InvalidArgument);
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::GNULongName);
        header.set_size(1 << 40);
        header.set_cksum();
        assert_eq!(kind(read_all(header.as_bytes())), ErrorKind::InvalidArgument);
        for records in ["5 a=b", "9 a=bcdefg\n", "x", "7 abcd\n", "99999999999999999999 a=b\n"] {
            assert!(records_of(records.as_bytes()).is_none(), "{records}");
        }
    }
}
