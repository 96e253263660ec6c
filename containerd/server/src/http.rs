//! HTTP, for what is not gRPC: as many connections as are good for a daemon, and
//! none that is there without asking for anything.

use std::{fmt, io, time::Duration};

use axum::Router;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use nix::sys::socket::{
    setsockopt,
    sockopt::{KeepAlive, TcpKeepIdle, TcpKeepInterval, TcpUserTimeout},
};
use shim_protocol::{Error, ErrorKind, Result};
use tokio::{
    net::{TcpListener, TcpStream, ToSocketAddrs, UnixListener, UnixStream},
    task::{JoinHandle, JoinSet},
    time::{sleep, timeout},
};
use tokio_util::{either::Either, sync::CancellationToken};

use crate::app::DRAIN_DEADLINE;

/// Connections at the same time. Who comes later waits.
const CONNECTIONS: usize = 128;

/// How long the head of a request may take, from the beginning of the
/// connection or the end of the request before. Less than a drain.
const HEAD_LIMIT: Duration = Duration::from_secs(5);

/// How long a client may leave an answer unread, in milliseconds. Those of a
/// Unix socket own the host anyway.
const UNREAD_LIMIT_MS: u32 = 60_000;

/// After how many seconds of silence a client is asked whether it is still there,
/// and how often then. One that does not answer has the time above.
const SILENCE_S: u32 = 30;
const ASK_AGAIN_S: u32 = 10;

/// How long to wait when a connection could not be accepted, most likely for
/// want of descriptors.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// A bound socket.
pub(crate) enum Listening {
    Unix(UnixListener),
    Tcp(TcpListener),
}

type Stream = Either<UnixStream, TcpStream>;

/// Clients are served.
pub(crate) struct Running(JoinHandle<bool>);

impl Listening {
    /// Binds a port, which `what` names.
    ///
    /// # Errors
    /// `FailedPrecondition` when somebody listens there; `InvalidArgument` when
    /// it is no address of this host; those of the system.
    pub(crate) async fn tcp(address: impl ToSocketAddrs, what: &str) -> Result<Self> {
        let bound = TcpListener::bind(address).await.map_err(|e| {
            let kind = match e.kind() {
                io::ErrorKind::AddrInUse => ErrorKind::FailedPrecondition,
                io::ErrorKind::InvalidInput | io::ErrorKind::AddrNotAvailable => {
                    ErrorKind::InvalidArgument
                }
                _ => ErrorKind::Internal,
            };
            Error::caused(kind, format!("bind {what}"), e)
        });
        bound.map(Self::Tcp)
    }

    /// Serves until `stop` is set.
    pub(crate) fn serve(self, routes: Router, stop: CancellationToken) -> Running {
        Running(tokio::spawn(serve(self, routes, stop)))
    }

    async fn accept(&self) -> io::Result<Stream> {
        Ok(match self {
            Self::Unix(listener) => Either::Left(listener.accept().await?.0),
            Self::Tcp(listener) => {
                let stream = listener.accept().await?.0;
                // An event is a small packet that should not wait for the next.
                stream.set_nodelay(true)?;
                setsockopt(&stream, TcpUserTimeout, &UNREAD_LIMIT_MS)?;
                // One that waits for events may vanish without our sending any.
                setsockopt(&stream, KeepAlive, &true)?;
                setsockopt(&stream, TcpKeepIdle, &SILENCE_S)?;
                setsockopt(&stream, TcpKeepInterval, &ASK_AGAIN_S)?;
                Either::Right(stream)
            }
        })
    }

    async fn next(&self) -> Stream {
        loop {
            match self.accept().await {
                Ok(stream) => return stream,
                Err(error) => {
                    tracing::warn!(%error, "a connection was not accepted");
                    sleep(ACCEPT_BACKOFF).await;
                }
            }
        }
    }
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

impl Running {
    /// Waits until requests have ended, but not longer than a deadline: then they
    /// are cut off. The daemon's stop must be set. Says whether all have ended.
    pub(crate) async fn drain(self) -> bool {
        self.0.await.unwrap_or_else(|panic| {
            tracing::error!(error = %panic, "an HTTP server ended in a panic");
            false
        })
    }
}

async fn serve(listening: Listening, routes: Router, stop: CancellationToken) -> bool {
    let mut http = auto::Builder::new(TokioExecutor::new()).http1_only();
    http.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_LIMIT);
    let routes = TowerToHyperService::new(routes);
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    let mut had_room = true;
    loop {
        let has_room = connections.len() < CONNECTIONS;
        if had_room && !has_room {
            tracing::warn!(address = %listening, CONNECTIONS, "clients wait for others to end");
        }
        had_room = has_room;
        tokio::select! {
            () = stop.cancelled() => break,
            Some(ended) = connections.join_next() => match ended {
                Ok(Ok(())) => {}
                // By the client, or because it took too long.
                Ok(Err(error)) => tracing::debug!(%error, "a connection has ended"),
                Err(panic) => tracing::error!(error = %panic, "a request ended in a panic"),
            },
            stream = listening.next(), if has_room => {
                let connection = http.serve_connection(TokioIo::new(stream), routes.clone());
                connections.spawn(graceful.watch(connection.into_owned()));
            }
        }
    }
    drop(listening);
    let clean = timeout(DRAIN_DEADLINE, graceful.shutdown()).await.is_ok();
    connections.shutdown().await;
    clean
}

