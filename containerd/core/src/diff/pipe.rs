//! What one thread reads and decompresses, and another one unpacks: pieces in
//! a few buffers that go round.

use std::{
    io::{self, BufRead, Read},
    sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel},
};

/// Length of a buffer. A multiple of the archive's blocks, so that none is torn.
pub(super) const BUFFER_BYTES: usize = 256 << 10;

/// How many buffers there are.
const BUFFERS: usize = 8;

struct Piece {
    buffer: Box<[u8]>,
    length: usize,
}

/// A pipe's two ends.
pub(super) fn pipe() -> (Inlet, Outlet) {
    let (sender, receiver) = sync_channel(BUFFERS);
    let (giver, spare) = channel();
    let empty = Piece { buffer: Box::default(), length: 0 };
    (Inlet { sender, spare, made: 0 }, Outlet { receiver, giver, piece: empty, position: 0 })
}

/// Where pieces go in.
pub(super) struct Inlet {
    sender: SyncSender<Piece>,
    spare: Receiver<Box<[u8]>>,
    made: usize,
}

impl Inlet {
    /// A buffer to fill; none when nobody reads any more.
    pub(super) fn buffer(&mut self) -> Option<Box<[u8]>> {
        if let Ok(buffer) = self.spare.try_recv() {
            return Some(buffer);
        }
        if self.made < BUFFERS {
            self.made += 1;
            return Some(vec![0; BUFFER_BYTES].into());
        }
        self.spare.recv().ok()
    }

    /// Hands on what a buffer begins with; `false` when nobody reads any more.
    pub(super) fn send(&mut self, buffer: Box<[u8]>, length: usize) -> bool {
        self.sender.send(Piece { buffer, length }).is_ok()
    }
}

/// Where pieces come out. It ends when the inlet is gone.
pub(super) struct Outlet {
    receiver: Receiver<Piece>,
    giver: Sender<Box<[u8]>>,
    piece: Piece,
    position: usize,
}

impl BufRead for Outlet {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.position == self.piece.length {
            let Ok(next) = self.receiver.recv() else { return Ok(&[]) };
            let used = std::mem::replace(&mut self.piece, next).buffer;
            if !used.is_empty() {
                // If nobody takes it, nothing more comes.
                let _ = self.giver.send(used);
            }
            self.position = 0;
        }
        Ok(&self.piece.buffer[self.position..self.piece.length])
    }

    fn consume(&mut self, amount: usize) {
        self.position = (self.position + amount).min(self.piece.length);
    }
}

impl Read for Outlet {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(buffer)?;
        self.consume(read);
        Ok(read)
    }
}
