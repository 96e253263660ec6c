//! Sending to registries that are well, and to those that break off.

// A helper of a test may fail like the test.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use common::{
    Memory, blob, digest, manifest, manifest_about, plain, progress, reference, registry, server::*,
};
use containerd_images::{
    Descriptor,
    manifest::Index,
    media_type,
    registry::{Pushed, Registry},
};
use shim_protocol::ErrorKind;

const LENGTH: usize = 3 << 20;

/// A registry that takes blobs; `change` may answer in its place.
async fn taking(
    change: impl Fn(&Request) -> Option<Reply> + Send + Sync + 'static,
) -> (Server, Arc<Mutex<Vec<u8>>>) {
    let got = Arc::new(Mutex::new(Vec::new()));
    let taken = got.clone();
    let server = Server::start(move |request| {
        if let Some(reply) = change(request) {
            return reply;
        }
        match request.method.as_str() {
            "HEAD" => Reply::status(404),
            "POST" => Reply::status(202).header("location", "/upload/1?state=x%2Fy"),
            "PATCH" => {
                taken.lock().unwrap().extend_from_slice(&request.body);
                Reply::status(202).header("location", "/upload/2?state=z")
            }
            "PUT" => {
                taken.lock().unwrap().extend_from_slice(&request.body);
                Reply::status(201)
            }
            _ => Reply::status(404),
        }
    })
    .await;
    (server, got)
}

#[tokio::test]
async fn a_blob_is_sent_in_one_piece() {
    let (descriptor, content) = blob(LENGTH);
    let (server, got) = taking(|_| None).await;
    let (seen, told) = progress();
    let store = Memory::with(&[&content]);
    let name = reference(&server.host, "a/b");
    let pushed = registry().push_blob(&name, &descriptor, &[], &store, Some(told)).await.unwrap();
    assert_eq!(pushed, Pushed::Uploaded);
    assert!(*got.lock().unwrap() == content);
    let digest = descriptor.digest.to_string().replace(':', "%3A");
    assert_eq!(
        server.lines(),
        [
            format!("HEAD /v2/a/b/blobs/{}", descriptor.digest),
            "POST /v2/a/b/blobs/uploads/".to_owned(),
            format!("PUT /upload/1?state=x%2Fy&digest={digest}"),
        ]
    );
    let put = &server.requests()[2];
    assert_eq!(put.header("content-length"), Some(LENGTH.to_string().as_str()));
    assert_eq!(put.header("transfer-encoding"), None);
    let seen = seen.lock().unwrap();
    assert!(seen.is_sorted());
    assert_eq!(seen.last(), Some(&(LENGTH as u64)));
}

#[tokio::test]
async fn a_blob_that_is_there_is_not_sent() {
    let (descriptor, _) = blob(LENGTH);
    let (server, _) =
        taking(|request| (request.method == "HEAD").then(|| Reply::status(200))).await;
    let name = reference(&server.host, "a/b");
    let store = Memory::default();
    let pushed = registry().push_blob(&name, &descriptor, &[], &store, None).await.unwrap();
    assert_eq!((pushed, server.lines().len()), (Pushed::Existed, 1));
    assert!(registry().exists(&name, &descriptor).await.unwrap());
}

#[tokio::test]
async fn a_blob_of_another_repository_is_asked_for() {
    let (descriptor, content) = blob(LENGTH);
    let from = ["a/b".to_owned(), "x".to_owned(), "y/z".to_owned()];
    let store = Memory::with(&[&content]);
    for (y, pushed, requests) in
        [(201, Pushed::Mounted, 3), (202, Pushed::Uploaded, 4), (404, Pushed::Uploaded, 5)]
    {
        let (server, _) = taking(move |request| {
            if request.target.contains("from=x") {
                return Some(Reply::status(403));
            }
            if request.target.contains("from=y%2Fz") {
                assert!(request.target.contains("mount=sha256%3A"));
                return Some(Reply::status(y).header("location", "/upload/3"));
            }
            None
        })
        .await;
        let name = reference(&server.host, "a/b");
        let done = registry().push_blob(&name, &descriptor, &from, &store, None).await.unwrap();
        assert_eq!((done, server.lines().len()), (pushed, requests), "{:?}", server.lines());
    }
}

