//! Connections, of which there may only be so many.

use std::{
    fmt, io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::serve::Listener;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::sleep,
};

/// Connections at the same time. Who comes later waits.
const CONNECTIONS: usize = 128;

/// How long to wait when a connection could not be accepted, most likely for
/// want of descriptors.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// A bound socket.
pub(crate) enum Listening {
    Unix(UnixListener),
    Tcp(TcpListener),
}

/// A bound socket whose connections are counted.
pub(crate) struct Limited {
    listening: Listening,
    permits: Arc<Semaphore>,
}

/// A connection, which counts as long as it is there.
pub(crate) struct Connection {
    stream: Stream,
    _permit: Option<OwnedSemaphorePermit>,
}

enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl fmt::Display for Listening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(listener) => match listener.local_addr() {
                Ok(address) => address.fmt(f),
                Err(error) => error.fmt(f),
            },
            Self::Unix(listener) => {
                let address = listener.local_addr();
                let path = address.as_ref().ok().and_then(|address| address.as_pathname());
                write!(f, "unix://{}", path.unwrap_or_else(|| "".as_ref()).display())
            }
        }
    }
}

impl Limited {
    pub(crate) fn new(listening: Listening) -> Self {
        Self { listening, permits: Arc::new(Semaphore::new(CONNECTIONS)) }
    }

    async fn next(&self) -> io::Result<Stream> {
        Ok(match &self.listening {
            Listening::Unix(listener) => Stream::Unix(listener.accept().await?.0),
            Listening::Tcp(listener) => {
                let stream = listener.accept().await?.0;
                // An event is a small packet that should not wait for the next.
                stream.set_nodelay(true)?;
                Stream::Tcp(stream)
            }
        })
    }
}

impl Listener for Limited {
    type Io = Connection;
    type Addr = ();

    async fn accept(&mut self) -> (Connection, ()) {
        // The semaphore is never closed.
        let permit = self.permits.clone().acquire_owned().await.ok();
        loop {
            match self.next().await {
                Ok(stream) => return (Connection { stream, _permit: permit }, ()),
                Err(error) => {
                    tracing::warn!(%error, "a connection was not accepted");
                    sleep(ACCEPT_BACKOFF).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<()> {
        Ok(())
    }
}

/// Passes a call on to whichever stream it is.
macro_rules! either {
    ($this:expr, $method:ident($($argument:expr),*)) => {
        match &mut $this.get_mut().stream {
            Stream::Unix(stream) => Pin::new(stream).$method($($argument),*),
            Stream::Tcp(stream) => Pin::new(stream).$method($($argument),*),
        }
    };
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        either!(self, poll_read(cx, buffer))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        either!(self, poll_write(cx, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, poll_shutdown(cx))
    }
}
