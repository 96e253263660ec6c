//! Relays what a shim writes to its `log` FIFO into the daemon's own log.
//!
//! Without a reader a shim would block as soon as the pipe is full.

use std::path::Path;

use shim_protocol::{Context, Id, Result};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    net::unix::pipe::{OpenOptions, Receiver},
};
use tracing::{info, warn};

/// A longer line is cut into pieces of this size, in bytes.
const LINE_LIMIT: usize = 2048;

/// The reading end of a shim's log.
pub(crate) struct ShimLog {
    reader: BufReader<Receiver>,
    namespace: Id,
    id: Id,
}

impl ShimLog {
    /// Opens the FIFO for reading and writing, so that it never ends: shims
    /// open it anew at times.
    ///
    /// # Errors
    /// When it is not there or not a FIFO.
    pub(crate) fn open(path: &Path, namespace: &Id, id: &Id) -> Result<Self> {
        let receiver = OpenOptions::new().read_write(true).open_receiver(path);
        let receiver = receiver.context("open shim log", path.display())?;
        let reader = BufReader::with_capacity(LINE_LIMIT, receiver);
        Ok(Self { reader, namespace: namespace.clone(), id: id.clone() })
    }

    /// Relays line by line. Never returns unless reading fails.
    pub(crate) async fn relay(mut self) {
        let mut line = Vec::new();
        loop {
            line.clear();
            let limit = LINE_LIMIT as u64;
            match (&mut self.reader).take(limit).read_until(b'\n', &mut line).await {
                Ok(0) => return,
                Ok(_) => {
                    let text = String::from_utf8_lossy(line.trim_ascii_end());
                    info!(target: "shim", namespace = %self.namespace, id = %self.id, "{text}");
                }
                Err(error) => {
                    warn!(namespace = %self.namespace, id = %self.id, %error, "shim log lost");
                    return;
                }
            }
        }
    }
}