#[cfg(test)]
mod tests {
    use std::future;

    use axum::{body::Body, routing::get};
    use futures::future::join_all;
    use nix::sys::socket::getsockopt;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        time::Instant,
    };

    use super::*;

    struct Fixture {
        folder: tempfile::TempDir,
        stop: CancellationToken,
        running: Running,
    }

    impl Fixture {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let listener = UnixListener::bind(folder.path().join("socket")).unwrap();
            let endless =
                || async { Body::from_stream(futures::stream::pending::<io::Result<String>>()) };
            let routes = Router::new()
                .route("/", get(|| async { "yes" }))
                .route("/never", get(future::pending::<()>))
                .route("/endless", get(endless));
            let stop = CancellationToken::new();
            let running = Listening::Unix(listener).serve(routes, stop.clone());
            Self { folder, stop, running }
        }

        async fn connect(&self, said: &str) -> UnixStream {
            let mut stream = UnixStream::connect(self.folder.path().join("socket")).await.unwrap();
            stream.write_all(said.as_bytes()).await.unwrap();
            stream
        }
    }

    fn request(path: &str) -> String {
        format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")
    }

    /// What comes until the other side closes.
    async fn rest(mut stream: UnixStream) -> String {
        let mut all = Vec::new();
        // A connection that is reset has ended as well.
        let _ = stream.read_to_end(&mut all).await;
        String::from_utf8(all).unwrap()
    }

    #[tokio::test]
    async fn clients_that_vanish_are_noticed() {
        let listening = Listening::tcp("127.0.0.1:0", "a port").await.unwrap();
        let Listening::Tcp(listener) = &listening else { unreachable!() };
        let address = listener.local_addr().unwrap();
        let (client, accepted) = tokio::join!(TcpStream::connect(address), listening.accept());
        let (_client, Either::Right(stream)) = (client.unwrap(), accepted.unwrap()) else {
            unreachable!()
        };
        assert!(getsockopt(&stream, KeepAlive).unwrap());
        assert_eq!(getsockopt(&stream, TcpKeepIdle).unwrap(), SILENCE_S);
    }

    /// Time goes by as soon as nothing else does.
    #[tokio::test(start_paused = true)]
    async fn who_asks_for_nothing_shuts_nobody_out() {
        let fixture = Fixture::new();
        let begun = Instant::now();
        let asked = request("/");
        let idle = ["", "GET / HT", asked.as_str()];
        let idle = (0..CONNECTIONS).map(|number| fixture.connect(idle[number % idle.len()]));
        let idle = join_all(idle).await;
        // It waits for one of the others to be closed.
        let served = rest(fixture.connect(&asked).await).await;
        assert!(served.ends_with("yes"), "{served}");
        assert!(begun.elapsed() >= HEAD_LIMIT);
        for (number, said) in join_all(idle.into_iter().map(rest)).await.iter().enumerate() {
            assert_eq!(said.ends_with("yes"), number % 3 == 2, "{said}");
        }
        fixture.stop.cancel();
        assert!(fixture.running.drain().await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_waits_for_answers_and_not_for_ever() {
        let fixture = Fixture::new();
        let idle = fixture.connect("").await;
        fixture.stop.cancel();
        assert!(fixture.running.drain().await);
        assert_eq!(rest(idle).await, "");

        for path in ["/never", "/endless"] {
            let fixture = Fixture::new();
            let hangs = fixture.connect(&request(path)).await;
            // It was accepted in this order.
            let served = fixture.connect(&request("/")).await;
            served.readable().await.unwrap();
            fixture.stop.cancel();
            assert!(!fixture.running.drain().await, "{path}");
            assert!(rest(served).await.ends_with("yes"));
            assert!(!rest(hangs).await.ends_with("yes"));
        }
    }
}
