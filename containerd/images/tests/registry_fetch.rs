//! Content from registries that break off, lie, or send one elsewhere.

// A helper of a test may fail like the test.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use common::{all, blob, digest, manifest, plain, reference, registry, server::*};
use containerd_images::{Descriptor, registry::Registry};
use shim_protocol::{ErrorKind, Result};

const LENGTH: usize = 300_000;

/// Fetches a blob from a server.
async fn fetch(server: &Server, descriptor: &Descriptor, offset: u64) -> Result<Vec<u8>> {
    let body = registry().fetch(&reference(&server.host, "a/b"), descriptor, offset).await?;
    let mut body = body;
    let mut content = Vec::new();
    while let Some(piece) = body.next().await? {
        content.extend_from_slice(&piece);
    }
    assert_eq!(body.offset(), descriptor.size);
    assert!(body.next().await?.is_none());
    Ok(content)
}

/// Where a request begins.
fn start(request: &Request) -> Option<usize> {
    let range = request.header("range")?;
    Some(range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().unwrap())
}

/// The rest of a body, as it is asked for.
fn rest(request: &Request, content: &[u8]) -> Reply {
    match start(request) {
        None => Reply::ok(content),
        Some(from) => {
            let range = format!("bytes {from}-{}/{}", content.len() - 1, content.len());
            Reply::ok(&content[from..]).header("content-range", range).with_status(206)
        }
    }
}

impl Reply {
    fn with_status(self, status: u16) -> Self {
        Self { status, ..self }
    }
}

#[tokio::test]
async fn content_comes_whole_or_from_an_offset() {
    let (descriptor, content) = blob(LENGTH);
    let sent = content.clone();
    let server = Server::start(move |request| rest(request, &sent)).await;
    let body = registry().fetch(&reference(&server.host, "a/b"), &descriptor, 0).await.unwrap();
    assert_eq!(all(body).await.unwrap(), content);
    assert_eq!(fetch(&server, &descriptor, 1000).await.unwrap(), content[1000..]);
    assert_eq!(start(&server.requests()[1]), Some(1000));
    // What is at its end is not asked for.
    assert!(fetch(&server, &descriptor, descriptor.size).await.unwrap().is_empty());
    assert_eq!(server.lines().len(), 2);
    let error = fetch(&server, &descriptor, descriptor.size + 1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfRange);
}

#[tokio::test]
async fn a_broken_connection_is_taken_up_where_it_broke() {
    for chunked in [false, true] {
        let (descriptor, content) = blob(LENGTH);
        let (sent, asked) = (content.clone(), AtomicUsize::new(0));
        let server = Server::start(move |request| {
            let mut reply = rest(request, &sent);
            if chunked {
                reply.length = None;
            }
            match asked.fetch_add(1, Ordering::Relaxed) {
                0 => reply.cut(100_000),
                1 => reply.cut(0),
                2 => reply.cut(50_000),
                _ => reply,
            }
        })
        .await;
        assert_eq!(fetch(&server, &descriptor, 0).await.unwrap(), content);
        let starts: Vec<_> = server.requests().iter().map(start).collect();
        assert_eq!(starts, [None, Some(100_000), Some(100_000), Some(150_000)]);
    }
}

#[tokio::test]
async fn a_connection_that_stands_still_is_broken() {
    let (descriptor, content) = blob(LENGTH);
    let (sent, asked) = (content.clone(), AtomicUsize::new(0));
    let server = Server::start(move |request| {
        let reply = rest(request, &sent);
        match asked.fetch_add(1, Ordering::Relaxed) {
            0 => Reply { stall: Some(1000), ..reply },
            _ => reply,
        }
    })
    .await;
    assert_eq!(fetch(&server, &descriptor, 0).await.unwrap(), content);
    assert_eq!(server.lines().len(), 2);
    let server = Server::start(|_| Reply { stall: Some(0), ..Reply::ok(vec![0; LENGTH]) }).await;
    let error = fetch(&server, &descriptor, 0).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DeadlineExceeded);
    assert_eq!(server.lines().len(), 4);
}

#[tokio::test]
async fn what_is_sent_again_is_skipped() {
    let (descriptor, content) = blob(LENGTH);
    let (sent, asked) = (content.clone(), AtomicUsize::new(0));
    let server = Server::start(move |_| match asked.fetch_add(1, Ordering::Relaxed) {
        0 => Reply::ok(&sent).cut(123_456),
        _ => Reply::ok(&sent),
    })
    .await;
    assert_eq!(fetch(&server, &descriptor, 0).await.unwrap(), content);
    assert_eq!(fetch(&server, &descriptor, 299_999).await.unwrap(), content[299_999..]);
}

