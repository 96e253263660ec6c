//! How layers and archives are compressed.

use std::{
    collections::BTreeMap,
    io::{self, BufReader, Read, Write},
};

use bytes::Bytes;
use flate2::{read::MultiGzDecoder, write::GzEncoder};
use shim_protocol::{Context, Error, ErrorKind, Result};
use tokio_util::sync::CancellationToken;

use crate::{
    Algorithm, Digest, Hasher,
    pipe::{self, Feed, Outlet, PIECE_BYTES},
    store::{ContentStore, TRIES, give_up},
    unique::unique,
    unpack::{UNCOMPRESSED_LABEL, stopped},
};

/// The largest window of zstd that is unpacked, as a power of two: 128 MiB, as
/// zstd's own program has it.
const MAX_WINDOW_LOG: u32 = 27;

/// A way to compress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// None.
    None,
    /// gzip.
    Gzip,
    /// zstd.
    Zstd,
}

impl Compression {
    /// What content that begins like this is compressed with.
    pub fn of(beginning: &[u8]) -> Self {
        match beginning {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::None,
        }
    }
}

/// What content in the store is compressed with.
///
/// # Errors
/// `NotFound` when it is not there; those of the store.
pub async fn detect(content: &dyn ContentStore, digest: &Digest) -> Result<Compression> {
    let mut reader = content.read(digest, 0).await?;
    let mut beginning = Vec::new();
    while beginning.len() < 4 {
        let Some(piece) = reader.next().await? else { break };
        beginning.extend_from_slice(&piece);
    }
    Ok(Compression::of(&beginning))
}

/// Unpacks what is compressed, whichever way it is.
pub(crate) fn reader(mut feed: Feed) -> Result<Box<dyn Read>> {
    let mut beginning = Vec::new();
    feed.by_ref().take(4).read_to_end(&mut beginning).context("read", "archive")?;
    let compression = Compression::of(&beginning);
    let input = BufReader::new(io::Cursor::new(beginning).chain(feed));
    Ok(match compression {
        Compression::None => Box::new(input),
        Compression::Gzip => Box::new(MultiGzDecoder::new(input)),
        Compression::Zstd => {
            let mut decoder =
                zstd::stream::read::Decoder::with_buffer(input).context("read", "archive")?;
            decoder.window_log_max(MAX_WINDOW_LOG).context("read", "archive")?;
            Box::new(decoder)
        }
    })
}

/// Makes of content in the store the same, compressed in another way; answers its
/// digest and size. A label of it says what it is without compression.
///
/// # Errors
/// `NotFound` when it is not there; `DataLoss` or `InvalidArgument` when it
/// cannot be unpacked; `Cancelled` when it was ended before its time; those of
/// the store.
pub async fn convert(
    content: &dyn ContentStore,
    digest: &Digest,
    to: Compression,
    stop: &CancellationToken,
) -> Result<(Digest, u64)> {
    for _ in 1..TRIES {
        match convert_once(content, digest, to, stop).await {
            // The same was there, and went before it could be kept.
            Err(e) if e.kind() == ErrorKind::Aborted => {}
            converted => return converted,
        }
    }
    convert_once(content, digest, to, stop).await
}

async fn convert_once(
    content: &dyn ContentStore,
    digest: &Digest,
    to: Compression,
    stop: &CancellationToken,
) -> Result<(Digest, u64)> {
    let reference = format!("{}-{digest}", unique("convert"));
    let source = content.read(digest, 0).await?;
    let mut writer = content.write(&reference, 0, None).await?;
    if writer.offset() > 0 {
        writer.clear().await?;
    }
    let work = move |feed: Feed, made: Outlet<Made>| compress(feed, to, &made);
    let converted = pipe::through(source, work, |mut made| async move {
        let mut end = None;
        let taken = stop.run_until_cancelled(async {
            while let Some(part) = made.recv().await {
                match part {
                    Made::Data(piece) => writer.write(piece).await?,
                    Made::End { plain, made } => end = Some((plain, made)),
                }
            }
            Ok(())
        });
        taken.await.unwrap_or_else(|| Err(stopped()))?;
        let early = || Error::new(ErrorKind::DataLoss, "the conversion ended too early");
        end.map(|end| (writer, end)).ok_or_else(early)
    });
    let (writer, (plain, made)) = match converted.await {
        Ok(converted) => converted,
        Err(error) => {
            give_up(content, &reference).await;
            return Err(error).context("convert", digest);
        }
    };
    let size = writer.offset();
    let label = BTreeMap::from([(UNCOMPRESSED_LABEL.to_owned(), plain.to_string())]);
    match writer.commit(size, Some(&made), label.clone()).await {
        Err(e) if e.kind() == ErrorKind::AlreadyExists => {
            content.set_labels(&made, label).await?;
        }
        Err(error) => {
            give_up(content, &reference).await;
            return Err(error).context("convert", digest);
        }
        Ok(_) => {}
    }
    Ok((made, size))
}

/// What compression makes.
enum Made {
    Data(Bytes),
    /// All is there. Its digest without compression, and with it.
    End {
        plain: Digest,
        made: Digest,
    },
}

fn compress(feed: Feed, to: Compression, made: &Outlet<Made>) -> Result<()> {
    let mut plain = reader(feed)?;
    let pieces = Pieces { made, piece: Vec::new(), hasher: Hasher::new(Algorithm::Sha256) };
    let failed = |e: io::Error| Error::caused(ErrorKind::DataLoss, "unpack it", e);
    let mut hasher = Hasher::new(Algorithm::Sha256);
    let mut copy = |output: &mut dyn Write| -> Result<()> {
        let mut buffer = vec![0; PIECE_BYTES];
        loop {
            let length = plain.read(&mut buffer).map_err(failed)?;
            if length == 0 {
                return Ok(());
            }
            hasher.update(&buffer[..length]);
            output.write_all(&buffer[..length]).context("compress", "it")?;
        }
    };
    let mut pieces = match to {
        Compression::None => {
            let mut pieces = pieces;
            copy(&mut pieces)?;
            pieces
        }
        Compression::Gzip => {
            let mut encoder = GzEncoder::new(pieces, flate2::Compression::default());
            copy(&mut encoder)?;
            encoder.finish().context("compress", "it")?
        }
        Compression::Zstd => {
            let encoder =
                zstd::stream::write::Encoder::new(pieces, zstd::DEFAULT_COMPRESSION_LEVEL);
            let mut encoder = encoder.context("compress", "it")?;
            copy(&mut encoder)?;
            encoder.finish().context("compress", "it")?
        }
    };
    pieces.flush().context("compress", "it")?;
    made.put(Made::End { plain: hasher.digest(), made: pieces.hasher.digest() })
}

/// Puts what is written into pieces.
struct Pieces<'a> {
    made: &'a Outlet<Made>,
    piece: Vec<u8>,
    hasher: Hasher,
}

impl Write for Pieces<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.piece.extend_from_slice(data);
        if self.piece.len() >= PIECE_BYTES {
            self.flush()?;
        }
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let piece = std::mem::take(&mut self.piece);
        self.hasher.update(&piece);
        match piece.is_empty() {
            true => Ok(()),
            false => self.made.put(Made::Data(piece.into())).map_err(io::Error::other),
        }
    }
}
