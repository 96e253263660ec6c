//! Between a client and a registry: passes on each request, notes it, and does
//! to the answer what the test wants.
//!
//! One request per connection: it asks the registry to close after its answer,
//! and so the end of the answer is known without understanding bodies.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, tcp::OwnedWriteHalf},
    task::{JoinHandle, JoinSet},
};

use super::{Fault, Rule};

/// No head that is meant well is longer.
const MAX_HEAD: usize = 1 << 20;

/// A request that has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// GET, HEAD, ...
    pub method: String,
    /// With its query.
    pub path: String,
    /// Its `Range` header.
    pub range: Option<String>,
    /// Its `Authorization` header.
    pub authorization: Option<String>,
}

#[derive(Default)]
struct State {
    rules: Vec<Rule>,
    seen: Vec<Seen>,
    /// The token that each request must have, if any.
    token: Option<String>,
}

/// A registry in which things go wrong. Dropping it ends all connections.
pub struct Proxy {
    address: String,
    state: Arc<Mutex<State>>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// Listens for clients of the registry at `upstream`.
    ///
    /// # Errors
    /// There is no port to be had.
    pub async fn start(upstream: &str) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("listen")?;
        let address = listener.local_addr()?.to_string();
        let state = Arc::new(Mutex::new(State::default()));
        let task = tokio::spawn(accept(listener, address.clone(), upstream.into(), state.clone()));
        Ok(Self { address, state, task })
    }

    /// Its address and port, as it stands before the name of an image.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The full reference of an image in it.
    pub fn image(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }

    /// From now on, requests that a rule takes meet its fault.
    pub fn rule(&self, rule: Rule) {
        lock(&self.state).rules.push(rule);
    }

    /// All is well again, for requests that are yet to come.
    pub fn mend(&self) {
        lock(&self.state).rules.clear();
    }

    /// From now on, requests need a token that is given to those who show
    /// [`USER`](super::USER) and [`PASSWORD`](super::PASSWORD) at `/token`.
    pub fn require_token(&self, token: &str) {
        lock(&self.state).token = Some(token.into());
    }

    /// The requests that have come so far, whatever became of them.
    pub fn seen(&self) -> Vec<Seen> {
        lock(&self.state).seen.clone()
    }

    /// The same, and forgets them.
    pub fn take_seen(&self) -> Vec<Seen> {
        std::mem::take(&mut lock(&self.state).seen)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accept(
    listener: TcpListener,
    address: String,
    upstream: String,
    state: Arc<Mutex<State>>,
) {
    // Dropped with this task.
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        let (address, upstream, state) = (address.clone(), upstream.clone(), state.clone());
        // That one of both hangs up is nothing that is to be told.
        connections.spawn(async move { answer(client, &address, &upstream, &state).await });
    }
}

async fn answer(
    client: TcpStream,
    address: &str,
    upstream: &str,
    state: &Mutex<State>,
) -> io::Result<()> {
    let (mut from_client, mut to_client) = client.into_split();
    let Some((head, rest)) = read_head(&mut from_client).await? else { return Ok(()) };
    let seen = request_of(&head);
    let (fault, token) = {
        let mut state = lock(state);
        state.seen.push(seen.clone());
        let rule = state.rules.iter_mut().find(|rule| rule.takes(&seen.method, &seen.path));
        let fault = rule.map(|rule| {
            rule.times -= 1;
            rule.fault.clone()
        });
        (fault, state.token.clone())
    };
    match fault {
        Some(Fault::Status(code, more)) => {
            return say(&mut to_client, &seen, &format!("{code} Fault"), &more, b"").await;
        }
        Some(Fault::Body(kind, bytes)) => {
            let more = format!("Content-Type: {kind}\r\n");
            return say(&mut to_client, &seen, "200 OK", &more, &bytes).await;
        }
        Some(Fault::Silence) => std::future::pending().await,
        _ => {}
    }
    let request = closing(&head, token.is_some());
    if let Some(token) = token {
        let basic = "Basic dXNlcjpzZWNyZXQ="; // printf user:secret | base64
        if seen.path.starts_with("/token") {
            let known = seen.authorization.as_deref() == Some(basic);
            let (status, body) = match known {
                true => ("200 OK", format!("{{\"token\":\"{token}\",\"expires_in\":300}}")),
                false => ("401 Unauthorized", "{}".into()),
            };
            let kind = "Content-Type: application/json\r\n";
            return say(&mut to_client, &seen, status, kind, body.as_bytes()).await;
        }
        if seen.authorization != Some(format!("Bearer {token}")) {
            let more = format!(
                "WWW-Authenticate: Bearer realm=\"http://{address}/token\",service=\"tests\",\
                 scope=\"repository:any:pull,push\"\r\n"
            );
            return say(&mut to_client, &seen, "401 Unauthorized", &more, b"").await;
        }
    }

    let (mut from_server, mut to_server) = TcpStream::connect(upstream).await?.into_split();
    to_server.write_all(&request).await?;
    to_server.write_all(&rest).await?;
    let upload = async move {
        tokio::io::copy(&mut from_client, &mut to_server).await?;
        to_server.shutdown().await
    };
    let download = async move {
        let Some((head, rest)) = read_head(&mut from_server).await? else { return Ok(()) };
        pass_on(&head, rest, &mut from_server, &mut to_client, fault).await
    };
    // The client keeps its side open: when the answer is complete, all is.
    tokio::pin!(upload, download);
    tokio::select! {
        done = &mut download => done,
        uploaded = &mut upload => match uploaded {
            Ok(()) => download.await,
            // The server says why it takes no more.
            Err(_) => download.await,
        },
    }
}

