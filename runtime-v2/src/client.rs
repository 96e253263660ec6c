//! One connection to a shim.

use std::{
    pin::Pin,
    sync::OnceLock,
    task::{Context as Poller, Poll},
    time::{Duration, Instant},
};

use protobuf::Message;
use shim_protocol::{
    Context, Error, ErrorKind, Id, Result,
    proto::task_v2::{ConnectRequest, ConnectResponse, ShutdownRequest},
    rpc::{NAMESPACE_KEY, TASK_SERVICE_V2, TASK_SERVICE_V3},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::UnixStream,
};
use tokio_util::sync::{CancellationToken, DropGuard};
use ttrpc::{
    asynchronous::{Client, transport::Socket},
    proto::KeyValue,
};

use crate::{
    address::{Address, Bootstrap},
    sys::ProcessHandle,
};

/// Our own addition to a shim's services, see `outbox.proto`.
const OUTBOX_SERVICE: &str = "containerd.shim.outbox.v1.Outbox";
/// How long the notice of a lost connection may lag behind the failed call.
const CLOSE_LAG: Duration = Duration::from_secs(1);

/// A connection to a shim, for one of its containers.
///
/// The messages of versions 2 and 3 of the task API are the same, so one
/// client serves both: only the name of the service differs.
pub(crate) struct Connection {
    client: Client,
    address: Address,
    namespace: Id,
    /// Name of the task service, by what was said at the start.
    service: &'static str,
    identity: OnceLock<Identity>,
    /// Cancelled when the socket is closed, by either side.
    closed: CancellationToken,
    /// Cancelled when the daemon lets go of all shims.
    closing: CancellationToken,
}

/// What a shim says of itself.
struct Identity {
    /// Name of the task service that it really has.
    service: &'static str,
    process: Option<ProcessHandle>,
}

impl Connection {
    /// Connects to the shim that holds the container `id`, and asks it who it
    /// is. `closing` ends all calls.
    ///
    /// # Errors
    /// As [`Connection::dial`]; `DeadlineExceeded` when nobody
    /// answers within `limit`.
    pub(crate) async fn open(
        bootstrap: &Bootstrap,
        namespace: &Id,
        id: &Id,
        closing: &CancellationToken,
        limit: Duration,
    ) -> Result<Self> {
        let this = Self::dial(bootstrap, namespace, closing).await?;
        this.identify(id, Some(limit)).await?;
        Ok(this)
    }

    /// Connects, and asks nothing yet.
    ///
    /// # Errors
    /// As [`Address::connect`]; `InvalidArgument` when it is no address.
    pub(crate) async fn dial(
        bootstrap: &Bootstrap,
        namespace: &Id,
        closing: &CancellationToken,
    ) -> Result<Self> {
        let address: Address = bootstrap.address.parse()?;
        let closed = CancellationToken::new();
        let stream =
            Watched { stream: address.connect().await?, _closed: closed.clone().drop_guard() };
        Ok(Self {
            client: Client::new(Socket::new(stream)),
            address,
            namespace: namespace.clone(),
            service: if bootstrap.version >= 3 { TASK_SERVICE_V3 } else { TASK_SERVICE_V2 },
            identity: OnceLock::new(),
            closed,
            closing: closing.clone(),
        })
    }

    /// Learns which version of the task API the shim really speaks, and which
    /// process it is. A shim that does not say is no error: its end then shows
    /// only in the connection. Without a limit it takes as long as it takes.
    ///
    /// # Errors
    /// `Unavailable` when the connection is lost, `DeadlineExceeded` when
    /// there is no answer.
    pub(crate) async fn identify(&self, id: &Id, limit: Option<Duration>) -> Result<()> {
        let mut service = self.service;
        let mut answer = self.ask_who(service, id, limit).await;
        // A group's shim may be older than the binary that gave us its address
        // and said "version 3". Servers refuse a name they do not know in many
        // ways.
        if service == TASK_SERVICE_V3 && answer.as_ref().is_err_and(is_refusal) {
            let older = self.ask_who(TASK_SERVICE_V2, id, limit).await;
            if !older.as_ref().is_err_and(is_refusal) {
                (service, answer) = (TASK_SERVICE_V2, older);
            }
        }
        let pid = match answer {
            Ok(answer) => answer.shim_pid,
            Err(e) if is_refusal(&e) => 0,
            Err(e) => return Err(e).context("connect to shim at", &self.address),
        };
        // The shim has just answered, so the pid is still its own.
        let process = match pid != 0 && !self.is_closed() {
            true => Some(ProcessHandle::open(pid).context("watch process of shim", pid)?),
            false => None,
        };
        // A shim that is asked twice gives the same answer.
        let _ = self.identity.set(Identity { service, process });
        Ok(())
    }

    async fn ask_who(
        &self,
        service: &str,
        id: &Id,
        limit: Option<Duration>,
    ) -> Result<ConnectResponse> {
        let request = ConnectRequest { id: id.to_string(), ..Default::default() };
        self.call(service, "Connect", &request, limit).await
    }

