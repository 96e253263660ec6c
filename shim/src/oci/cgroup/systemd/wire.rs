//! Messages of D-Bus, as far as systemd's manager needs them (D-Bus
//! specification, "Type System" and "Message Protocol").

use std::io::Read;

use shim_protocol::{Context, Error, ErrorKind, Result};

/// Message types.
pub(super) const CALL: u8 = 1;
pub(super) const ANSWER: u8 = 2;
pub(super) const ERROR: u8 = 3;
pub(super) const SIGNAL: u8 = 4;

/// Header fields.
const PATH: u8 = 1;
const INTERFACE: u8 = 2;
const MEMBER: u8 = 3;
const ERROR_NAME: u8 = 4;
const REPLY_SERIAL: u8 = 5;
const DESTINATION: u8 = 6;
const SIGNATURE: u8 = 8;

/// Bytes of the part that all messages have, with the length of the fields.
const FIXED_BYTES: usize = 16;
/// The longest message that is read, in bytes. Those of the manager that concern
/// us are shorter than a page; the protocol allows 128 MiB.
const MAX_BYTES: usize = 1 << 20;
/// Little-endian: what all machines of ours are, and so their systemd.
const ORDER: u8 = b'l';
const VERSION: u8 = 1;

/// A value of a property.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Flag(bool),
    I32(i32),
    U32(u32),
    I64(i64),
    U64(u64),
    Text(String),
    /// A bit mask, the lowest bits first.
    Bits(Vec<u8>),
    Numbers(Vec<u32>),
    Texts(Vec<String>),
    /// Devices and how they may be used.
    Devices(Vec<(String, String)>),
}

impl Value {
    fn signature(&self) -> &'static str {
        match self {
            Self::Flag(_) => "b",
            Self::I32(_) => "i",
            Self::U32(_) => "u",
            Self::I64(_) => "x",
            Self::U64(_) => "t",
            Self::Text(_) => "s",
            Self::Bits(_) => "ay",
            Self::Numbers(_) => "au",
            Self::Texts(_) => "as",
            Self::Devices(_) => "a(ss)",
        }
    }
}

/// A property and its value.
pub(super) type Property = (&'static str, Value);

/// What a message is built in: each value is aligned to its own size, counted
/// from the start of the message, or of the body, which starts at a multiple of
/// eight.
#[derive(Debug, Default)]
pub(super) struct Writer(Vec<u8>);

impl Writer {
    pub(super) fn flag(&mut self, value: bool) -> &mut Self {
        self.u32(u32::from(value))
    }

    pub(super) fn u32(&mut self, value: u32) -> &mut Self {
        self.align(4);
        self.0.extend(value.to_le_bytes());
        self
    }

    fn u64(&mut self, value: u64) -> &mut Self {
        self.align(8);
        self.0.extend(value.to_le_bytes());
        self
    }

    pub(super) fn text(&mut self, text: &str) -> &mut Self {
        self.u32(text.len() as u32);
        self.0.extend(text.as_bytes());
        self.0.push(0);
        self
    }

    fn signature(&mut self, signature: &str) {
        self.0.push(signature.len() as u8);
        self.0.extend(signature.as_bytes());
        self.0.push(0);
    }

    fn variant(&mut self, value: &Value) {
        self.signature(value.signature());
        match value {
            Value::Flag(flag) => {
                self.flag(*flag);
            }
            Value::I32(number) => {
                self.u32(number.cast_unsigned());
            }
            Value::U32(number) => {
                self.u32(*number);
            }
            Value::I64(number) => {
                self.u64(number.cast_unsigned());
            }
            Value::U64(number) => {
                self.u64(*number);
            }
            Value::Text(text) => {
                self.text(text);
            }
            Value::Bits(bytes) => self.array(1, bytes, |body, byte| body.0.push(*byte)),
            Value::Numbers(numbers) => self.array(4, numbers, |body, number| {
                body.u32(*number);
            }),
            Value::Texts(texts) => self.array(4, texts, |body, text| {
                body.text(text);
            }),
            Value::Devices(devices) => self.array(8, devices, |body, (path, access)| {
                body.align(8);
                body.text(path).text(access);
            }),
        }
    }

    /// Properties of a unit: `a(sv)`.
    pub(super) fn properties(&mut self, properties: &[(&str, &Value)]) -> &mut Self {
        self.array(8, properties, |body, (name, value)| {
            body.align(8);
            body.text(name).variant(value);
        });
        self
    }

    /// Units to be made along: `a(sa(sv))`, none.
    pub(super) fn no_units(&mut self) -> &mut Self {
        self.array(8, &[], |_, (): &()| {});
        self
    }

    /// The length in bytes does not count what aligns the first element.
    fn array<T>(&mut self, alignment: usize, list: &[T], write: impl Fn(&mut Self, &T)) {
        self.u32(0);
        let at = self.0.len();
        self.align(alignment);
        let start = self.0.len();
        list.iter().for_each(|element| write(self, element));
        let length = (self.0.len() - start) as u32;
        self.0[at - 4..at].copy_from_slice(&length.to_le_bytes());
    }

    fn align(&mut self, to: usize) {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
    }
}

/// A call of a method.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call<'a> {
    pub(super) destination: &'a str,
    pub(super) path: &'a str,
    pub(super) interface: &'a str,
    pub(super) member: &'a str,
    /// Types of the arguments.
    pub(super) signature: &'a str,
}

