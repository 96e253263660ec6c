//! What a shim and its helper say to each other: one question, one answer, each
//! a length and JSON. Descriptors travel with the length of the question.

use std::{
    io::{Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::PathBuf,
};

use protobuf::Enum;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use shim_protocol::{Context, Error, ErrorKind, Result, rpc};

use crate::sys::fd;

/// A length in bytes, native order.
pub(super) const LENGTH_BYTES: usize = size_of::<u32>();
/// The longest message, in bytes: twice what a process may be given at all.
pub(super) const MAX_BYTES: u32 = 8 << 20;

/// A question.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Request {
    pub(super) id: String,
    /// The state folder.
    pub(super) root: PathBuf,
    /// Which of the standard streams come along.
    pub(super) streams: [bool; 3],
    /// Where a terminal is to be sent.
    pub(super) console: Option<PathBuf>,
    pub(super) work: Work,
}

/// What is to be done.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Work {
    Create {
        bundle: PathBuf,
        pid_file: PathBuf,
        no_pivot_root: bool,
        no_new_keyring: bool,
        systemd_cgroup: bool,
    },
    Exec {
        process: String,
        pid_file: PathBuf,
    },
    Start,
    Delete {
        force: bool,
    },
}

/// An answer: a pid, or 0 where there is none.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    Done(u32),
    Failed {
        /// A ttrpc code.
        code: i32,
        message: String,
    },
}

impl From<Result<u32>> for Answer {
    fn from(result: Result<u32>) -> Self {
        match result {
            Ok(pid) => Self::Done(pid),
            Err(error) => Self::Failed {
                code: rpc::code(error.kind()).value(),
                message: error.report().to_string(),
            },
        }
    }
}

impl From<Answer> for Result<u32> {
    fn from(answer: Answer) -> Self {
        match answer {
            Answer::Done(pid) => Ok(pid),
            Answer::Failed { code, message } => {
                let code = ttrpc::Code::from_i32(code).unwrap_or_default();
                Err(Error::new(rpc::kind(code), message))
            }
        }
    }
}

/// A message with its length.
pub(super) fn encode(message: &impl Serialize) -> Result<([u8; LENGTH_BYTES], Vec<u8>)> {
    let json = serde_json::to_vec(message)
        .map_err(|e| Error::caused(ErrorKind::Internal, "encode a message", e))?;
    match u32::try_from(json.len()) {
        Ok(length) if length <= MAX_BYTES => Ok((length.to_ne_bytes(), json)),
        _ => Err(Error::invalid(format!("a message of {} bytes is too long", json.len()))),
    }
}

/// # Errors
/// `DataLoss` for what is no message.
pub(super) fn decode<T: DeserializeOwned>(json: &[u8]) -> Result<T> {
    serde_json::from_slice(json)
        .map_err(|e| Error::caused(ErrorKind::DataLoss, "decode a message", e))
}

/// # Errors
/// `DataLoss` for a length that no message has.
pub(super) fn length(bytes: [u8; LENGTH_BYTES]) -> Result<usize> {
    match u32::from_ne_bytes(bytes) {
        length if length <= MAX_BYTES => Ok(length as usize),
        length => Err(Error::new(ErrorKind::DataLoss, format!("a message of {length} bytes"))),
    }
}

/// Reads a question and what came along; `None` when nobody asks any more.
pub(super) fn receive(mut socket: &UnixStream) -> Result<Option<(Request, Vec<OwnedFd>)>> {
    let mut head = [0; LENGTH_BYTES];
    let (count, fds) = fd::receive_all(socket.as_fd(), &mut head).context("read", "request")?;
    if count == 0 {
        return Ok(None);
    }
    let rest = head.get_mut(count..).unwrap_or_default();
    socket.read_exact(rest).context("read", "request")?;
    let mut json = vec![0; length(head)?];
    socket.read_exact(&mut json).context("read", "request")?;
    Ok(Some((decode(&json)?, fds)))
}

/// Writes an answer.
pub(super) fn answer(mut socket: &UnixStream, answer: &Answer) -> Result<()> {
    let (head, json) = encode(answer)?;
    socket.write_all(&[&head[..], &json].concat()).context("write", "answer")
}
