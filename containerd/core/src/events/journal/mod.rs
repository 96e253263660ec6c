//! The events on disk: what a daemon that comes back has to remember.
//!
//! ```text
//! <folder>/journal   magic (8 bytes), records (see `record`)
//!          aside     a compacted journal that is being written
//! ```
//!
//! Records are appended by one write(2) each. That is enough for the death of
//! the daemon at any instant: the bytes are the kernel's by then. It is not
//! flushed to the disk, because the crash of the host ends every container
//! and with it what the journal is about.
//!
//! Some space is allocated ahead, so that a full disk does not keep the next
//! thousand events from being written.
//!
//! A record that was cut short is the last one, and is cut off when the
//! journal is read. Compaction writes all that is still needed into a new file
//! and renames it, so there is always one whole journal.

mod crc;
mod record;
#[cfg(test)]
mod tests;

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use nix::{
    fcntl::{FallocateFlags, fallocate},
    libc::off_t,
};
use shim_protocol::{Context, Result};
use tracing::warn;

pub(super) use self::record::Record;

/// First bytes of the file; the last of them is the version of the format.
const MAGIC: [u8; 8] = *b"ctdevnt\x01";

/// Space that is allocated ahead, in bytes. Most records have some hundred.
const RESERVE: u64 = 256 << 10;

/// An open journal, positioned at its end.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    file: File,
    /// Length in bytes, up to the end of the last whole record.
    length: u64,
    /// The file may have a torn record after `length`.
    torn: bool,
    /// Up to where space is allocated.
    reserved: u64,
    /// Space could not be allocated the last time.
    scarce: bool,
    buffer: Vec<u8>,
}

impl Journal {
    /// Opens the journal in `folder`, or starts one, and hands each record to
    /// `replay`, oldest first.
    ///
    /// # Errors
    /// When the folder or the file cannot be made, read or written.
    pub(super) fn open(folder: &Path, mut replay: impl FnMut(Record)) -> Result<Self> {
        fs::create_dir_all(folder).context("make", folder.display())?;
        let path = folder.join("journal");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .context("open", path.display())?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).context("read", path.display())?;
        let good = replay_all(&bytes, &mut replay);
        if good < bytes.len() {
            let lost = bytes.len() - good;
            warn!(path = %path.display(), good, lost, "the end of the event journal is torn, cut off");
        }
        let mut journal = Self {
            path,
            file,
            length: u64::try_from(good).unwrap_or(u64::MAX),
            torn: good < bytes.len(),
            reserved: 0,
            scarce: false,
            buffer: Vec::new(),
        };
        if good == 0 {
            journal.torn = true;
            journal.mend()?;
            journal.append_bytes(&MAGIC)?;
        }
        journal.mend()?;
        Ok(journal)
    }

    /// Length in bytes.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Appends records: all of them or, if it fails, none.
    ///
    /// # Errors
    /// `InvalidArgument` when one is too big; `ResourceExhausted` when the
    /// disk is full, or whatever else the file system says.
    pub(super) fn append<'a>(
        &mut self,
        records: impl IntoIterator<Item = &'a Record>,
    ) -> Result<()> {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        let written = records
            .into_iter()
            .try_for_each(|record| record.write_to(&mut buffer))
            .and_then(|()| self.append_bytes(&buffer));
        self.buffer = buffer;
        written
    }

    /// Puts `records` in the place of all that is in the journal.
    ///
    /// # Errors
    /// As [`append`](Self::append); the journal is then as it was.
    pub(super) fn replace(&mut self, records: impl IntoIterator<Item = Record>) -> Result<()> {
        let mut bytes = MAGIC.to_vec();
        for record in records {
            record.write_to(&mut bytes)?;
        }
        let aside = self.path.with_file_name("aside");
        let file =
            write_aside(&aside, &self.path, &bytes).context("compact", self.path.display())?;
        self.file = file;
        self.length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.torn = false;
        self.reserved = 0;
        self.reserve();
        Ok(())
    }

    /// From now on writes fail, until the file is replaced.
    #[cfg(test)]
    pub(super) fn break_file(&mut self) {
        self.file = File::open(&self.path).unwrap();
    }

    fn append_bytes(&mut self, bytes: &[u8]) -> Result<()> {
        self.mend()?;
        // A write that fails half way, on a full disk, leaves a torn record.
        self.torn = true;
        self.file.write_all(bytes).context("append to", self.path.display())?;
        self.torn = false;
        self.length += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.reserve();
        Ok(())
    }

    /// Allocates space behind the end, when half of the last has been used.
    /// Without it the journal is as good, until the disk is full.
    fn reserve(&mut self) {
        if self.length + RESERVE / 2 <= self.reserved {
            return;
        }
        let from = off_t::try_from(self.length).unwrap_or(off_t::MAX);
        let flags = FallocateFlags::FALLOC_FL_KEEP_SIZE;
        match fallocate(&self.file, flags, from, RESERVE as off_t) {
            Ok(()) => {
                self.reserved = self.length + RESERVE;
                self.scarce = false;
            }
            Err(_) if self.scarce => {}
            Err(error) => {
                warn!(path = %self.path.display(), %error, "no space for events can be allocated ahead");
                self.scarce = true;
            }
        }
    }

    /// Cuts off a torn end.
    fn mend(&mut self) -> Result<()> {
        if self.torn {
            self.file.set_len(self.length).context("cut", self.path.display())?;
            self.torn = false;
            self.reserved = 0;
        }
        self.file.seek(SeekFrom::Start(self.length)).context("seek in", self.path.display())?;
        Ok(())
    }
}

/// Hands each whole record to `replay`; answers how many bytes were good.
fn replay_all(bytes: &[u8], replay: &mut impl FnMut(Record)) -> usize {
    let Some(mut rest) = bytes.strip_prefix(&MAGIC) else { return 0 };
    while let Some(record) = Record::take(&mut rest) {
        replay(record);
    }
    bytes.len() - rest.len()
}

fn write_aside(aside: &Path, path: &Path, bytes: &[u8]) -> io::Result<File> {
    let mut file = File::create(aside)?;
    let written = file.write_all(bytes).and_then(|()| fs::rename(aside, path));
    if let Err(error) = written {
        // Its space is needed; if that fails too, the next one overwrites it.
        drop(fs::remove_file(aside));
        return Err(error);
    }
    Ok(file)
}
