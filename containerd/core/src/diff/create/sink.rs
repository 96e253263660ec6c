//! Where a layer goes: hashed, compressed, and sent in pieces.

use std::io::{self, Write};

use containerd_images::{Digest, Hasher};
use flate2::write::GzEncoder;
use shim_protocol::{Context, Result};
use tokio::sync::mpsc::Sender;

use crate::diff::compression::Compression;

/// How much is sent at once.
const PIECE_BYTES: usize = 256 << 10;

/// Sends what is written in pieces. Must be flushed in the end.
pub(super) struct Chunks {
    pieces: Sender<Vec<u8>>,
    piece: Vec<u8>,
}

impl Chunks {
    pub(super) fn new(pieces: Sender<Vec<u8>>) -> Self {
        Self { pieces, piece: Vec::with_capacity(PIECE_BYTES) }
    }
}

impl Write for Chunks {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let taken = data.len().min(PIECE_BYTES - self.piece.len());
        self.piece.extend_from_slice(&data[..taken]);
        if self.piece.len() == PIECE_BYTES {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE_BYTES));
        let sent = self.pieces.blocking_send(piece);
        sent.map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "nobody takes the layer"))
    }
}

/// Hashes what is written, and compresses it.
pub(super) struct Sink<W: Write> {
    hasher: Hasher,
    encoder: Encoder<W>,
}

enum Encoder<W: Write> {
    Plain(W),
    /// Its header has no time and no name.
    Gzip(Box<GzEncoder<W>>),
    Zstd(zstd::Encoder<'static, W>),
}

impl<W: Write> Sink<W> {
    pub(super) fn new(sink: W, compression: Compression) -> Result<Self> {
        let encoder = match compression {
            Compression::None => Encoder::Plain(sink),
            Compression::Gzip => {
                Encoder::Gzip(Box::new(GzEncoder::new(sink, flate2::Compression::default())))
            }
            Compression::Zstd => {
                let level = zstd::DEFAULT_COMPRESSION_LEVEL;
                Encoder::Zstd(zstd::Encoder::new(sink, level).context("prepare", "zstd")?)
            }
        };
        Ok(Self { hasher: Hasher::new(Default::default()), encoder })
    }

    /// Writes the end; answers the digest of what was written.
    pub(super) fn finish(self) -> Result<Digest> {
        let ended = match self.encoder {
            Encoder::Plain(sink) => Ok(sink),
            Encoder::Gzip(encoder) => encoder.finish(),
            Encoder::Zstd(encoder) => encoder.finish(),
        };
        ended.and_then(|mut sink| sink.flush()).context("write", "the layer")?;
        Ok(self.hasher.digest())
    }
}

impl<W: Write> Write for Sink<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let written = match &mut self.encoder {
            Encoder::Plain(sink) => sink.write(data),
            Encoder::Gzip(encoder) => encoder.write(data),
            Encoder::Zstd(encoder) => encoder.write(data),
        }?;
        self.hasher.update(&data[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.encoder {
            Encoder::Plain(sink) => sink.flush(),
            Encoder::Gzip(encoder) => encoder.flush(),
            Encoder::Zstd(encoder) => encoder.flush(),
        }
    }
}
