//! Convincing registries, and the token servers they name.

// A helper of a test may fail like the test.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use async_trait::async_trait;
use common::{blob, manifest, plain, reference, server::*};
use containerd_images::registry::{CredentialProvider, Credentials, Registry, RegistryConfig};
use shim_protocol::{ErrorKind, Result};
use tokio::task::JoinSet;

/// Says who we are, and remembers who asked.
struct Said {
    credentials: Credentials,
    asked: Arc<Mutex<Vec<String>>>,
}

#[async_trait]
impl CredentialProvider for Said {
    async fn credentials(
        &self,
        host: &str,
        name: &str,
        challenges: &[String],
    ) -> Result<Credentials> {
        self.asked.lock().unwrap().push(format!("{host} {name} {}", challenges.join("|")));
        Ok(self.credentials.clone())
    }
}

fn registry(credentials: Credentials) -> (Registry, Arc<Mutex<Vec<String>>>) {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let said = Said { credentials, asked: asked.clone() };
    let config = RegistryConfig { credentials: Some(Arc::new(said)), ..plain() };
    (Registry::new(config), asked)
}

fn somebody() -> Credentials {
    Credentials::Basic { username: "u ü".to_owned(), password: "p&=:".to_owned() }
}

/// A registry that wants `Bearer good<n>`, with `n` not below `least`, from the
/// token server at `tokens`.
async fn guarded(tokens: &Server, least: usize) -> Server {
    let (descriptor, bytes) = manifest(&blob(1).0);
    let challenge = format!(r#"Bearer realm="http://{}/token",service="s""#, tokens.host);
    Server::start(move |request| {
        let token = request.header("authorization").and_then(|v| v.strip_prefix("Bearer good"));
        if token.is_none_or(|number| number.parse::<usize>().unwrap() < least) {
            return Reply::status(401).header("www-authenticate", &challenge);
        }
        Reply::ok(&bytes)
            .header("content-type", &descriptor.media_type)
            .header("docker-content-digest", &descriptor.digest)
    })
    .await
}

/// A token server whose tokens are numbered.
async fn numbered() -> Server {
    let given = AtomicUsize::new(0);
    Server::start(move |_| {
        let number = given.fetch_add(1, Ordering::Relaxed);
        Reply::ok(format!(r#"{{"token":"good{number}","expires_in":300}}"#))
    })
    .await
}

#[tokio::test]
async fn nobody_gets_a_token_for_what_is_asked() {
    let tokens = numbered().await;
    let server = guarded(&tokens, 0).await;
    let (registry, asked) = registry(Credentials::None);
    let name = reference(&server.host, "a/b:c");
    registry.resolve(&name).await.unwrap();
    registry.resolve(&name).await.unwrap();
    assert_eq!(tokens.lines(), ["GET /token?service=s&scope=repository%3Aa%2Fb%3Apull"]);
    assert_eq!(tokens.requests()[0].header("authorization"), None);
    // Two questions, and a third one with the token at once.
    assert_eq!(server.lines().len(), 3);
    registry.resolve(&reference(&server.host, "other:c")).await.unwrap();
    assert_eq!(tokens.lines().len(), 2);
    let challenge = format!("Bearer realm=\"http://{}/token\",service=\"s\"", tokens.host);
    assert_eq!(*asked.lock().unwrap(), [format!("{} {name} {challenge}", server.host)]);
}

#[tokio::test]
async fn many_share_one_token() {
    let tokens = numbered().await;
    let server = guarded(&tokens, 0).await;
    let (registry, asked) = registry(Credentials::None);
    let mut all = JoinSet::new();
    for _ in 0..20 {
        let (registry, name) = (registry.clone(), reference(&server.host, "a/b:c"));
        all.spawn(async move { registry.resolve(&name).await });
    }
    for result in all.join_all().await {
        result.unwrap();
    }
    assert_eq!(tokens.lines().len(), 1);
    assert_eq!(asked.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_token_that_convinces_no_more_is_replaced_once() {
    let tokens = numbered().await;
    let server = guarded(&tokens, 1).await;
    let (registry, _) = registry(Credentials::None);
    registry.resolve(&reference(&server.host, "a/b:c")).await.unwrap();
    assert_eq!(tokens.lines().len(), 2);
    // But not for ever.
    let server = guarded(&tokens, usize::MAX).await;
    let error = registry.resolve(&reference(&server.host, "a/b:c")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    assert_eq!((tokens.lines().len(), server.lines().len()), (4, 3));
}

#[tokio::test]
async fn somebody_asks_with_a_form() {
    let tokens = numbered().await;
    let server = guarded(&tokens, 0).await;
    let name = reference(&server.host, "a/b:c");
    registry(somebody()).0.resolve(&name).await.unwrap();
    registry(Credentials::RefreshToken("r/t".to_owned())).0.resolve(&name).await.unwrap();
    let requests = tokens.requests();
    assert_eq!(tokens.lines(), ["POST /token", "POST /token"]);
    let form = |at: usize| String::from_utf8(requests[at].body.clone()).unwrap();
    let common = "scope=repository%3Aa%2Fb%3Apull&service=s&client_id=containerd-client";
    assert_eq!(
        form(0),
        format!("{common}&grant_type=password&username=u+%C3%BC&password=p%26%3D%3A")
    );
    assert_eq!(form(1), format!("{common}&grant_type=refresh_token&refresh_token=r%2Ft"));
}

#[tokio::test]
async fn somebody_asks_without_a_form_where_there_is_none() {
    for status in [400, 401, 404, 405] {
        let tokens = Server::start(move |request| match request.method.as_str() {
            "POST" => Reply::status(status),
            _ => Reply::ok(r#"{"access_token":"good0"}"#),
        })
        .await;
        let server = guarded(&tokens, 0).await;
        registry(somebody()).0.resolve(&reference(&server.host, "a/b:c")).await.unwrap();
        let requests = tokens.requests();
        assert_eq!((requests[0].method.as_str(), requests[1].method.as_str()), ("POST", "GET"));
        let header = requests[1].header("authorization").unwrap();
        // printf 'u ü:p&=:' | base64
        assert_eq!(header, "Basic dSDDvDpwJj06");
    }
}

#[tokio::test]
async fn token_servers_that_fail_have_their_errors() {
    for (reply, kind, requests) in [
        (Reply::status(403), ErrorKind::PermissionDenied, 1),
        (Reply::status(500), ErrorKind::Unavailable, 4),
        (Reply::ok("{}"), ErrorKind::PermissionDenied, 1),
        (Reply::ok("<html>"), ErrorKind::DataLoss, 1),
        (Reply::ok(vec![b' '; 2 << 20]), ErrorKind::ResourceExhausted, 1),
        (Reply::silence(), ErrorKind::DeadlineExceeded, 4),
        (Reply::status(302).header("location", "/token?x"), ErrorKind::Unavailable, 2),
    ] {
        let tokens = Server::start(move |_| reply.clone()).await;
        let server = guarded(&tokens, 0).await;
        let (registry, _) = registry(Credentials::None);
        let error = registry.resolve(&reference(&server.host, "a/b:c")).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error:?}");
        assert_eq!(tokens.lines().len(), requests, "{error:?}");
    }
}

#[tokio::test]
async fn a_form_with_a_secret_goes_to_no_other_host() {
    let other = numbered().await;
    let elsewhere = format!("http://{}/", other.host);
    let tokens = Server::start(move |_| Reply::status(307).header("location", &elsewhere)).await;
    let server = guarded(&tokens, 0).await;
    let (registry, _) = registry(somebody());
    assert!(registry.resolve(&reference(&server.host, "a/b:c")).await.is_err());
    assert!(other.lines().is_empty());
}

#[tokio::test]
async fn names_and_passwords_are_told_when_asked_for() {
    let (descriptor, bytes) = manifest(&blob(1).0);
    let server = Server::start(move |request| match request.header("authorization") {
        Some("Basic dSDDvDpwJj06" | "Custom x") => Reply::ok(&bytes)
            .header("content-type", &descriptor.media_type)
            .header("docker-content-digest", &descriptor.digest),
        _ => Reply::status(401)
            .header("www-authenticate", "Negotiate, Basic realm=\"r\"")
            .header("www-authenticate", "Digest realm=\"r\""),
    })
    .await;
    let name = reference(&server.host, "a/b:c");
    let custom = Credentials::Header("Custom x".to_owned());
    for good in [somebody(), custom] {
        let (registry, _) = registry(good);
        registry.resolve(&name).await.unwrap();
        registry.resolve(&name).await.unwrap();
    }
    assert_eq!(server.lines().len(), 6);
    let wrong = Credentials::Basic { username: "u".to_owned(), password: "x".to_owned() };
    for bad in [wrong, Credentials::None, Credentials::Header("Custom y".to_owned())] {
        let before = server.lines().len();
        let tries = if bad == Credentials::None { 1 } else { 2 };
        let error = registry(bad).0.resolve(&name).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        assert_eq!(server.lines().len() - before, tries);
    }
}

#[tokio::test]
async fn what_else_a_registry_wants_to_be_allowed_is_asked_for() {
    let tokens = numbered().await;
    let challenge = format!(
        r#"Bearer realm="http://{}/token",scope="repository:a/b:pull,push x:y""#,
        tokens.host
    );
    let server = Server::start(move |request| match request.header("authorization") {
        Some(_) => Reply::status(404),
        None => Reply::status(401).header("www-authenticate", &challenge),
    })
    .await;
    let (registry, _) = registry(Credentials::None);
    let error = registry.resolve(&reference(&server.host, "a/b:c")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let scopes =
        "scope=repository%3Aa%2Fb%3Apull&scope=repository%3Aa%2Fb%3Apull%2Cpush&scope=x%3Ay";
    assert_eq!(tokens.lines(), [format!("GET /token?{scopes}")]);
}