#[tokio::test]
async fn pieces_are_as_long_as_is_asked_for() {
    let (descriptor, content) = blob(LENGTH);
    let (server, got) = taking(|_| None).await;
    let store = Memory::with(&[&content]);
    let mut config = plain();
    config.limits.upload_chunk = Some(1 << 20);
    let name = reference(&server.host, "a/b");
    let registry = Registry::new(config);
    registry.push_blob(&name, &descriptor, &[], &store, None).await.unwrap();
    assert!(*got.lock().unwrap() == content);
    let ranges: Vec<_> = server
        .requests()
        .iter()
        .filter(|request| request.method == "PATCH")
        .map(|request| request.header("content-range").unwrap().to_owned())
        .collect();
    assert_eq!(ranges, ["0-1048575", "1048576-2097151", "2097152-3145727"]);
    assert!(server.lines().last().unwrap().starts_with("PUT /upload/2?state=z&digest="));
}

#[tokio::test]
async fn an_upload_that_broke_goes_on() {
    let (descriptor, content) = blob(LENGTH);
    let first = AtomicUsize::new(0);
    let (server, got) = taking(move |request| match request.method.as_str() {
        // It took a part, and then its disk was full for a moment.
        "PUT" if first.fetch_add(1, Ordering::Relaxed) == 0 => Some(Reply::status(503)),
        "GET" => {
            let reply = Reply::status(204).header("range", "0-999999");
            Some(reply.header("location", "/upload/9"))
        }
        _ => None,
    })
    .await;
    let store = Memory::with(&[&content]);
    let name = reference(&server.host, "a/b");
    registry().push_blob(&name, &descriptor, &[], &store, None).await.unwrap();
    assert!(*got.lock().unwrap() == content[1_000_000..]);
    let lines = server.lines();
    assert_eq!(lines[4], "GET /upload/1?state=x%2Fy");
    assert_eq!(lines[5], "PATCH /upload/9");
    assert!(lines[6].starts_with("PUT /upload/2?state=z&digest="), "{lines:?}");
    assert_eq!(lines.len(), 7);
}

#[tokio::test]
async fn an_upload_that_is_lost_begins_again() {
    let (descriptor, content) = blob(LENGTH);
    let first = AtomicUsize::new(0);
    let (server, got) = taking(move |request| {
        let cut = request.method == "PUT" && first.fetch_add(1, Ordering::Relaxed) == 0;
        cut.then(|| Reply { length: Some(5), ..Reply::status(500) })
    })
    .await;
    let store = Memory::with(&[&content]);
    let name = reference(&server.host, "a/b");
    registry().push_blob(&name, &descriptor, &[], &store, None).await.unwrap();
    assert!(*got.lock().unwrap() == content);
    let begun = server.lines().iter().filter(|line| line.starts_with("POST")).count();
    assert_eq!(begun, 2);
}

#[tokio::test]
async fn an_upload_that_fails_is_given_up() {
    let (descriptor, content) = blob(LENGTH);
    let store = Memory::with(&[&content]);
    let wrong = digest(b"other").to_string();
    for (reply, kind, puts) in [
        (Reply::status(500), ErrorKind::Unavailable, 4),
        (Reply::status(413), ErrorKind::ResourceExhausted, 1),
        (Reply::status(403), ErrorKind::PermissionDenied, 1),
        (Reply::status(201).header("docker-content-digest", wrong), ErrorKind::DataLoss, 1),
        (Reply::silence(), ErrorKind::DeadlineExceeded, 4),
    ] {
        let (server, _) =
            taking(move |request| (request.method == "PUT").then(|| reply.clone())).await;
        let name = reference(&server.host, "a/b");
        let mut config = plain();
        config.limits.request = std::time::Duration::from_millis(500);
        let registry = Registry::new(config);
        let error = registry.push_blob(&name, &descriptor, &[], &store, None).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error:?}");
        let sent = server.lines().iter().filter(|line| line.starts_with("PUT")).count();
        assert_eq!(sent, puts, "{error:?}");
    }
}

