//! Lets in clients that name the socket's path as `:authority`.
//!
//! Some Go clients send `/run/containerd/containerd.sock` or `%2Frun%2F…` in
//! that pseudo header, which RFC 9113 section 8.3.1 does not allow, and our
//! HTTP/2 stack resets such a request before any service sees it. [`Lenient`]
//! reads along until it has seen the first request of a connection. If that
//! one is fine, so are the others, and from then on bytes pass untouched. If
//! not, the value is replaced in every request by a proper one *of the same
//! length*: HPACK (RFC 7541) lets later requests refer to earlier values, and
//! as its tables evict by size, those of both sides stay equal.

mod hpack;

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;

/// Length of the client's preface, RFC 9113 section 3.4.
const PREFACE: usize = 24;
/// Length of a frame's header, RFC 9113 section 4.1.
const FRAME_HEADER: usize = 9;
/// The largest frame a client may send: the protocol's default, which the
/// server does not raise.
const MAX_FRAME: usize = 16_384;
const TYPE_HEADERS: u8 = 0x1;
const FLAG_PADDED: u8 = 0x8;
const FLAG_PRIORITY: u8 = 0x20;

/// A connection whose requests carry a valid `:authority`.
#[derive(Debug)]
pub(crate) struct Lenient<S> {
    io: S,
    state: State,
    /// Has a request been mended? Then the next ones may need it too.
    mending: bool,
    /// The beginning of what `state` waits for.
    inbox: Vec<u8>,
    /// Looked at, and not yet taken by the reader.
    outbox: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    /// The client's preface comes next.
    Preface,
    /// A frame's header comes next.
    Header,
    /// The whole of a HEADERS frame, whose header is in the inbox, of so many
    /// bytes with it.
    Headers(usize),
    /// So many bytes of no interest come next.
    Skip(usize),
    /// There is nothing more to look at.
    Transparent,
}

impl<S> Lenient<S> {
    pub(crate) fn new(io: S) -> Self {
        Self { io, state: State::Preface, mending: false, inbox: Vec::new(), outbox: Vec::new() }
    }

    /// How many bytes the inbox must have before [`Self::advance`].
    fn wanted(&self) -> usize {
        match self.state {
            State::Preface => PREFACE,
            State::Header => FRAME_HEADER,
            State::Headers(length) => length,
            State::Skip(_) | State::Transparent => 0,
        }
    }

    /// Takes what was waited for from the inbox.
    fn advance(&mut self) {
        match self.state {
            State::Preface => {
                self.outbox.append(&mut self.inbox);
                self.state = State::Header;
            }
            State::Header => {
                let length = usize::from(self.inbox[0]) << 16
                    | usize::from(self.inbox[1]) << 8
                    | usize::from(self.inbox[2]);
                // A frame that is too long is the HTTP/2 stack's to refuse.
                if self.inbox[3] == TYPE_HEADERS && length <= MAX_FRAME {
                    self.state = State::Headers(FRAME_HEADER + length);
                } else {
                    self.outbox.append(&mut self.inbox);
                    self.state = State::Skip(length);
                }
            }
            State::Headers(_) => {
                let frame = std::mem::take(&mut self.inbox);
                let mended = mend(&frame);
                self.mending |= mended.is_some();
                self.outbox.append(&mut mended.unwrap_or(frame));
                self.state = if self.mending { State::Header } else { State::Transparent };
            }
            State::Skip(_) | State::Transparent => {}
        }
    }

    /// Gives the reader what lies in the outbox.
    fn hand_out(&mut self, buf: &mut ReadBuf<'_>) {
        let length = self.outbox.len().min(buf.remaining());
        buf.put_slice(&self.outbox[..length]);
        self.outbox.drain(..length);
    }
}

/// The HEADERS frame with another `:authority`, if it has one that must not
/// be. Fields that are continued in another frame are not looked at; Go
/// writes the pseudo headers first.
fn mend(frame: &[u8]) -> Option<Vec<u8>> {
    let flags = frame[4];
    let mut begin = FRAME_HEADER;
    let mut end = frame.len();
    if flags & FLAG_PADDED != 0 {
        let padding = usize::from(*frame.get(begin)?);
        begin += 1;
        end = end.checked_sub(padding)?;
    }
    if flags & FLAG_PRIORITY != 0 {
        begin += 5;
    }
    let block = hpack::mend(frame.get(begin..end)?)?;

    let length = u32::try_from(frame.len() - FRAME_HEADER - (end - begin) + block.len()).ok()?;
    let mut mended = Vec::with_capacity(FRAME_HEADER + length as usize);
    mended.extend_from_slice(&length.to_be_bytes()[1..]);
    mended.extend_from_slice(&frame[3..begin]);
    mended.extend_from_slice(&block);
    mended.extend_from_slice(&frame[end..]);
    Some(mended)
}

impl<S: AsyncRead + Unpin> Lenient<S> {
    /// Reads at most `limit` bytes straight into `buf`.
    fn poll_some(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
        limit: usize,
    ) -> Poll<io::Result<usize>> {
        let limit = limit.min(buf.remaining());
        let mut part = ReadBuf::new(buf.initialize_unfilled_to(limit));
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut part))?;
        let length = part.filled().len();
        buf.advance(length);
        Poll::Ready(Ok(length))
    }

    /// Reads into the inbox; `false` at the end of the stream.
    fn poll_inbox(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let mut space = [0; 1024];
        let missing = (self.wanted() - self.inbox.len()).min(space.len());
        let mut part = ReadBuf::new(&mut space[..missing]);
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut part))?;
        self.inbox.extend_from_slice(part.filled());
        Poll::Ready(Ok(!part.filled().is_empty()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Lenient<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if !this.outbox.is_empty() || buf.remaining() == 0 {
                this.hand_out(buf);
                return Poll::Ready(Ok(()));
            }
            match this.state {
                State::Transparent => return Pin::new(&mut this.io).poll_read(cx, buf),
                State::Skip(0) => this.state = State::Header,
                State::Skip(length) => {
                    let read = ready!(this.poll_some(cx, buf, length))?;
                    if read > 0 {
                        this.state = State::Skip(length - read);
                    }
                    return Poll::Ready(Ok(()));
                }
                State::Preface | State::Header | State::Headers(_) => {
                    while this.inbox.len() < this.wanted() {
                        if !ready!(this.poll_inbox(cx))? {
                            // The stream ends within a frame. Whoever reads shall see that.
                            this.outbox.append(&mut this.inbox);
                            this.state = State::Transparent;
                            this.hand_out(buf);
                            return Poll::Ready(Ok(()));
                        }
                    }
                    this.advance();
                }
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Lenient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

impl<S: Connected> Connected for Lenient<S> {
    type ConnectInfo = S::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.io.connect_info()
    }
}

#[cfg(test)]
mod tests;
