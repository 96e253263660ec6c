//! How far subscribers were served: for those that come back after a restart
//! and cannot say what they have seen.
//!
//! ```text
//! <folder>/delivered   numbers of 8 bytes, little-endian
//!
//!  ├─ timestamp up to which somebody has taken all events
//!  ├─ name of a subscriber, hashed; 0: nobody's place ─┐
//!  ├─ timestamp up to which it has taken all events   ─┘ any number of these
//! ```
//!
//! What a daemon had journaled but not given to a subscriber when it ended is
//! told again when that one comes back after boot. Each note is one write of
//! eight or sixteen bytes to the page cache, which is whole or not done.

use std::{
    fs::{File, OpenOptions},
    io::Read,
    os::unix::fs::FileExt,
    path::Path,
};

use sha2::{Digest, Sha256};
use shim_protocol::{Context, Result};
use tracing::warn;

use super::Timestamp;

/// Bytes of a number.
const NUMBER: usize = 8;
/// Bytes of a subscriber's place.
const PLACE: usize = 2 * NUMBER;

/// A subscriber's place among the notes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place(usize);

/// What is noted of one subscriber.
#[derive(Clone, Copy, Debug)]
struct Note {
    name: Name,
    at: Timestamp,
    /// It is not there now, and may come back.
    away: bool,
}

/// The beginning of a name's digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Name(u64);

impl Name {
    const NONE: Self = Self(0);

    fn new(text: &str) -> Self {
        let digest = Sha256::digest(text);
        let number =
            digest.iter().take(NUMBER).fold(0, |number, byte| number << 8 | u64::from(*byte));
        Self(number.max(1))
    }
}

/// How far all, and those that have a name, have taken events.
#[derive(Debug)]
pub(super) struct Delivered {
    file: File,
    at: Timestamp,
    /// By place; none where it is free.
    notes: Vec<Option<Note>>,
    failing: bool,
}

impl Delivered {
    /// Reads what an earlier daemon has noted; nothing noted is zero. All
    /// subscribers are away.
    ///
    /// # Errors
    /// When the file cannot be made or read.
    pub(super) fn open(folder: &Path) -> Result<Self> {
        let path = folder.join("delivered");
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(&path).context("open", path.display())?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).context("read", path.display())?;
        let mut numbers = bytes
            .chunks_exact(NUMBER)
            .map(|bytes| bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)));
        let at = Timestamp::from_nanos(numbers.next().unwrap_or_default());
        let mut notes = Vec::new();
        while let (Some(name), Some(at)) = (numbers.next(), numbers.next()) {
            let note = Note { name: Name(name), at: Timestamp::from_nanos(at), away: true };
            notes.push((note.name != Name::NONE).then_some(note));
        }
        Ok(Self { file, at, notes, failing: false })
    }

    pub(super) fn at(&self) -> Timestamp {
        self.at
    }

    /// Notes that all events up to `at` were taken by somebody, or are for
    /// nobody.
    pub(super) fn advance(&mut self, at: Timestamp) {
        if at <= self.at {
            return;
        }
        self.at = at;
        self.write(&at.as_nanos().to_le_bytes(), 0);
    }

    /// A subscriber comes that begins at `at`.
    pub(super) fn come(&mut self, name: &str, at: Timestamp) -> Place {
        let note = Note { name: Name::new(name), at, away: false };
        let free = self.notes.iter().position(Option::is_none);
        let place = free.unwrap_or_else(|| {
            self.notes.push(None);
            self.notes.len() - 1
        });
        self.put(place, Some(note));
        Place(place)
    }

    /// A subscriber comes back; answers where it left off. None if no one of
    /// that name is away. Of several it is the one that lags most.
    pub(super) fn come_back(&mut self, name: &str) -> Option<(Place, Timestamp)> {
        let name = Name::new(name);
        let notes = self.notes.iter_mut().enumerate();
        let away = notes.filter_map(|(place, note)| Some((place, note.as_mut()?)));
        let (place, note) = away
            .filter(|(_, note)| note.away && note.name == name)
            .min_by_key(|(_, note)| note.at)?;
        note.away = false;
        Some((Place(place), note.at))
    }

    /// The subscriber of a place has taken all events up to `at`.
    pub(super) fn taken(&mut self, place: &Place, at: Timestamp) {
        if let Some(note) = self.notes[place.0]
            && note.at < at
        {
            self.put(place.0, Some(Note { at, ..note }));
        }
    }

    /// A subscriber goes; it is known again when it comes back.
    pub(super) fn go(&mut self, place: Place) {
        if let Some(note) = &mut self.notes[place.0] {
            note.away = true;
        }
    }

    /// Whoever is away will not come back.
    pub(super) fn forget_away(&mut self) {
        for place in 0..self.notes.len() {
            if self.notes[place].is_some_and(|note| note.away) {
                self.put(place, None);
            }
        }
    }

    fn put(&mut self, place: usize, note: Option<Note>) {
        self.notes[place] = note;
        let (name, at) = note.map_or((Name::NONE, Timestamp::ZERO), |note| (note.name, note.at));
        let mut bytes = [0; PLACE];
        bytes[..NUMBER].copy_from_slice(&name.0.to_le_bytes());
        bytes[NUMBER..].copy_from_slice(&at.as_nanos().to_le_bytes());
        self.write(&bytes, NUMBER + place * PLACE);
    }

    fn write(&mut self, bytes: &[u8], offset: usize) {
        let written = self.file.write_all_at(bytes, offset as u64);
        // Without the note some events may be told twice after a restart.
        if let Err(error) = &written
            && !self.failing
        {
            warn!(%error, "how far events were delivered is not kept now");
        }
        self.failing = written.is_err();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(nanos: u64) -> Timestamp {
        Timestamp::from_nanos(nanos)
    }

    #[test]
    fn subscribers_are_known_again_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let mut delivered = Delivered::open(folder.path()).unwrap();
        let (a, b) = (delivered.come("a", at(1)), delivered.come("b", at(2)));
        let again = delivered.come("a", at(3));
        delivered.advance(at(9));
        delivered.taken(&b, at(5));
        delivered.taken(&b, at(4));
        assert_eq!(delivered.come_back("a"), None, "none is away");
        delivered.go(a);
        assert_eq!(delivered.come_back("a"), Some((Place(0), at(1))));
        delivered.go(again);

        // Killed: all are away.
        let mut delivered = Delivered::open(folder.path()).unwrap();
        assert_eq!(delivered.at(), at(9));
        let back = [delivered.come_back("a"), delivered.come_back("a"), delivered.come_back("b")];
        let expected = [(Place(0), at(1)), (Place(2), at(3)), (Place(1), at(5))];
        assert_eq!(back, expected.map(Some));
        assert_eq!(delivered.come_back("c"), None);
        delivered.go(Place(1));
        delivered.forget_away();
        assert_eq!(delivered.come("c", at(7)), Place(1));

        let mut delivered = Delivered::open(folder.path()).unwrap();
        assert_eq!(delivered.come_back("b"), None);
        assert_eq!(delivered.come_back("c"), Some((Place(1), at(7))));
    }

    #[test]
    fn a_note_without_subscribers_is_read() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("delivered"), 7_u64.to_le_bytes()).unwrap();
        assert_eq!(Delivered::open(folder.path()).unwrap().at(), at(7));
        std::fs::write(folder.path().join("delivered"), [1, 2, 3]).unwrap();
        assert_eq!(Delivered::open(folder.path()).unwrap().at(), Timestamp::ZERO);
    }
}