impl Call<'_> {
    /// The whole message. `serial` names it in the answer.
    pub(super) fn encode(&self, serial: u32, arguments: &Writer) -> Vec<u8> {
        let mut message = Writer::default();
        message.0.extend([ORDER, CALL, 0, VERSION]);
        message.u32(arguments.0.len() as u32).u32(serial);
        let fields = [
            (PATH, "o", self.path),
            (DESTINATION, "s", self.destination),
            (INTERFACE, "s", self.interface),
            (MEMBER, "s", self.member),
            (SIGNATURE, "g", self.signature),
        ];
        message.array(8, &fields, |message, (field, kind, text)| {
            message.align(8);
            message.0.push(*field);
            message.signature(kind);
            match *kind {
                "g" => message.signature(text),
                _ => {
                    message.text(text);
                }
            }
        });
        message.align(8);
        message.0.extend(&arguments.0);
        message.0
    }
}

/// A message that came.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) kind: u8,
    /// Of the call that this answers.
    pub(super) reply_serial: Option<u32>,
    pub(super) member: String,
    pub(super) interface: String,
    pub(super) error_name: String,
    pub(super) signature: String,
    body: Vec<u8>,
}

impl Message {
    /// Reads one message.
    ///
    /// # Errors
    /// `DataLoss` for what is none, else those of `source`.
    pub(super) fn read(source: &mut impl Read) -> Result<Self> {
        let mut fixed = [0; FIXED_BYTES];
        source.read_exact(&mut fixed).context("read from", "D-Bus")?;
        let mut reader = Reader::new(&fixed);
        let [order, kind, _, version] = [(); 4].map(|()| reader.byte());
        if order? != ORDER || version? != VERSION {
            return Err(broken("order of bytes"));
        }
        let (body, _serial, fields) = (reader.u32()?, reader.u32()?, reader.u32()?);
        let (body, fields) = (body as usize, fields as usize);
        let Some(rest) = fields.checked_next_multiple_of(8).and_then(|n| n.checked_add(body))
        else {
            return Err(broken("length"));
        };
        if rest > MAX_BYTES {
            return Err(broken("length"));
        }
        let mut bytes = vec![0; rest];
        source.read_exact(&mut bytes).context("read from", "D-Bus")?;
        let body = bytes.split_off(rest - body);
        bytes.truncate(fields);
        let mut message = Self { kind: kind?, body, ..Self::default() };
        message.take_fields(&bytes)?;
        Ok(message)
    }

