//! As much of HPACK (RFC 7541) as it takes to find and replace a literal
//! `:authority` in a header block, and nothing that needs a table.

use tonic::codegen::http::uri::Authority;

/// Index of `:authority` in the static table, RFC 7541 appendix A.
const AUTHORITY: usize = 1;

/// Symbols of Huffman codes by their length in bits, each in the order of its
/// codes. The code is canonical (RFC 7541 appendix B), so this is all of it;
/// left out are symbols longer than 15 bits, which no path has.
const SYMBOLS: [&[u8]; 16] = [
    b"",
    b"",
    b"",
    b"",
    b"",
    b"012aceiost",
    b" %-./3456789=A_bdfghlmnpru",
    b":BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz",
    b"&*,;XZ",
    b"",
    b"!\"()?",
    b"'+|",
    b"#>",
    b"\0$@[]~",
    b"^}",
    b"<`{",
];

/// The header block with every literal `:authority` that is none replaced by
/// one of the same length. `None` if there is nothing to replace.
pub(super) fn mend(block: &[u8]) -> Option<Vec<u8>> {
    let mut mended: Option<Vec<u8>> = None;
    let mut at = 0;
    while let Some(field) = Field::read(&block[at..]) {
        let bytes = &block[at..at + field.length];
        at += field.length;
        let replacement = field.authority.and_then(|value| proper(&value));
        match (&mut mended, replacement) {
            (None, None) => {}
            (Some(mended), None) => mended.extend_from_slice(bytes),
            (mended, Some(value)) => {
                let out = mended.get_or_insert_with(|| block[..at - field.length].to_vec());
                out.push(bytes[0]);
                write_integer(out, 7, value.len());
                out.extend(value);
            }
        }
    }
    // Whatever could not be read is left to the real decoder.
    if let Some(mended) = &mut mended {
        mended.extend_from_slice(&block[at..]);
    }
    mended
}

/// A proper authority of the same length, if `value` is not one itself.
fn proper(value: &[u8]) -> Option<Vec<u8>> {
    if value.is_empty() || Authority::try_from(value).is_ok() {
        return None;
    }
    Some(value.iter().map(|&b| if b.is_ascii_alphanumeric() { b } else { b'-' }).collect())
}

/// One field of a header block, RFC 7541 section 6.
struct Field {
    /// Length of its representation in bytes.
    length: usize,
    /// Its value, if it is a literal `:authority` by the static table's name.
    authority: Option<Vec<u8>>,
}

impl Field {
    /// `None` at the end of the block, and if the field is broken or goes on
    /// in another frame.
    fn read(bytes: &[u8]) -> Option<Self> {
        let first = *bytes.first()?;
        let (prefix, literal) = match first {
            0x80.. => (7, false),
            0x40.. => (6, true),
            0x20.. => (5, false),
            _ => (4, true),
        };
        let (index, mut length) = read_integer(bytes, prefix)?;
        if !literal {
            return Some(Self { length, authority: None });
        }
        if index == 0 {
            length += Text::read(&bytes[length..])?.length;
        }
        let value = Text::read(&bytes[length..])?;
        length += value.length;
        // The index of the name must be in the first byte, which is kept.
        let authority = (index == AUTHORITY).then(|| value.decode()).flatten();
        Some(Self { length, authority })
    }
}

/// A string literal, RFC 7541 section 5.2.
struct Text<'a> {
    length: usize,
    huffman: bool,
    data: &'a [u8],
}

impl<'a> Text<'a> {
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let huffman = bytes.first()? & 0x80 != 0;
        let (size, begin) = read_integer(bytes, 7)?;
        let length = begin.checked_add(size)?;
        Some(Self { length, huffman, data: bytes.get(begin..length)? })
    }

    /// `None` if it has a symbol that is not in [`SYMBOLS`].
    fn decode(&self) -> Option<Vec<u8>> {
        if !self.huffman {
            return Some(self.data.to_vec());
        }
        let mut text = Vec::with_capacity(self.data.len() * 8 / 5);
        // Of a canonical code: the bits so far, how many, and the first code of that length.
        let (mut code, mut bits, mut first) = (0usize, 0usize, 0usize);
        for byte in self.data {
            for shift in (0..8).rev() {
                code = code << 1 | usize::from(byte >> shift & 1);
                first = (first + SYMBOLS[bits].len()) << 1;
                bits += 1;
                let symbols = *SYMBOLS.get(bits)?;
                if let Some(symbol) = symbols.get(code - first) {
                    text.push(*symbol);
                    (code, bits, first) = (0, 0, 0);
                }
            }
        }
        // What is left is padding: ones, and fewer than a byte.
        (bits < 8).then_some(text)
    }
}

