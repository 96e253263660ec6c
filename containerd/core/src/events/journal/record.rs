//! Records of the journal and their bytes.
//!
//! ```text
//! record   = length u32, crc u32, body            numbers are little-endian
//! body     = kind u8, payload                     length and crc are the body's
//! kind 1   event, published since the last page:  message `Event`
//! kind 2   event, which the pages know of:        message `Event`
//! kind 3   page of the ledger:                    JSON of `ledger::Page`
//! kind 4   events up to this one are not kept:    timestamp, u64 nanoseconds
//! ```

use std::sync::Arc;

use prost::Message;
use runtime_v2::Any;
use shim_protocol::{Error, ErrorKind, Id, Result};

use super::crc::crc32;
use crate::events::{Envelope, Timestamp, ledger::Page};

/// Bytes before the body.
const HEADER: usize = 8;

/// The longest body. Longer ones are not written, so a length beyond it is
/// garbage and not a reason to allocate.
pub(super) const MAX_BODY: usize = 4 << 20;

const NEW_EVENT: u8 = 1;
const OLD_EVENT: u8 = 2;
const PAGE: u8 = 3;
const FLOOR: u8 = 4;

/// One entry of the journal.
#[derive(Debug, PartialEq)]
pub(in crate::events) enum Record {
    /// An event that the ledger has to be told of.
    New {
        /// What subscribers got.
        envelope: Arc<Envelope>,
        /// The sender's timestamp.
        sent: Option<Timestamp>,
    },
    /// An event from before the pages: only for subscribers that come back.
    Old(Arc<Envelope>),
    /// A part of the ledger.
    Page(Page),
    /// Timestamp of the latest event that is not kept any more.
    Floor(Timestamp),
}

/// What is kept of an event. Field numbers are on disk.
#[derive(Clone, PartialEq, Message)]
struct Event {
    #[prost(fixed64, tag = "1")]
    timestamp: u64,
    /// 0: none.
    #[prost(fixed64, tag = "2")]
    sent: u64,
    #[prost(string, tag = "3")]
    namespace: String,
    #[prost(string, tag = "4")]
    topic: String,
    #[prost(string, tag = "5")]
    type_url: String,
    #[prost(bytes = "vec", tag = "6")]
    value: Vec<u8>,
}

impl Record {
    /// Appends the record's bytes to `buffer`.
    ///
    /// # Errors
    /// `InvalidArgument` when it is too big.
    pub(in crate::events) fn write_to(&self, buffer: &mut Vec<u8>) -> Result<()> {
        let start = buffer.len();
        buffer.extend([0; HEADER]);
        match self {
            Self::New { envelope, sent } => push_event(buffer, NEW_EVENT, envelope, *sent),
            Self::Old(envelope) => push_event(buffer, OLD_EVENT, envelope, None),
            Self::Page(page) => {
                buffer.push(PAGE);
                serde_json::to_writer(&mut *buffer, page)
                    .map_err(|e| Error::caused(ErrorKind::Internal, "encode ledger", e))?;
            }
            Self::Floor(floor) => {
                buffer.push(FLOOR);
                buffer.extend(floor.as_nanos().to_le_bytes());
            }
        }
        let body = &buffer[start + HEADER..];
        let (length, crc) = (body.len(), crc32(body));
        let Some(length) = u32::try_from(length).ok().filter(|_| length <= MAX_BODY) else {
            buffer.truncate(start);
            return Err(Error::invalid(format!("event of {length} bytes, {MAX_BODY} are allowed")));
        };
        buffer[start..start + 4].copy_from_slice(&length.to_le_bytes());
        buffer[start + 4..start + HEADER].copy_from_slice(&crc.to_le_bytes());
        Ok(())
    }

    /// Takes one record off the front of `bytes`; `None` when there is no
    /// whole and unharmed one.
    pub(super) fn take(bytes: &mut &[u8]) -> Option<Self> {
        let (length, rest) = bytes.split_first_chunk::<4>()?;
        let (crc, rest) = rest.split_first_chunk::<4>()?;
        let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
        let (body, rest) = rest.split_at_checked(length)?;
        if crc32(body) != u32::from_le_bytes(*crc) {
            return None;
        }
        let (kind, payload) = body.split_first()?;
        let record = match *kind {
            NEW_EVENT => {
                let (envelope, sent) = read_event(payload)?;
                Self::New { envelope, sent }
            }
            OLD_EVENT => Self::Old(read_event(payload)?.0),
            PAGE => Self::Page(serde_json::from_slice(payload).ok()?),
            FLOOR => {
                let nanos = u64::from_le_bytes(payload.try_into().ok()?);
                Self::Floor(Timestamp::from_nanos(nanos))
            }
            _ => return None,
        };
        *bytes = rest;
        Some(record)
    }
}

fn push_event(buffer: &mut Vec<u8>, kind: u8, envelope: &Envelope, sent: Option<Timestamp>) {
    buffer.push(kind);
    let event = Event {
        timestamp: envelope.timestamp.as_nanos(),
        sent: sent.unwrap_or_default().as_nanos(),
        namespace: envelope.namespace.to_string(),
        topic: envelope.topic.clone(),
        type_url: envelope.event.type_url.clone(),
        value: envelope.event.value.clone(),
    };
    buffer.extend(event.encode_to_vec());
}

fn read_event(payload: &[u8]) -> Option<(Arc<Envelope>, Option<Timestamp>)> {
    let event = Event::decode(payload).ok()?;
    let envelope = Envelope {
        timestamp: Timestamp::from_nanos(event.timestamp),
        namespace: Id::new("namespace", &event.namespace).ok()?,
        topic: event.topic,
        event: Any { type_url: event.type_url, value: event.value },
    };
    let sent = Some(Timestamp::from_nanos(event.sent)).filter(|sent| *sent != Timestamp::ZERO);
    Some((Arc::new(envelope), sent))
}
