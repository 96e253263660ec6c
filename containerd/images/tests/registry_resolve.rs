//! What a name stands for, from registries that are well and from those that
//! are not.

// A helper of a test may fail like the test.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::atomic::{AtomicUsize, Ordering};

use common::{blob, digest, limits, manifest, plain, reference, registry, server::*};
use containerd_images::{
    Descriptor, media_type,
    registry::{Registry, RegistryConfig, Scheme},
};
use shim_protocol::{ErrorKind, Result};

/// Resolves `a/b:c` at a server.
async fn resolve(server: &Server) -> Result<Descriptor> {
    registry().resolve(&reference(&server.host, "a/b:c")).await
}

fn described(descriptor: &Descriptor, bytes: &[u8]) -> Reply {
    Reply::ok(bytes)
        .header("content-type", &descriptor.media_type)
        .header("docker-content-digest", &descriptor.digest)
}

#[tokio::test]
async fn one_question_is_enough() {
    let (descriptor, bytes) = manifest(&blob(1).0);
    let expected = descriptor.clone();
    let server = Server::start(move |_| described(&descriptor, &bytes)).await;
    assert_eq!(resolve(&server).await.unwrap(), expected);
    assert_eq!(server.lines(), ["HEAD /v2/a/b/manifests/c"]);
    let request = &server.requests()[0];
    assert!(request.header("accept").unwrap().contains(media_type::OCI_INDEX));
    assert!(request.header("user-agent").unwrap().starts_with("containerd/"));
    assert_eq!(request.header("authorization"), None);
}

#[tokio::test]
async fn what_head_does_not_tell_is_taken_from_the_document() {
    let (descriptor, bytes) = manifest(&blob(1).0);
    for missing in ["docker-content-digest", "content-type", "content-length", "HEAD"] {
        let (descriptor, bytes) = (descriptor.clone(), bytes.clone());
        let expected = descriptor.clone();
        let server = Server::start(move |request| {
            if missing == "HEAD" && request.method == "HEAD" {
                return Reply::status(405);
            }
            let mut reply = described(&descriptor, &bytes);
            reply.headers.retain(|(name, _)| name != missing);
            if missing == "content-length" {
                reply.length = None;
            }
            reply
        })
        .await;
        assert_eq!(resolve(&server).await.unwrap(), expected, "{missing}");
        assert_eq!(server.lines().len(), 2, "{missing}");
    }
}

#[tokio::test]
async fn a_digest_is_looked_for_among_blobs_last() {
    let (descriptor, bytes) = blob(100);
    let wanted = descriptor.digest.clone();
    let server = Server::start(move |request| {
        if request.target.contains("/blobs/") {
            return Reply::ok(&bytes).header("content-type", "application/octet-stream");
        }
        Reply::status(404)
    })
    .await;
    let named = reference(&server.host, "a/b").with_digest(wanted.clone());
    let found = registry().resolve(&named).await.unwrap();
    assert_eq!((found.digest, found.size), (wanted, 100));
}

#[tokio::test]
async fn a_digest_that_is_not_that_of_the_document_is_seen() {
    let (descriptor, bytes) = manifest(&blob(1).0);
    let server = Server::start(move |request| {
        if request.method == "HEAD" {
            return Reply::status(405);
        }
        let other = Descriptor { digest: digest(b"other"), ..descriptor.clone() };
        described(&other, &bytes)
    })
    .await;
    assert_eq!(resolve(&server).await.unwrap_err().kind(), ErrorKind::DataLoss);
}