/// An integer and the number of bytes it takes, RFC 7541 section 5.1.
fn read_integer(bytes: &[u8], prefix: u32) -> Option<(usize, usize)> {
    let mask = (1usize << prefix) - 1;
    let mut value = usize::from(*bytes.first()?) & mask;
    if value < mask {
        return Some((value, 1));
    }
    // Four more bytes hold any length that fits into a frame.
    for (position, &byte) in bytes.iter().enumerate().skip(1).take(4) {
        value += usize::from(byte & 0x7f) << (7 * (position - 1));
        if byte & 0x80 == 0 {
            return Some((value, position + 1));
        }
    }
    None
}

/// Writes an integer whose first byte has no other bits set.
fn write_integer(out: &mut Vec<u8>, prefix: u32, value: usize) {
    let mask = (1usize << prefix) - 1;
    if value < mask {
        out.push(value as u8);
        return;
    }
    out.push(mask as u8);
    let mut rest = value - mask;
    while rest >= 0x80 {
        out.push(0x80 | (rest & 0x7f) as u8);
        rest >>= 7;
    }
    out.push(rest as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn huffman(data: &[u8]) -> Option<Vec<u8>> {
        Text { length: 0, huffman: true, data }.decode()
    }

    /// From RFC 7541 appendix C.4, and as Go's clients write it.
    #[test]
    fn huffman_codes() {
        let example = [0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff];
        assert_eq!(huffman(&example).unwrap(), b"www.example.com");
        let localhost = [0xa0, 0xe4, 0x1d, 0x13, 0x9d, 0x09];
        assert_eq!(huffman(&localhost).unwrap(), b"localhost");
        // Of appendix C.6.1, with ':' and ','.
        let date = [
            0xd0, 0x7a, 0xbe, 0x94, 0x10, 0x54, 0xd4, 0x44, 0xa8, 0x20, 0x05, 0x95, 0x04, 0x0b,
            0x81, 0x66, 0xe0, 0x82, 0xa6, 0x2d, 0x1b, 0xff,
        ];
        assert_eq!(huffman(&date).unwrap(), b"Mon, 21 Oct 2013 20:13:21 GMT");
    }

    #[test]
    fn unknown_symbols_and_bad_padding_are_left_alone() {
        assert_eq!(huffman(&[0xff; 8]), None);
    }

    #[test]
    fn integers_come_back() {
        for value in [0, 1, 30, 126, 127, 128, 254, 255, 1337, 16_384] {
            let mut bytes = Vec::new();
            write_integer(&mut bytes, 7, value);
            assert_eq!(read_integer(&bytes, 7), Some((value, bytes.len())));
        }
        assert_eq!(read_integer(&[0x7f, 0x80, 0x80, 0x80, 0x80, 0x01], 7), None);
    }

    #[test]
    fn a_path_becomes_an_authority_of_the_same_length() {
        // :method POST, :authority (literal, indexed), then a cut-off field.
        let mut block = vec![0x83, 0x41, 0x06];
        block.extend(b"/a/b.c");
        block.extend([0x40, 0x7f]);
        let mut expected = vec![0x83, 0x41, 0x06];
        expected.extend(b"-a-b-c");
        expected.extend([0x40, 0x7f]);
        assert_eq!(mend(&block), Some(expected));
    }

    #[test]
    fn good_blocks_are_left_alone() {
        let localhost = [0x83, 0x86, 0x41, 0x86, 0xa0, 0xe4, 0x1d, 0x13, 0x9d, 0x09];
        assert_eq!(mend(&localhost), None);
        assert_eq!(mend(&[]), None);
        // A path in another header is nobody's business.
        let mut block = vec![0x44, 0x02];
        block.extend(b"/x");
        assert_eq!(mend(&block), None);
    }
}
