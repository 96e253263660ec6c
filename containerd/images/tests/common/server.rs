//! A server that answers what a test tells it to, well or badly, and remembers
//! what it was asked.

use std::sync::{Arc, Mutex};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinSet},
};

/// What came.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    /// Path and query.
    pub target: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Method and target in one.
    pub fn line(&self) -> String {
        format!("{} {}", self.method, self.target)
    }
}

/// What is answered.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// In place of the length of the body; none for pieces ("chunked").
    pub length: Option<usize>,
    /// Ends the connection after this many bytes of the body.
    pub cut: Option<usize>,
    /// Sends no further byte after this many bytes of the body.
    pub stall: Option<usize>,
    /// Sends nothing at all.
    pub silent: bool,
}

impl Reply {
    pub fn status(status: u16) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: Vec::new(),
            length: Some(0),
            cut: None,
            stall: None,
            silent: false,
        }
    }

    pub fn ok(body: impl AsRef<[u8]>) -> Self {
        Self::status(200).body(body)
    }

    pub fn silence() -> Self {
        Self { silent: true, ..Self::status(200) }
    }

    pub fn body(mut self, body: impl AsRef<[u8]>) -> Self {
        self.body = body.as_ref().to_vec();
        self.length = Some(self.body.len());
        self
    }

    pub fn header(mut self, name: &str, value: impl ToString) -> Self {
        self.headers.push((name.to_owned(), value.to_string()));
        self
    }

    pub fn cut(self, after: usize) -> Self {
        Self { cut: Some(after), ..self }
    }
}

type Handler = dyn Fn(&Request) -> Reply + Send + Sync;

/// A server at a free port of this machine; it ends when it is dropped.
pub struct Server {
    pub host: String,
    log: Arc<Mutex<Vec<Request>>>,
    accepting: AbortHandle,
}

impl Server {
    pub async fn start(handler: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::serve(listener, handler)
    }

    pub fn serve(
        listener: TcpListener,
        handler: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let host = listener.local_addr().unwrap().to_string();
        let log = Arc::new(Mutex::new(Vec::new()));
        let (handler, its_log): (Arc<Handler>, _) = (Arc::new(handler), log.clone());
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(talk(stream, handler.clone(), its_log.clone()));
            }
        });
        Self { host, log, accepting: accepting.abort_handle() }
    }

    /// All that was asked so far.
    pub fn requests(&self) -> Vec<Request> {
        self.log.lock().unwrap().clone()
    }

    /// Methods and targets of all that was asked so far.
    pub fn lines(&self) -> Vec<String> {
        self.requests().iter().map(Request::line).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn talk(stream: TcpStream, handler: Arc<Handler>, log: Arc<Mutex<Vec<Request>>>) {
    let mut stream = BufReader::new(stream);
    while let Some(request) = read(&mut stream).await {
        let reply = handler(&request);
        let is_head = request.method == "HEAD";
        log.lock().unwrap().push(request);
        if write(&mut stream, &reply, is_head).await.is_none() {
            return;
        }
    }
}

/// Reads a request; none when the other side went, or does not speak HTTP.
async fn read(stream: &mut BufReader<TcpStream>) -> Option<Request> {
    let first = stream.fill_buf().await.ok()?.first().copied()?;
    if !first.is_ascii_uppercase() {
        // What a server without TLS says to one who speaks it.
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        return None;
    }
    let mut line = String::new();
    stream.read_line(&mut line).await.ok()?;
    let mut parts = line.split_ascii_whitespace();
    let (method, target) = (parts.next()?.to_owned(), parts.next()?.to_owned());
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let mut request = Request { method, target, headers, body: Vec::new() };
    let length = request.header("content-length").map_or(0, |length| length.parse().unwrap());
    // A body that is cut is the test's doing, and what came of it counts.
    let mut limited = stream.take(length);
    let _ = limited.read_to_end(&mut request.body).await;
    Some(request)
}

/// Writes an answer; none when the connection is to end.
async fn write(stream: &mut BufReader<TcpStream>, reply: &Reply, is_head: bool) -> Option<()> {
    if reply.silent {
        std::future::pending::<()>().await;
    }
    let mut head = format!("HTTP/1.1 {} Told\r\n", reply.status);
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    match reply.length {
        Some(length) => head.push_str(&format!("content-length: {length}\r\n")),
        None => head.push_str("transfer-encoding: chunked\r\n"),
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes()).await.ok()?;
    if is_head {
        return Some(());
    }
    let end = reply.cut.or(reply.stall).unwrap_or(reply.body.len());
    let body = &reply.body[..end];
    if reply.length.is_some() {
        stream.write_all(body).await.ok()?;
    } else {
        for piece in body.chunks(10_000) {
            stream.write_all(format!("{:x}\r\n", piece.len()).as_bytes()).await.ok()?;
            stream.write_all(piece).await.ok()?;
            stream.write_all(b"\r\n").await.ok()?;
        }
        if reply.cut.is_none() && reply.stall.is_none() {
            stream.write_all(b"0\r\n\r\n").await.ok()?;
        }
    }
    stream.flush().await.ok()?;
    if reply.stall.is_some() {
        std::future::pending::<()>().await;
    }
    let whole = reply.cut.is_none() && reply.length.is_none_or(|length| length == body.len());
    whole.then_some(())
}