#[tokio::test]
async fn tries_are_bounded_unless_there_is_progress() {
    // 4 MiB in pieces of 1.1 MB: more connections than tries.
    let (descriptor, content) = blob(6 << 20);
    let sent = content.clone();
    let server = Server::start(move |request| {
        let reply = rest(request, &sent);
        let cut = reply.body.len().min(1_100_000);
        reply.cut(cut)
    })
    .await;
    assert_eq!(fetch(&server, &descriptor, 0).await.unwrap(), content);
    assert!(server.lines().len() > 4);
    // A byte at a time is none.
    let sent = content.clone();
    let server = Server::start(move |request| rest(request, &sent).cut(1)).await;
    assert!(fetch(&server, &descriptor, 0).await.is_err());
    assert_eq!(server.lines().len(), 4);
}

#[tokio::test]
async fn lies_about_the_length_are_seen() {
    let (descriptor, content) = blob(LENGTH);
    let good = Reply::ok(&content);
    let longer = [&content[..], b"more"].concat();
    for (reply, requests) in [
        (Reply::ok(&longer), 1),
        (Reply::ok(&content[1..]), 1),
        (Reply { length: None, ..Reply::ok(&longer) }, 1),
        (Reply { length: None, ..Reply::ok(&content[..1000]) }, 4),
        (good.clone().header("content-encoding", "gzip"), 1),
        (good.clone().with_status(206).header("content-range", "bytes 5-9/10"), 1),
        (good.clone().with_status(206), 1),
    ] {
        let server = Server::start(move |_| reply.clone()).await;
        let fetched = fetch(&server, &descriptor, 0).await;
        let error = fetched.map(|content| content.len()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DataLoss, "{error:?}");
        assert_eq!(server.lines().len(), requests, "{error:?}");
    }
}

#[tokio::test]
async fn documents_are_checked() {
    let (descriptor, bytes) = manifest(&blob(1).0);
    let sent = bytes.clone();
    let server = Server::start(move |_| Reply::ok(&sent)).await;
    let name = reference(&server.host, "a/b");
    assert_eq!(registry().fetch_document(&name, &descriptor).await.unwrap(), bytes);
    assert_eq!(server.lines(), [format!("GET /v2/a/b/manifests/{}", descriptor.digest)]);
    let other = Descriptor { digest: digest(b"other"), ..descriptor.clone() };
    let error = registry().fetch_document(&name, &other).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DataLoss);
    let huge = Descriptor { size: 10 << 20, ..descriptor };
    let error = registry().fetch_document(&name, &huge).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ResourceExhausted);
    assert_eq!(server.lines().len(), 2);
}

#[tokio::test]
async fn secrets_do_not_follow_to_another_host() {
    let (descriptor, content) = blob(LENGTH);
    let sent = content.clone();
    let cdn = Server::start(move |request| rest(request, &sent)).await;
    let elsewhere = format!("http://{}/blob", cdn.host);
    let server = Server::start(move |request| match request.header("authorization") {
        None => Reply::status(401).header("www-authenticate", "Basic realm=\"r\""),
        Some(_) => Reply::status(307).header("location", &elsewhere),
    })
    .await;
    let config = containerd_images::registry::RegistryConfig {
        headers: vec![("x-secret".to_owned(), "s".to_owned())],
        credentials: Some(Arc::new(Somebody)),
        ..plain()
    };
    let registry = Registry::new(config);
    let body = registry.fetch(&reference(&server.host, "a/b"), &descriptor, 10).await.unwrap();
    let mut body = body;
    let mut length = 0;
    while let Some(piece) = body.next().await.unwrap() {
        length += piece.len();
    }
    assert_eq!(length, LENGTH - 10);
    let asked = &cdn.requests()[0];
    assert_eq!((asked.header("authorization"), asked.header("x-secret")), (None, None));
    assert_eq!(start(asked), Some(10));
    let known = &server.requests()[1];
    assert_eq!(known.header("authorization"), Some("Basic dTpw"));
    assert_eq!(known.header("x-secret"), Some("s"));
    // Nor do we tell them when that host asks for them.
    let (_, asking) = (
        cdn,
        Server::start(|_| Reply::status(401).header("www-authenticate", "Basic realm=\"r\"")).await,
    );
    let elsewhere = format!("http://{}/blob", asking.host);
    let server = Server::start(move |_| Reply::status(307).header("location", &elsewhere)).await;
    let fetched = registry.fetch(&reference(&server.host, "a/b"), &descriptor, 0).await;
    assert_eq!(fetched.err().unwrap().kind(), ErrorKind::PermissionDenied);
    assert_eq!(asking.requests().len(), 1);
    assert_eq!(asking.requests()[0].header("authorization"), None);
}

