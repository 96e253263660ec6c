//! How layers are compressed: what media types say of it, and what the bytes do.

use std::io::{self, BufRead, BufReader, Read};

use containerd_images::media_type::{
    DOCKER_LAYER, DOCKER_LAYER_GZIP, DOCKER_LAYER_ZSTD, OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD,
};
use flate2::bufread::MultiGzDecoder;
use shim_protocol::{Context, Error, ErrorKind, Result};

/// How much of a blob is read at once.
const INPUT_BYTES: usize = 128 << 10;

const GZIP_MAGIC: [u8; 3] = [0x1f, 0x8b, 0x08];
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// The first frame may be one that holds no data (RFC 8878, 3.1.2); the low
/// four bits are free.
const ZSTD_SKIPPABLE_MAGIC: u32 = 0x184d_2a50;

/// How a layer is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compression {
    None,
    Gzip,
    Zstd,
}

/// What a media type says of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// It is an archive as it is.
    Plain,
    /// Some compression; as in containerd, the bytes say which. There are
    /// layers of Docker's that are not what their type says.
    ByMagic,
}

/// What the media type of a layer says.
///
/// # Errors
/// `Unimplemented` when it is no layer, or needs what we do not have: somebody
/// to decrypt it, for example.
pub(super) fn told(media_type: &str) -> Result<Told> {
    const OCI_FOREIGN: &str = "application/vnd.oci.image.layer.nondistributable.v1.tar";
    const DOCKER_FOREIGN: &str = "application/vnd.docker.image.rootfs.foreign.diff.tar";
    const DOCKER_FOREIGN_GZIP: &str = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
    let (base, suffix) = match media_type.split_once('+') {
        Some((base, suffix)) => (base, Some(suffix)),
        None => (media_type, None),
    };
    match (base, suffix) {
        (OCI_LAYER | OCI_FOREIGN, None) => Ok(Told::Plain),
        (OCI_LAYER | OCI_FOREIGN, Some("gzip" | "zstd")) => Ok(Told::ByMagic),
        (DOCKER_LAYER | DOCKER_LAYER_GZIP | DOCKER_LAYER_ZSTD, None)
        | (DOCKER_FOREIGN | DOCKER_FOREIGN_GZIP, None) => Ok(Told::ByMagic),
        (OCI_LAYER | OCI_FOREIGN | DOCKER_LAYER | DOCKER_LAYER_GZIP, Some(_)) => {
            Err(Error::unimplemented(format!(
                "layers of type {media_type:?} need a stream processor, and there is none"
            )))
        }
        _ => Err(Error::unimplemented(format!("{media_type:?} is no type of layers"))),
    }
}

/// The compression of a layer that is to be made.
///
/// # Errors
/// `Unimplemented` when it is none that we make.
pub(super) fn wanted(media_type: &str) -> Result<Compression> {
    match media_type {
        OCI_LAYER | DOCKER_LAYER => Ok(Compression::None),
        OCI_LAYER_GZIP | DOCKER_LAYER_GZIP => Ok(Compression::Gzip),
        OCI_LAYER_ZSTD | DOCKER_LAYER_ZSTD => Ok(Compression::Zstd),
        other => Err(Error::unimplemented(format!("cannot make layers of type {other:?}"))),
    }
}

/// What the first bytes look like.
fn detect(start: &[u8]) -> Compression {
    let skippable = start.first_chunk().is_some_and(|first: &[u8; 4]| {
        u32::from_le_bytes(*first) & 0xffff_fff0 == ZSTD_SKIPPABLE_MAGIC
    });
    if start.starts_with(&GZIP_MAGIC) {
        Compression::Gzip
    } else if start.starts_with(&ZSTD_MAGIC) || (skippable && start.len() >= 8) {
        Compression::Zstd
    } else {
        Compression::None
    }
}

/// Reads what a layer is without its compression: all members of a gzip file
/// and all frames of a zstd one. Anything else behind them is an error.
pub(super) enum Decoder<R: Read> {
    Plain(BufReader<R>),
    Gzip(Box<MultiGzDecoder<BufReader<R>>>),
    Zstd(zstd::Decoder<'static, BufReader<R>>),
}

impl<R: Read> Decoder<R> {
    /// Looks at the beginning of `source`.
    ///
    /// # Errors
    /// Those of the source.
    pub(super) fn new(source: R, told: Told) -> Result<Self> {
        let mut source = BufReader::with_capacity(INPUT_BYTES, source);
        let compression = match told {
            Told::Plain => Compression::None,
            Told::ByMagic => detect(source.fill_buf().map_err(of_source)?),
        };
        Ok(match compression {
            Compression::None => Self::Plain(source),
            Compression::Gzip => Self::Gzip(Box::new(MultiGzDecoder::new(source))),
            Compression::Zstd => {
                let decoder = zstd::Decoder::with_buffer(source);
                Self::Zstd(decoder.context("prepare", "zstd")?)
            }
        })
    }

    /// Whether what comes out is what goes in.
    pub(super) fn is_plain(&self) -> bool {
        matches!(self, Self::Plain(_))
    }

    /// Fills `buffer`; answers how much of it, which is less than all at the
    /// end only.
    ///
    /// # Errors
    /// `DataLoss` when the compressed data ends too early, `InvalidArgument`
    /// when it is no such data; those of the source.
    pub(super) fn fill(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            let rest = &mut buffer[filled..];
            let read = match self {
                Self::Plain(source) => source.read(rest),
                Self::Gzip(decoder) => decoder.read(rest),
                Self::Zstd(decoder) => decoder.read(rest),
            };
            match read {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(of_source(e)),
            }
        }
        Ok(filled)
    }
}

/// An error of the source is wrapped in the decoder's.
fn of_source(error: io::Error) -> Error {
    let kind = match error.kind() {
        io::ErrorKind::UnexpectedEof => ErrorKind::DataLoss,
        _ => ErrorKind::InvalidArgument,
    };
    match error.downcast::<Error>() {
        Ok(own) => own,
        Err(error) => Error::caused(kind, "decompress the layer", error),
    }
}
