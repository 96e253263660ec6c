//! Between the async world and what only knows blocking reads: decompressors
//! and archives. Work runs on a thread of its own; little is on the way between
//! the two at any time.

use std::io::{self, Read};

use bytes::{Buf, Bytes};
use shim_protocol::{Error, ErrorKind, Result};
use tokio::sync::mpsc;

use crate::store::ContentReader;

/// How many pieces may be on the way, in each direction.
const DEPTH: usize = 4;

/// How much one piece has at most, in bytes.
pub(crate) const PIECE_BYTES: usize = 256 << 10;

/// What work reads.
pub(crate) struct Feed {
    pieces: mpsc::Receiver<Bytes>,
    piece: Bytes,
}

impl Read for Feed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.pieces.blocking_recv() {
                Some(piece) => self.piece = piece,
                None => return Ok(0),
            }
        }
        let length = self.piece.len().min(buffer.len());
        self.piece.copy_to_slice(&mut buffer[..length]);
        Ok(length)
    }
}

/// Where work puts what it makes.
pub(crate) struct Outlet<E>(mpsc::Sender<E>);

impl<E> Outlet<E> {
    /// # Errors
    /// `Cancelled` when nobody wants it any more.
    pub(crate) fn put(&self, made: E) -> Result<()> {
        let gone = |_| Error::new(ErrorKind::Cancelled, "nobody waits for it any more");
        self.0.blocking_send(made).map_err(gone)
    }
}

/// Lets `work` make something of what `reader` has, on a thread of its own, while
/// `consume` takes what it makes.
///
/// # Errors
/// The first one of the reader, the consumer and the work, in this order: each
/// lets the next one fail, too.
pub(crate) async fn through<E, T, C>(
    mut reader: Box<dyn ContentReader>,
    work: impl FnOnce(Feed, Outlet<E>) -> Result<()> + Send + 'static,
    consume: impl FnOnce(mpsc::Receiver<E>) -> C,
) -> Result<T>
where
    E: Send + 'static,
    C: Future<Output = Result<T>>,
{
    let (input, pieces) = mpsc::channel(DEPTH);
    let (outlet, made) = mpsc::channel(DEPTH);
    let feed = Feed { pieces, piece: Bytes::new() };
    let work = tokio::task::spawn_blocking(move || work(feed, Outlet(outlet)));
    let feeding = async {
        loop {
            let piece = tokio::select! {
                piece = reader.next() => piece?,
                // The work has seen enough.
                () = input.closed() => break,
            };
            let Some(piece) = piece else { break };
            if input.send(piece).await.is_err() {
                break;
            }
        }
        drop(input);
        Ok::<_, Error>(())
    };
    let (fed, consumed) = tokio::join!(feeding, consume(made));
    let worked = work.await.unwrap_or_else(|e| {
        Err(Error::caused(ErrorKind::Internal, "the work on a stream ended in a panic", e))
    });
    fed?;
    match (consumed, worked) {
        // Its input or its output ended too early because of the work.
        (Err(e), Err(_)) if e.kind() != ErrorKind::DataLoss => Err(e),
        (_, Err(e)) => Err(e),
        (consumed, Ok(())) => consumed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Pieces, kind};

    /// Copies everything.
    fn copy(mut feed: Feed, outlet: Outlet<Vec<u8>>) -> Result<()> {
        let mut buffer = [0; 3];
        loop {
            match feed.read(&mut buffer).unwrap() {
                0 => return Ok(()),
                length => outlet.put(buffer[..length].to_vec())?,
            }
        }
    }

    async fn gather(mut made: mpsc::Receiver<Vec<u8>>) -> Result<Vec<u8>> {
        let mut all = Vec::new();
        while let Some(piece) = made.recv().await {
            all.extend(piece);
        }
        Ok(all)
    }

    #[tokio::test]
    async fn everything_comes_through() {
        let content: Vec<u8> = (0..=255).collect();
        let copied = through(Pieces::boxed(content.clone(), 10), copy, gather).await.unwrap();
        assert_eq!(copied, content);
    }

    #[tokio::test]
    async fn each_failure_ends_it() {
        /// Begins well.
        struct Broken(bool);
        #[async_trait::async_trait]
        impl ContentReader for Broken {
            async fn next(&mut self) -> Result<Option<Bytes>> {
                match std::mem::replace(&mut self.0, true) {
                    false => Ok(Some("x".into())),
                    true => Err(Error::unavailable("broken")),
                }
            }
        }
        let broken = through(Box::new(Broken(false)), copy, gather).await;
        assert_eq!(kind(broken), ErrorKind::Unavailable);

        let endless = || Pieces::boxed(vec![0; 1 << 20], 10);
        let refuses = |_: Feed, _: Outlet<Vec<u8>>| Err(Error::invalid("no"));
        assert_eq!(kind(through(endless(), refuses, gather).await), ErrorKind::InvalidArgument);

        let full = |_| async { Err::<(), _>(Error::new(ErrorKind::ResourceExhausted, "full")) };
        assert_eq!(kind(through(endless(), copy, full).await), ErrorKind::ResourceExhausted);
    }
}