#[tokio::test]
async fn bad_answers_have_their_errors() {
    let schema1 = "application/vnd.docker.distribution.manifest.v1+prettyjws";
    let (descriptor, bytes) = manifest(&blob(1).0);
    let good = described(&descriptor, &bytes);
    let with = |name: &str, value: &str| {
        let mut reply = good.clone();
        reply.headers.retain(|(key, _)| key != name);
        reply.header(name, value)
    };
    let ten_megabytes = vec![b' '; 10 << 20];
    for (reply, kind, requests) in [
        (Reply::status(404), ErrorKind::NotFound, 1),
        (Reply::status(403), ErrorKind::PermissionDenied, 2),
        (Reply::status(400), ErrorKind::InvalidArgument, 1),
        (Reply::status(429), ErrorKind::Unavailable, 4),
        (Reply::status(500), ErrorKind::Unavailable, 4),
        (Reply::status(504), ErrorKind::DeadlineExceeded, 4),
        (Reply::status(401), ErrorKind::PermissionDenied, 1),
        (with("docker-content-digest", "sha256:0"), ErrorKind::DataLoss, 1),
        (with("content-type", schema1), ErrorKind::Unimplemented, 1),
        (with("x-huge", &"a".repeat(1 << 20)), ErrorKind::Unavailable, 4),
        (Reply { length: Some(10 << 20), ..good.clone() }, ErrorKind::ResourceExhausted, 1),
        (Reply { length: None, ..Reply::ok(&ten_megabytes) }, ErrorKind::ResourceExhausted, 2),
        (Reply::ok("not a document"), ErrorKind::InvalidArgument, 2),
    ] {
        let told = format!("{} {:?}", reply.status, reply.headers.first());
        let server = Server::start(move |_| reply.clone()).await;
        let error = resolve(&server).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{}: {error:?}", told.get(..80).unwrap_or(&told));
        assert_eq!(server.lines().len(), requests, "{}", told.get(..80).unwrap_or(&told));
    }
}

#[tokio::test]
async fn what_a_registry_says_of_an_error_is_shown_in_part() {
    let text = format!(
        r#"{{"errors":[{{"code":"DENIED","message":"not\n{}"}},{{"code":"X"}}]}}"#,
        "x".repeat(5000)
    );
    let server = Server::start(move |_| Reply::status(403).body(&text)).await;
    let report = resolve(&server).await.unwrap_err().report().to_string();
    assert!(report.contains("DENIED: not xxx"), "{report}");
    assert!(report.len() < 1000, "{}", report.len());
}

#[tokio::test]
async fn a_registry_that_hangs_is_given_up() {
    let server = Server::start(|_| Reply::silence()).await;
    let error = resolve(&server).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DeadlineExceeded);
    assert_eq!(server.lines().len(), 4);
    // In the middle of a document, too.
    let server = Server::start(|request| match request.method.as_str() {
        "HEAD" => Reply::status(405),
        _ => Reply { stall: Some(3), ..Reply::ok("{\"a\":1}") },
    })
    .await;
    assert_eq!(resolve(&server).await.unwrap_err().kind(), ErrorKind::DeadlineExceeded);
    // And one that is not there.
    let registry = Registry::new(plain());
    let error = registry.resolve(&reference("127.0.0.1:1", "a/b:c")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
}

#[tokio::test]
async fn busy_registries_are_asked_again() {
    let (descriptor, bytes) = manifest(&blob(1).0);
    let asked = AtomicUsize::new(0);
    let server = Server::start(move |_| match asked.fetch_add(1, Ordering::Relaxed) {
        0 => Reply::status(429).header("retry-after", 0),
        1 => Reply::status(503).header("retry-after", "Wed, 21 Oct 2015 07:28:00 GMT"),
        2 => Reply::status(502).header("retry-after", "soon"),
        _ => described(&descriptor, &bytes),
    })
    .await;
    resolve(&server).await.unwrap();
    assert_eq!(server.lines().len(), 4);
    for later in ["86400", "Thu, 21 Oct 2055 07:28:00 GMT"] {
        let server = Server::start(move |_| Reply::status(429).header("retry-after", later)).await;
        let error = resolve(&server).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.report().to_string().contains("try again in"), "{}", error.report());
        assert_eq!(server.lines().len(), 1, "{later}");
    }
}

