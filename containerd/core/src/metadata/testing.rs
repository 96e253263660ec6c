//! A disk for tests: it can lose power between any two operations, fill up,
//! and be slow for as long as a test wants.

use std::{
    io,
    path::Path,
    sync::{Arc, Condvar, Mutex, MutexGuard},
};

use redb::StorageBackend;
use shim_protocol::Result;

use super::db::{Db, open_backend};

/// What a torn write is made of.
const SECTOR_BYTES: usize = 512;

/// A disk in memory. All clones are one disk.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// What reads see.
    live: Vec<u8>,
    /// What is certain to survive a loss of power.
    durable: Vec<u8>,
    /// What may or may not, each by itself.
    pending: Vec<Operation>,
    /// Writes, changes of length and syncs so far.
    operations: u64,
    syncs: u64,
    /// Operations after this many fail.
    power_off_after: Option<u64>,
    /// Nothing can grow; the blocks that are there can be written.
    full: bool,
    /// While set, syncs wait.
    held: bool,
    /// Syncs that wait.
    waiting: usize,
}

#[derive(Clone, Debug)]
enum Operation {
    Write(usize, Vec<u8>),
    Length(usize),
}

impl Operation {
    /// The length that a disk must have for it.
    fn end(&self) -> usize {
        match self {
            Self::Write(offset, data) => offset + data.len(),
            Self::Length(length) => *length,
        }
    }

    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Write(offset, data) => {
                if bytes.len() < self.end() {
                    bytes.resize(self.end(), 0);
                }
                bytes[*offset..self.end()].copy_from_slice(data);
            }
            Self::Length(length) => bytes.resize(*length, 0),
        }
    }
}

impl Disk {
    /// The database on this disk, made if there is none.
    pub(crate) fn open(&self) -> Result<Db> {
        let disk = self.clone();
        Db::start(Box::new(move || open_backend(Path::new("/test"), disk.clone())))
    }

    /// A disk that loses power after so many operations more.
    pub(crate) fn power_off_after(&self, operations: u64) {
        let mut state = self.state();
        state.power_off_after = Some(state.operations + operations);
    }

    /// A disk with what the loss of power left: all that was synced, and of
    /// the rest whatever `random` chooses, down to parts of single writes.
    pub(crate) fn after_power_loss(&self, random: &mut Random) -> Self {
        let state = self.state();
        let mut bytes = state.durable.clone();
        for operation in &state.pending {
            match operation {
                _ if random.below(3) == 0 => {}
                Operation::Write(offset, data) if random.below(3) == 0 => {
                    for (i, sector) in data.chunks(SECTOR_BYTES).enumerate() {
                        if random.below(2) == 0 {
                            let offset = offset + i * SECTOR_BYTES;
                            Operation::Write(offset, sector.to_vec()).apply(&mut bytes);
                        }
                    }
                }
                operation => operation.apply(&mut bytes),
            }
        }
        let disk = Self::default();
        disk.state().live = bytes.clone();
        disk.state().durable = bytes;
        disk
    }

    /// From now on the file cannot grow, or it can again.
    pub(crate) fn set_full(&self, full: bool) {
        self.state().full = full;
    }

    /// From now on syncs wait, or go on.
    pub(crate) fn hold(&self, held: bool) {
        self.state().held = held;
        self.0.changed.notify_all();
    }

    /// Blocks until a sync waits.
    pub(crate) fn until_held(&self) {
        let state = self.state();
        drop(self.0.changed.wait_while(state, |state| state.waiting == 0).unwrap());
    }

    /// Writes, changes of length and syncs so far.
    pub(crate) fn operations(&self) -> u64 {
        self.state().operations
    }

    /// Syncs so far.
    pub(crate) fn syncs(&self) -> u64 {
        self.state().syncs
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap()
    }

    fn operate(&self, operation: Operation) -> io::Result<()> {
        let mut state = self.state();
        state.power()?;
        if state.full && operation.end() > state.live.len() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        operation.apply(&mut state.live);
        state.pending.push(operation);
        Ok(())
    }
}

impl State {
    fn power(&mut self) -> io::Result<()> {
        self.operations += 1;
        match self.power_off_after {
            Some(last) if self.operations > last => Err(io::Error::other("power is off")),
            _ => Ok(()),
        }
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.state().live.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let offset = offset as usize;
        match self.state().live.get(offset..offset + out.len()) {
            Some(bytes) => out.copy_from_slice(bytes),
            None => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.operate(Operation::Length(len as usize))
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.state();
        state.waiting += 1;
        self.0.changed.notify_all();
        state = self.0.changed.wait_while(state, |state| state.held).unwrap();
        state.waiting -= 1;
        state.power()?;
        state.syncs += 1;
        state.durable = state.live.clone();
        state.pending.clear();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.operate(Operation::Write(offset as usize, data.to_vec()))
    }
}

/// Numbers that look random and are the same in each run (xorshift64*).
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `limit`, which is not 0.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(number).unwrap() % limit
    }
}
