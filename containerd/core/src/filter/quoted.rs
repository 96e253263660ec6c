//! Quoted fields and values: Go's string literals, with `/` and `|` as two
//! more quotes.

/// Where in the text it went wrong, in bytes from its start, and why.
pub(super) type Refusal = (usize, &'static str);

/// Decodes the literal that `text` begins with, up to its closing `quote`.
/// Answers the value and how many bytes of `text` it took, quotes included.
pub(super) fn unquote(text: &str, quote: char) -> Result<(String, usize), Refusal> {
    // Bytes, since "\xff" stands for a byte and several may make a character.
    let mut value = Vec::new();
    let mut rest = text.char_indices().skip(1);
    while let Some((at, c)) = rest.next() {
        match c {
            c if c == quote => {
                let value = String::from_utf8(value).map_err(|_| (0, "value is not UTF-8"))?;
                return Ok((value, at + c.len_utf8()));
            }
            '\n' => return Err((at, "line break in a quoted value")),
            '\0' => return Err((at, "NUL in a quoted value")),
            '\\' => escape(&mut rest, quote, &mut value).map_err(|why| (at, why))?,
            c => push(&mut value, c),
        }
    }
    Err((0, "quoted value has no end"))
}

fn escape(
    rest: &mut impl Iterator<Item = (usize, char)>,
    quote: char,
    value: &mut Vec<u8>,
) -> Result<(), &'static str> {
    let Some((_, c)) = rest.next() else { return Err("quoted value has no end") };
    match c {
        'a' => value.push(0x07),
        'b' => value.push(0x08),
        'f' => value.push(0x0c),
        'n' => value.push(b'\n'),
        'r' => value.push(b'\r'),
        't' => value.push(b'\t'),
        'v' => value.push(0x0b),
        '\\' => value.push(b'\\'),
        c if c == quote => push(value, c),
        '0'..='7' => {
            let high = c.to_digit(8).unwrap_or_default();
            value.push(byte(high << 6 | number(rest, 8, 2)?)?);
        }
        'x' => value.push(byte(number(rest, 16, 2)?)?),
        'u' => push(value, character(number(rest, 16, 4)?)?),
        'U' => push(value, character(number(rest, 16, 8)?)?),
        _ => return Err("no such escape"),
    }
    Ok(())
}

/// The number of exactly `digits` digits that comes next; 8 hexadecimal ones
/// are the most, so it cannot overflow.
fn number(
    rest: &mut impl Iterator<Item = (usize, char)>,
    base: u32,
    digits: usize,
) -> Result<u32, &'static str> {
    let mut number = 0;
    for _ in 0..digits {
        let digit = rest.next().and_then(|(_, c)| c.to_digit(base));
        number = number * base + digit.ok_or("too few digits in an escape")?;
    }
    Ok(number)
}

fn byte(number: u32) -> Result<u8, &'static str> {
    u8::try_from(number).map_err(|_| "escape stands for no byte")
}

fn character(number: u32) -> Result<char, &'static str> {
    char::from_u32(number).ok_or("escape stands for no character")
}

fn push(value: &mut Vec<u8>, c: char) {
    value.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
}