#[tokio::test]
async fn redirections_are_followed_but_not_for_ever() {
    let (descriptor, bytes) = manifest(&blob(1).0);
    let (good, expected) = (described(&descriptor, &bytes), descriptor.clone());
    let server = Server::start(move |request| match request.target.as_str() {
        "/v2/a/b/manifests/c" => Reply::status(307).header("location", "/elsewhere?x=y"),
        "/elsewhere?x=y" => good.clone(),
        _ => Reply::status(404),
    })
    .await;
    assert_eq!(resolve(&server).await.unwrap(), expected);
    for (next, requests) in [("/v2/a/b/manifests/c", 1), ("/again", 2), ("more", 11)] {
        let asked = AtomicUsize::new(0);
        let server = Server::start(move |_| {
            let at = asked.fetch_add(1, Ordering::Relaxed);
            let next = if next == "more" { format!("/more/{at}") } else { next.to_owned() };
            Reply::status(302).header("location", next)
        })
        .await;
        assert_eq!(resolve(&server).await.unwrap_err().kind(), ErrorKind::Unavailable);
        assert_eq!(server.lines().len(), requests, "{next}");
    }
    for bad in ["ftp://a/", "http://", "http://u:p@127.0.0.1/", "file:///etc/passwd"] {
        let server = Server::start(move |_| Reply::status(302).header("location", bad)).await;
        assert!(resolve(&server).await.is_err());
        assert_eq!(server.lines().len(), 1, "{bad}");
    }
}

#[tokio::test]
async fn hosts_of_this_machine_need_no_tls() {
    let (descriptor, bytes) = manifest(&blob(1).0);
    let good = described(&descriptor, &bytes);
    let server = Server::start(move |_| good.clone()).await;
    let config = RegistryConfig { limits: limits(), ..RegistryConfig::default() };
    let registry = Registry::new(config.clone());
    let name = reference(&server.host, "a/b:c");
    assert_eq!(registry.resolve(&name).await.unwrap(), descriptor);
    assert_eq!(registry.resolve(&name).await.unwrap(), descriptor);
    assert_eq!(server.lines().len(), 2);
    // But where TLS is asked for, it is.
    let strict = RegistryConfig { default_scheme: Some(Scheme::Https), ..config };
    let error = Registry::new(strict).resolve(&name).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(server.lines().len(), 2);
}

#[tokio::test]
async fn mirrors_are_asked_first_and_the_host_last() {
    let (descriptor, bytes) = manifest(&blob(1).0);
    let good = described(&descriptor, &bytes);
    let empty = Server::start(|_| Reply::status(404)).await;
    let broken = Server::start(|_| Reply::status(500)).await;
    let itself = Server::start(move |_| good.clone()).await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("h.io")).unwrap();
    let text = format!(
        "server = \"http://{}\"\n\
         [host.\"http://127.0.0.1:1\"]\n\
         [host.\"http://{}/sub\"]\n\
         [host.\"http://{}/sub\".header]\nx-key = \"k\"\n\
         [host.\"http://{}\"]\ncapabilities = [\"pull\", \"push\"]\n\
         [host.\"http://{}/\"]\n",
        itself.host, empty.host, empty.host, empty.host, broken.host
    );
    std::fs::write(folder.path().join("h.io/hosts.toml"), text).unwrap();
    let config = RegistryConfig {
        hosts_dirs: vec![folder.path().to_owned()],
        headers: vec![("x-all".to_owned(), "a".to_owned())],
        ..plain()
    };
    let registry = Registry::new(config);
    let found = registry.resolve(&reference("h.io", "a/b:c")).await.unwrap();
    assert_eq!(found, descriptor);
    assert_eq!(empty.lines(), ["HEAD /sub/v2/a/b/manifests/c?ns=h.io"]);
    assert_eq!(empty.requests()[0].header("x-key"), Some("k"));
    assert_eq!(empty.requests()[0].header("x-all"), Some("a"));
    // Another host can be asked, so this one is not asked again.
    assert_eq!(broken.lines(), ["HEAD /v2/a/b/manifests/c?ns=h.io"]);
    assert_eq!(broken.requests()[0].header("x-key"), None);
    assert_eq!(itself.lines(), ["HEAD /v2/a/b/manifests/c?ns=h.io"]);
}