/// The answer of the registry, with what goes wrong.
async fn pass_on(
    head: &[u8],
    rest: Vec<u8>,
    from: &mut (impl AsyncRead + Unpin),
    to: &mut OwnedWriteHalf,
    fault: Option<Fault>,
) -> io::Result<()> {
    let mut head = String::from_utf8_lossy(head).into_owned();
    match fault {
        Some(Fault::Header(bytes)) => {
            head.insert_str(head.len() - 2, &format!("X-Long: {}\r\n", "x".repeat(bytes)));
        }
        Some(Fault::Length(by)) => {
            let length = header(&head, "content-length").and_then(|l| l.parse::<i64>().ok());
            if let Some(length) = length {
                let lie = format!("Content-Length: {}", length + by);
                head = head.replace(&format!("Content-Length: {length}"), &lie);
            }
        }
        _ => {}
    }
    to.write_all(head.as_bytes()).await?;
    let mut body = rest.as_slice().chain(from);
    match fault {
        Some(Fault::Cut(bytes)) => {
            tokio::io::copy(&mut body.take(bytes), to).await?;
        }
        Some(Fault::Stall(bytes)) => {
            tokio::io::copy(&mut body.take(bytes), to).await?;
            std::future::pending::<()>().await;
        }
        Some(Fault::Slow(bytes)) => loop {
            let copied = tokio::io::copy(&mut (&mut body).take(bytes), to).await?;
            if copied == 0 {
                break;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        },
        Some(Fault::Wrong(place)) => {
            tokio::io::copy(&mut (&mut body).take(place), to).await?;
            if let Ok(byte) = body.read_u8().await {
                to.write_u8(byte ^ 1).await?;
            }
            tokio::io::copy(&mut body, to).await?;
        }
        _ => {
            tokio::io::copy(&mut body, to).await?;
        }
    }
    to.shutdown().await
}

/// An answer of our own.
async fn say(
    to: &mut OwnedWriteHalf,
    request: &Seen,
    status: &str,
    more: &str,
    body: &[u8],
) -> io::Result<()> {
    let length = body.len();
    let head =
        format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n{more}\r\n");
    to.write_all(head.as_bytes()).await?;
    if request.method != "HEAD" {
        to.write_all(body).await?;
    }
    to.shutdown().await
}

/// Up to and with the empty line, and what came behind it.
async fn read_head(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<(Vec<u8>, Vec<u8>)>> {
    let mut bytes = Vec::new();
    loop {
        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let rest = bytes.split_off(at + 4);
            return Ok(Some((bytes, rest)));
        }
        if bytes.len() > MAX_HEAD || from.read_buf(&mut bytes).await? == 0 {
            return Ok(None);
        }
    }
}

fn request_of(head: &[u8]) -> Seen {
    let head = String::from_utf8_lossy(head);
    let mut words = head.split(' ');
    Seen {
        method: words.next().unwrap_or_default().into(),
        path: words.next().unwrap_or_default().into(),
        range: header(&head, "range"),
        authorization: header(&head, "authorization"),
    }
}

fn header(head: &str, name: &str) -> Option<String> {
    head.lines().skip(1).find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
    })
}

/// The request with the wish that the connection be closed after the answer.
/// A token means nothing to the registry.
fn closing(head: &[u8], with_token: bool) -> Vec<u8> {
    let head = String::from_utf8_lossy(head);
    let mut lines = head.trim_end().split("\r\n");
    let mut text = format!("{}\r\nConnection: close\r\n", lines.next().unwrap_or_default());
    for line in lines {
        let name = line.split(':').next().unwrap_or_default().to_ascii_lowercase();
        if name != "connection" && !(with_token && name == "authorization") {
            text += line;
            text += "\r\n";
        }
    }
    text += "\r\n";
    text.into_bytes()
}