#[tokio::test]
async fn what_the_store_says_is_the_error() {
    let (descriptor, content) = blob(LENGTH);
    let (server, _) = taking(|_| None).await;
    let name = reference(&server.host, "a/b");
    let broken = Memory { fails_at: Some(1 << 20), ..Memory::with(&[&content]) };
    let error = registry().push_blob(&name, &descriptor, &[], &broken, None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error:?}");
    let empty = Memory::default();
    let error = registry().push_blob(&name, &descriptor, &[], &empty, None).await.unwrap_err();
    assert!(error.is_not_found(), "{error:?}");
    let longer = Descriptor { size: descriptor.size + 1, ..descriptor };
    let whole = Memory::with(&[&content]);
    let error = registry().push_blob(&name, &longer, &[], &whole, None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DataLoss, "{error:?}");
}

#[tokio::test]
async fn an_upload_elsewhere_gets_no_secret() {
    let (descriptor, content) = blob(LENGTH);
    let (elsewhere, got) = taking(|_| None).await;
    let there = format!("http://{}/there", elsewhere.host);
    let (server, _) = taking(move |request| {
        (request.method == "POST").then(|| Reply::status(202).header("location", &there))
    })
    .await;
    let mut config = plain();
    config.headers = vec![("authorization".to_owned(), "secret".to_owned())];
    let store = Memory::with(&[&content]);
    let name = reference(&server.host, "a/b");
    let registry = Registry::new(config);
    registry.push_blob(&name, &descriptor, &[], &store, None).await.unwrap();
    assert!(*got.lock().unwrap() == content);
    assert_eq!(server.requests()[0].header("authorization"), Some("secret"));
    assert_eq!(elsewhere.requests()[0].header("authorization"), None);
}

#[tokio::test]
async fn only_the_root_gets_the_tag() {
    let (descriptor, bytes) = manifest(&blob(1).0);
    let (server, _) = taking(|_| None).await;
    let tagged = reference(&server.host, "a/b:c");
    let root = tagged.with_digest(descriptor.digest.clone());
    let child = tagged.with_digest(digest(b"another root"));
    for name in [&tagged, &root, &child] {
        registry().put_manifest(name, &descriptor, bytes.clone()).await.unwrap();
    }
    assert_eq!(
        server.lines(),
        [
            "PUT /v2/a/b/manifests/c".to_owned(),
            "PUT /v2/a/b/manifests/c".to_owned(),
            format!("PUT /v2/a/b/manifests/{}", descriptor.digest),
        ]
    );
    let put = &server.requests()[0];
    assert_eq!(put.header("content-type"), Some(media_type::OCI_MANIFEST));
    assert_eq!(put.body, bytes);
    let other = bytes::Bytes::from_static(b"other");
    let error = registry().put_manifest(&tagged, &descriptor, other).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DataLoss);
}

#[tokio::test]
async fn a_tag_that_stands_for_something_else_does_not_exist() {
    let (descriptor, _) = manifest(&blob(1).0);
    let other = digest(b"other");
    let (server, _) = taking(move |request| {
        let head = request.method == "HEAD";
        head.then(|| Reply::status(200).header("docker-content-digest", &other))
    })
    .await;
    let tagged = reference(&server.host, "a/b:c");
    assert!(!registry().exists(&tagged, &descriptor).await.unwrap());
    let named = reference(&server.host, "a/b").with_digest(descriptor.digest.clone());
    assert!(registry().exists(&named, &descriptor).await.unwrap());
}

