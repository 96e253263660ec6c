//! Files with holes: where their data goes.

use shim_protocol::Result;

use super::{
    header::{Header, number},
    malformed,
};

/// The most pieces that one file may have: as many as GNU's headers describe in
/// some MiB.
pub(super) const MAX_PIECES: usize = 1 << 18;

/// Offsets and lengths, in order.
pub(super) type Map = Vec<(u64, u64)>;

/// Reads the fields of a header of the old format, or of a block behind one.
/// Answers whether another such block follows.
///
/// # Errors
/// `InvalidArgument`.
pub(super) fn read_old(block: &Header, is_first: bool, map: &mut Map) -> Result<bool> {
    let (start, count, more) = if is_first { (386, 4, 482) } else { (0, 21, 504) };
    for piece in block.0[start..start + count * 24].chunks_exact(24) {
        if piece[0] == 0 {
            break;
        }
        let field = |field: &[u8]| number(field).and_then(|value| u64::try_from(value).ok());
        let piece = field(&piece[..12]).zip(field(&piece[12..]));
        map.push(piece.ok_or_else(|| malformed("map of a sparse file"))?);
    }
    if map.len() > MAX_PIECES {
        return Err(malformed("a sparse file has too many pieces"));
    }
    Ok(block.0[more] != 0)
}

/// Pairs of offsets and lengths from a flat list.
///
/// # Errors
/// `InvalidArgument`.
pub(super) fn from_list(list: &[u64]) -> Result<Map> {
    if !list.len().is_multiple_of(2) {
        return Err(malformed("map of a sparse file"));
    }
    Ok(list.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
}

/// Checks that the pieces are in order, lie in a file of `size` bytes, and hold
/// the `stored` bytes that the archive has.
///
/// # Errors
/// `InvalidArgument`.
pub(super) fn check(map: &Map, size: u64, stored: u64) -> Result<()> {
    let (mut end, mut total) = (0_u64, 0_u64);
    for (offset, length) in map {
        if *offset < end {
            return Err(malformed("pieces of a sparse file are out of order"));
        }
        end = offset
            .checked_add(*length)
            .filter(|end| *end <= size)
            .ok_or_else(|| malformed("a piece of a sparse file is beyond its end"))?;
        // Cannot overflow: the pieces do not overlap.
        total += length;
    }
    if total == stored {
        Ok(())
    } else {
        Err(malformed("a sparse file has more or less data than its map says"))
    }
}