struct Somebody;

#[async_trait::async_trait]
impl containerd_images::registry::CredentialProvider for Somebody {
    async fn credentials(
        &self,
        _: &str,
        _: &str,
        _: &[String],
    ) -> Result<containerd_images::registry::Credentials> {
        let (username, password) = ("u".to_owned(), "p".to_owned());
        Ok(containerd_images::registry::Credentials::Basic { username, password })
    }
}

#[tokio::test]
async fn so_many_blobs_are_read_at_a_time_and_no_more() {
    let (descriptor, content) = blob(LENGTH);
    let sent = content.clone();
    let server = Server::start(move |request| rest(request, &sent)).await;
    let mut config = plain();
    config.limits.bodies_per_host = 2;
    let registry = Registry::new(config);
    let name = reference(&server.host, "a/b");
    let first = registry.fetch(&name, &descriptor, 0).await.unwrap();
    let _second = registry.fetch(&name, &descriptor, 0).await.unwrap();
    let waiting = tokio::spawn({
        let (registry, name, descriptor) = (registry.clone(), name.clone(), descriptor.clone());
        async move { all(registry.fetch(&name, &descriptor, 0).await?).await }
    });
    tokio::task::yield_now().await;
    assert_eq!(server.lines().len(), 2);
    assert_eq!(all(first).await.unwrap(), content);
    assert_eq!(waiting.await.unwrap().unwrap(), content);
    assert_eq!(server.lines().len(), 3);
}

#[tokio::test]
async fn another_host_goes_on_where_one_breaks() {
    let (descriptor, content) = blob(LENGTH);
    let (sent, rested) = (content.clone(), content.clone());
    let mirror = Server::start(move |_| Reply::ok(&sent).cut(100_000)).await;
    let itself = Server::start(move |request| rest(request, &rested)).await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("_default")).unwrap();
    let text = format!("server = \"http://{}\"\n[host.\"http://{}\"]\n", itself.host, mirror.host);
    std::fs::write(folder.path().join("_default/hosts.toml"), text).unwrap();
    let mut config = plain();
    config.hosts_dirs = vec![folder.path().to_owned()];
    let registry = Registry::new(config);
    let body = registry.fetch(&reference("h.io", "a/b"), &descriptor, 0).await.unwrap();
    assert_eq!(all(body).await.unwrap(), content);
    assert_eq!(mirror.lines().len(), 1);
    assert_eq!(itself.requests().iter().map(start).collect::<Vec<_>>(), [Some(100_000)]);
}

#[tokio::test]
async fn content_that_others_may_not_pass_on_is_fetched_where_it_is() {
    let (descriptor, content) = blob(LENGTH);
    let (sent, asked) = (content.clone(), AtomicUsize::new(0));
    let elsewhere = Server::start(move |request| {
        let reply = rest(request, &sent);
        if asked.fetch_add(1, Ordering::Relaxed) == 0 { reply.cut(1000) } else { reply }
    })
    .await;
    let server = Server::start(|_| Reply::status(404)).await;
    let mut config = plain();
    config.headers = vec![("x-secret".to_owned(), "s".to_owned())];
    let urls = vec!["ftp://a/".to_owned(), "?".to_owned(), format!("http://{}/x", elsewhere.host)];
    let there = Descriptor { urls, ..descriptor.clone() };
    let name = reference(&server.host, "a/b");
    let registry = Registry::new(config);
    let body = registry.fetch(&name, &there, 0).await.unwrap();
    assert!(all(body).await.unwrap() == content);
    assert_eq!(elsewhere.lines(), ["GET /x", "GET /x"]);
    assert_eq!(elsewhere.requests()[0].header("x-secret"), None);
    assert_eq!(elsewhere.requests().iter().map(start).collect::<Vec<_>>(), [None, Some(1000)]);
    // A registry that only does not want to say is not gone round.
    let server = Server::start(|_| Reply::status(403)).await;
    let name = reference(&server.host, "a/b");
    let error = registry.fetch(&name, &there, 0).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    assert_eq!(elsewhere.lines().len(), 2);
}