    /// Calls a method of the task service. Without a limit it takes as long as
    /// it takes.
    ///
    /// # Errors
    /// What the shim says; `Unavailable` when the connection is lost or the
    /// daemon shuts down, `DeadlineExceeded` past the limit.
    pub(crate) async fn task<Q: Message, R: Message>(
        &self,
        method: &'static str,
        request: &Q,
        limit: Option<Duration>,
    ) -> Result<R> {
        let service = self.identity.get().map_or(self.service, |identity| identity.service);
        self.call(service, method, request, limit).await
    }

    /// Waits until our own kind of shim has delivered the events it kept.
    ///
    /// # Errors
    /// As [`Connection::task`]; other shims do not know the method, and say so
    /// in different words.
    pub(crate) async fn flush_outbox(&self, ttrpc_address: &str, limit: Duration) -> Result<u64> {
        use shim_protocol::proto::outbox::{FlushRequest, FlushResponse};
        let request =
            FlushRequest { ttrpc_address: ttrpc_address.to_owned(), ..Default::default() };
        let answer: FlushResponse =
            self.call(OUTBOX_SERVICE, "Flush", &request, Some(limit)).await?;
        Ok(answer.delivered)
    }

    /// Asks the shim to end, which it does unless it has other containers.
    ///
    /// # Errors
    /// As [`Connection::task`], but the loss of the connection is success.
    pub(crate) async fn shutdown(&self, id: &Id, limit: Duration) -> Result<()> {
        use protobuf::well_known_types::empty::Empty;
        let request = ShutdownRequest { id: id.to_string(), ..Default::default() };
        match self.task::<_, Empty>("Shutdown", &request, Some(limit)).await {
            Err(e) if e.kind() != ErrorKind::Unavailable => Err(e),
            _ => Ok(()),
        }
    }

    async fn call<Q: Message, R: Message>(
        &self,
        service: &str,
        method: &str,
        request: &Q,
        limit: Option<Duration>,
    ) -> Result<R> {
        let broken = |e| Error::caused(ErrorKind::Internal, format!("encode {method}"), e);
        let request = ttrpc::Request {
            service: service.into(),
            method: method.into(),
            payload: request.write_to_bytes().map_err(broken)?,
            // Zero is "no limit" on the wire.
            timeout_nano: limit.map_or(0, |l| i64::try_from(l.as_nanos()).unwrap_or(i64::MAX)),
            metadata: vec![KeyValue {
                key: NAMESPACE_KEY.into(),
                value: self.namespace.to_string(),
                ..Default::default()
            }],
            ..Default::default()
        };
        let started = Instant::now();
        let answer = match self.closing.run_until_cancelled(self.client.request(request)).await {
            Some(answer) => answer,
            None => return Err(Error::unavailable(format!("{method}: the daemon shuts down"))),
        };
        let answer = match (answer, limit) {
            (Ok(answer), _) => answer,
            (Err(status @ ttrpc::Error::RpcStatus(_)), _) => return Err(status.into()),
            // ttrpc's own timeout has no class, but the clock tells it apart.
            (Err(_), Some(limit)) if started.elapsed() >= limit => {
                let text = format!("no answer of shim to {method} in {limit:?}");
                return Err(Error::new(ErrorKind::DeadlineExceeded, text));
            }
            (Err(lost), _) => {
                // Calls hear of it a moment before the socket is dropped.
                let _ = tokio::time::timeout(CLOSE_LAG, self.closed()).await;
                return Err(lost.into());
            }
        };
        R::parse_from_bytes(&answer.payload).map_err(|e| {
            Error::caused(ErrorKind::DataLoss, format!("answer of shim to {method}"), e)
        })
    }

    /// Where the shim listens.
    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

    /// Has the connection been lost?
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.is_cancelled()
    }

    /// Waits until the connection is lost.
    pub(crate) async fn closed(&self) {
        self.closed.cancelled().await;
    }

    /// Waits until the shim's process has ended, or, if it is not known, the
    /// connection is lost.
    pub(crate) async fn ended(&self) {
        match self.process() {
            Some(process) => {
                // An error means that the async runtime ends, and we with it.
                let _ = process.ended().await;
            }
            None => self.closed().await,
        }
    }

    /// Is it known which process the shim is?
    pub(crate) fn knows_process(&self) -> bool {
        self.process().is_some()
    }

    fn process(&self) -> Option<&ProcessHandle> {
        self.identity.get()?.process.as_ref()
    }

    /// Kills the shim, if its process is known.
    pub(crate) fn kill(&self) -> Result<()> {
        match self.process() {
            Some(process) => process.kill().context("kill shim at", &self.address),
            None => Ok(()),
        }
    }
}

/// Did the shim answer, but not what it was asked?
fn is_refusal(error: &Error) -> bool {
    !matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::DeadlineExceeded)
}

/// The socket, with notice of its end: ttrpc drops it as soon as it has read
/// the end of the stream or cannot write.
struct Watched {
    stream: UnixStream,
    _closed: DropGuard,
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Poller<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Poller<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Poller<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Poller<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