#[tokio::test]
async fn what_is_about_another_is_listed() {
    let (layer, _) = blob(1);
    let (subject, _) = manifest(&layer);
    let about = format!(
        r#","artifactType":"t","annotations":{{"a":"b"}},"subject":{{"mediaType":"m","digest":"{}","size":{}}}"#,
        subject.digest, subject.size
    );
    let (own, bytes) = manifest_about(&layer, &about);
    // One that knows nothing of it: the list is under a tag.
    let kept: Arc<Mutex<Option<Vec<u8>>>> = Arc::default();
    let (server, _) = taking({
        let kept = kept.clone();
        move |request| {
            let is_list = request.target.contains("/manifests/sha256-");
            match request.method.as_str() {
                "PUT" if is_list => {
                    *kept.lock().unwrap() = Some(request.body.clone());
                    Some(Reply::status(201))
                }
                "GET" if is_list => kept.lock().unwrap().as_ref().map(Reply::ok),
                _ => None,
            }
        }
    })
    .await;
    let name = reference(&server.host, "a/b:c");
    let none = registry().referrers(&name, &subject.digest, None).await.unwrap();
    assert!(none.is_empty());
    for _ in 0..2 {
        registry().put_manifest(&name, &own, bytes.clone()).await.unwrap();
    }
    let found = registry().referrers(&name, &subject.digest, None).await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].digest, own.digest);
    assert_eq!(found[0].artifact_type.as_deref(), Some("t"));
    assert_eq!(found[0].annotations["a"], "b");
    let found = registry().referrers(&name, &subject.digest, Some("u")).await.unwrap();
    assert!(found.is_empty());
    // One that does: it lists them itself, in pages.
    let index = Index::parse(kept.lock().unwrap().as_ref().unwrap()).unwrap().to_json().unwrap();
    let (server, _) = taking(move |request| {
        let page = || Reply::ok(&index).header("content-type", media_type::OCI_INDEX);
        if request.method == "PUT" {
            return Some(Reply::status(201).header("oci-subject", "any"));
        }
        if request.target.contains("page=2") {
            return Some(page());
        }
        let next = "</v2/a/b/referrers/next?page=2>; rel=\"next\"";
        request.target.contains("/referrers/").then(|| page().header("link", next))
    })
    .await;
    let name = reference(&server.host, "a/b:c");
    registry().put_manifest(&name, &own, bytes).await.unwrap();
    assert_eq!(server.lines().len(), 1);
    let found = registry().referrers(&name, &subject.digest, Some("t")).await.unwrap();
    assert_eq!(found.len(), 2);
    let listed = format!("GET /v2/a/b/referrers/{}?artifactType=t", subject.digest);
    assert_eq!(server.lines()[1], listed);
}

#[tokio::test]
async fn a_registry_that_does_not_take_what_it_asked_for_is_given_up() {
    use tokio::{io::AsyncReadExt, io::AsyncWriteExt, net::TcpListener};
    // More than fits into the buffers between us.
    let (descriptor, content) = blob(32 << 20);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let server = tokio::spawn(async move {
        let mut stuck = Vec::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = vec![0; 4096];
            let length = stream.read(&mut head).await.unwrap();
            let reply = match &head[..length.min(4)] {
                b"POST" => "202 Accepted\r\nlocation: /upload/1",
                b"HEAD" => "404 Not Found",
                // It reads no more, and does not go away.
                b"PUT " => {
                    stuck.push(stream);
                    continue;
                }
                _ => "404 Not Found",
            };
            let reply =
                format!("HTTP/1.1 {reply}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            stream.write_all(reply.as_bytes()).await.unwrap();
        }
    });
    let mut config = plain();
    config.limits.tries = 2;
    let store = Memory::with(&[&content]);
    let (seen, told) = progress();
    let name = reference(&host, "a/b");
    let registry = Registry::new(config);
    let pushed = registry.push_blob(&name, &descriptor, &[], &store, Some(told)).await;
    assert_eq!(pushed.unwrap_err().kind(), ErrorKind::DeadlineExceeded);
    assert!(seen.lock().unwrap().iter().all(|bytes| *bytes < descriptor.size));
    server.abort();
}