    fn take_fields(&mut self, bytes: &[u8]) -> Result<()> {
        // The fields start at a multiple of eight.
        let mut reader = Reader::new(bytes);
        while !reader.is_at_end() {
            reader.align(8)?;
            let field = reader.byte()?;
            match (field, reader.signature()?) {
                (REPLY_SERIAL, "u") => self.reply_serial = Some(reader.u32()?),
                (SIGNATURE, "g") => self.signature = reader.signature()?.into(),
                (_, "g") => drop(reader.signature()?),
                (_, "u") => drop(reader.u32()?),
                (field, "s" | "o") => {
                    let text = reader.text()?.to_owned();
                    match field {
                        MEMBER => self.member = text,
                        INTERFACE => self.interface = text,
                        ERROR_NAME => self.error_name = text,
                        _ => {}
                    }
                }
                _ => return Err(broken("header")),
            }
        }
        Ok(())
    }

    /// What it carries.
    pub(super) fn body(&self) -> Reader<'_> {
        Reader::new(&self.body)
    }
}

/// Values, one after the other.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    fn is_at_end(&self) -> bool {
        self.at >= self.bytes.len()
    }

    fn align(&mut self, to: usize) -> Result<()> {
        self.take(self.at.next_multiple_of(to) - self.at).map(drop)
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let end = self.at.checked_add(count);
        let taken = end.and_then(|end| self.bytes.get(self.at..end));
        self.at = end.unwrap_or(usize::MAX);
        taken.ok_or_else(|| broken("end"))
    }

    fn byte(&mut self) -> Result<u8> {
        self.take(1)?.first().copied().ok_or_else(|| broken("end"))
    }

    pub(super) fn u32(&mut self) -> Result<u32> {
        self.align(4)?;
        let bytes = <[u8; 4]>::try_from(self.take(4)?);
        bytes.map(u32::from_le_bytes).map_err(|_| broken("end"))
    }

    pub(super) fn text(&mut self) -> Result<&'a str> {
        let length = self.u32()? as usize;
        let text = self.take(length)?;
        self.take(1)?;
        std::str::from_utf8(text).map_err(|_| broken("text"))
    }

    pub(super) fn signature(&mut self) -> Result<&'a str> {
        let length = usize::from(self.byte()?);
        let text = self.take(length)?;
        self.take(1)?;
        std::str::from_utf8(text).map_err(|_| broken("signature"))
    }
}

fn broken(part: &str) -> Error {
    Error::new(ErrorKind::DataLoss, format!("D-Bus: message with a broken {part}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALL: Call<'_> = Call {
        destination: "org.freedesktop.DBus",
        path: "/org/freedesktop/DBus",
        interface: "org.freedesktop.DBus",
        member: "Hello",
        signature: "s",
    };

    #[test]
    fn a_message_is_read_as_it_was_written() {
        let mut arguments = Writer::default();
        arguments.text("word");
        let bytes = CALL.encode(7, &arguments);
        let message = Message::read(&mut &bytes[..]).unwrap();
        assert_eq!((message.kind, &*message.member), (super::CALL, "Hello"));
        assert_eq!((&*message.interface, &*message.signature), (CALL.interface, "s"));
        assert_eq!(message.body().text().unwrap(), "word");
    }

    #[test]
    fn properties_have_the_form_of_the_specification() {
        let mut writer = Writer::default();
        writer.text("u").properties(&[("Delegate", &Value::Flag(true))]);
        // "u", aligned to 4; a length of 20; aligned to 8; a text; a variant.
        let expected = [
            &[1, 0, 0, 0, b'u', 0, 0, 0, 20, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0][..],
            b"Delegate\0",
            &[1, b'b', 0],
            &[1, 0, 0, 0],
        ];
        let length = 8 + 4 + 4 + 4 + 9 + 3 + 4;
        assert_eq!(writer.0, expected.concat());
        assert_eq!(writer.0.len(), length);
    }

    #[test]
    fn broken_messages_are_refused() {
        let whole = CALL.encode(1, &Writer::default());
        for cut in 0..whole.len() {
            assert!(Message::read(&mut &whole[..cut]).is_err(), "{cut}");
        }
        for at in 0..whole.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut bytes = whole.clone();
                bytes[at] = value;
                // Whatever it says, it neither panics nor takes more than its share.
                let _ = Message::read(&mut &bytes[..]);
            }
        }
        let mut long = whole;
        long[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(Message::read(&mut &long[..]).unwrap_err().kind(), ErrorKind::DataLoss);
    }
}
