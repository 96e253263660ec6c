//! Debian's registry: what we send comes back, over each way to reach it.

// A helper of a test may fail like the test.
#![allow(clippy::unwrap_used)]

mod common;

use std::{fs, sync::Arc};

use async_trait::async_trait;
use common::{Memory, all, blob, config, distribution::*, limits, manifest, plain, reference};
use containerd_images::{
    Reference,
    registry::{CredentialProvider, Credentials, Pushed, Registry, RegistryConfig, Tls},
};
use shim_protocol::{ErrorKind, Result};

/// Real ones may need more time than those of the other tests.
fn patient(config: RegistryConfig) -> RegistryConfig {
    let mut config = config;
    config.limits.response = std::time::Duration::from_secs(30);
    config.limits.idle = std::time::Duration::from_secs(30);
    config
}

/// Sends an image, and gets it back.
async fn push_and_pull(registry: &Registry, name: &Reference) -> Result<()> {
    let (layer, content) = blob(5_000_000);
    let (settings, settings_content) = config();
    let (root, document) = manifest(&layer);
    let store = Memory::with(&[&content, &settings_content]);
    for one in [&layer, &settings] {
        let pushed = registry.push_blob(name, one, &[], &store, None).await?;
        assert_eq!(pushed, Pushed::Uploaded);
        let pushed = registry.push_blob(name, one, &[], &store, None).await?;
        assert_eq!(pushed, Pushed::Existed);
    }
    assert!(!registry.exists(name, &root).await?);
    registry.put_manifest(name, &root, document.clone()).await?;
    assert!(registry.exists(name, &root).await?);
    assert_eq!(registry.resolve(name).await?, root);
    let by_digest = name.with_digest(root.digest.clone());
    assert_eq!(registry.resolve(&by_digest).await?, root);
    assert_eq!(registry.fetch_document(name, &root).await?, document);
    assert_eq!(registry.fetch_document(name, &settings).await?, settings_content);
    assert!(all(registry.fetch(name, &layer, 0).await?).await? == content);
    let mut rest = registry.fetch(name, &layer, 4_999_990).await?;
    assert_eq!(rest.next().await?.unwrap(), content[4_999_990..]);
    Ok(())
}

#[tokio::test]
async fn an_image_comes_back() {
    let server = Distribution::plain();
    let registry = Registry::new(patient(plain()));
    push_and_pull(&registry, &reference(&server.host, "a/b:c")).await.unwrap();
    // Without being told that there is no TLS, too.
    let own = RegistryConfig { limits: limits(), ..RegistryConfig::default() };
    push_and_pull(&Registry::new(patient(own)), &reference(&server.host, "d:e")).await.unwrap();
    // From another repository nothing needs to be sent.
    let (layer, _) = blob(5_000_000);
    let from = ["nothing/here".to_owned(), "a/b".to_owned()];
    let name = reference(&server.host, "f:g");
    let nothing = Memory::default();
    let pushed = registry.push_blob(&name, &layer, &from, &nothing, None).await.unwrap();
    assert_eq!(pushed, Pushed::Mounted);
    for missing in ["a/b:x", "x:c"] {
        let error = registry.resolve(&reference(&server.host, missing)).await.unwrap_err();
        assert!(error.is_not_found(), "{error:?}");
    }
    let unknown = blob(7).0;
    let error = registry.fetch(&name, &unknown, 0).await.err().unwrap();
    assert!(error.is_not_found(), "{error:?}");
    let found = registry.referrers(&name, &unknown.digest, None).await.unwrap();
    assert!(found.is_empty());
}

#[tokio::test]
async fn pieces_come_back_whole() {
    let server = Distribution::plain();
    let mut config = patient(plain());
    config.limits.upload_chunk = Some(700_001);
    push_and_pull(&Registry::new(config), &reference(&server.host, "a/b:c")).await.unwrap();
}

#[tokio::test]
async fn what_is_not_what_it_is_said_to_be_is_refused() {
    let server = Distribution::plain();
    let registry = Registry::new(patient(plain()));
    let name = reference(&server.host, "a/b:c");
    let (layer, content) = blob(100_000);
    let store = Memory::default();
    let wrong: Vec<u8> = content.iter().map(|byte| byte ^ 1).collect();
    store.blobs.lock().unwrap().insert(layer.digest.clone(), wrong.into());
    let error = registry.push_blob(&name, &layer, &[], &store, None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error:?}");
    assert!(error.report().to_string().contains("DIGEST_INVALID"), "{error:?}");
    assert!(!registry.exists(&name, &layer).await.unwrap());
    // Its blobs are missing.
    let (root, document) = manifest(&layer);
    let error = registry.put_manifest(&name, &root, document).await.unwrap_err();
    assert!(error.is_not_found() || error.kind() == ErrorKind::InvalidArgument, "{error:?}");
}

struct Somebody(&'static str);

#[async_trait]
impl CredentialProvider for Somebody {
    async fn credentials(&self, _: &str, _: &str, _: &[String]) -> Result<Credentials> {
        let (username, password) = (USER.0.to_owned(), self.0.to_owned());
        Ok(Credentials::Basic { username, password })
    }
}

#[tokio::test]
async fn a_guarded_registry_lets_us_in_with_the_password() {
    let server = Distribution::guarded();
    let name = reference(&server.host, "a/b:c");
    let with = |password| RegistryConfig {
        credentials: Some(Arc::new(Somebody(password))),
        ..patient(plain())
    };
    let error = Registry::new(patient(plain())).resolve(&name).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    let error = Registry::new(with("wrong")).resolve(&name).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    push_and_pull(&Registry::new(with(USER.1)), &name).await.unwrap();
}

#[tokio::test]
async fn a_certificate_is_checked_unless_told_otherwise() {
    let server = Distribution::with_tls(false);
    let with = |tls: Tls| {
        let scheme = Some(containerd_images::registry::Scheme::Https);
        patient(RegistryConfig {
            tls,
            default_scheme: scheme,
            limits: limits(),
            ..RegistryConfig::default()
        })
    };
    let error = Registry::new(with(Tls::default()))
        .resolve(&reference(&server.host, "a:b"))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    assert!(error.report().to_string().contains("certificate"), "{error:?}");
    let known = Tls { ca: vec![server.file("ca.crt")], ..Tls::default() };
    push_and_pull(&Registry::new(with(known)), &reference(&server.host, "a:b")).await.unwrap();
    let any = Tls { skip_verify: true, ..Tls::default() };
    push_and_pull(&Registry::new(with(any)), &reference(&server.host, "c:d")).await.unwrap();
    // A host of this machine is believed without more, as Go does it.
    let own = patient(RegistryConfig { limits: limits(), ..RegistryConfig::default() });
    push_and_pull(&Registry::new(own), &reference(&server.host, "e:f")).await.unwrap();
    let missing = Tls { ca: vec![server.file("no.crt")], ..Tls::default() };
    let error =
        Registry::new(with(missing)).resolve(&reference(&server.host, "a:b")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition, "{error:?}");
}

#[tokio::test]
async fn we_show_our_certificate_where_one_is_wanted() {
    let server = Distribution::with_tls(true);
    let folder = tempfile::tempdir().unwrap();
    let config = |folder: &std::path::Path| {
        patient(RegistryConfig {
            hosts_dirs: vec![folder.to_owned()],
            limits: limits(),
            ..RegistryConfig::default()
        })
    };
    let name = reference(&server.host, "a/b:c");
    let of_host = folder.path().join(&server.host);
    fs::create_dir(&of_host).unwrap();
    fs::copy(server.file("ca.crt"), of_host.join("ca.crt")).unwrap();
    let error = Registry::new(config(folder.path())).resolve(&name).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    // Docker's way.
    fs::copy(server.file("client.crt"), of_host.join("client.cert")).unwrap();
    fs::copy(server.file("client.key"), of_host.join("client.key")).unwrap();
    push_and_pull(&Registry::new(config(folder.path())), &name).await.unwrap();
    // The other one, for a host that does not exist.
    let other = folder.path().join("h.io");
    fs::create_dir(&other).unwrap();
    let text = format!(
        "server = \"https://{}\"\nca = [\"{}\"]\nclient = [[\"../{}/client.cert\", \"{}\"]]\n",
        server.host,
        server.file("ca.crt").display(),
        server.host,
        server.file("client.key").display()
    );
    fs::write(other.join("hosts.toml"), text).unwrap();
    let registry = Registry::new(config(folder.path()));
    push_and_pull(&registry, &Reference::parse("h.io/d/e:f").unwrap()).await.unwrap();
}

#[tokio::test]
async fn a_mirror_gives_what_it_has() {
    let (mirror, itself) = (Distribution::plain(), Distribution::plain());
    let direct = Registry::new(patient(plain()));
    push_and_pull(&direct, &reference(&itself.host, "a/b:c")).await.unwrap();
    push_and_pull(&direct, &reference(&mirror.host, "only/here:d")).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("h.io")).unwrap();
    let text = format!(
        "server = \"http://{}\"\n[host.\"http://{}\"]\ncapabilities = [\"pull\", \"resolve\"]\n",
        itself.host, mirror.host
    );
    fs::write(folder.path().join("h.io/hosts.toml"), text).unwrap();
    let registry = Registry::new(RegistryConfig {
        hosts_dirs: vec![folder.path().to_owned()],
        ..patient(plain())
    });
    let (layer, content) = blob(5_000_000);
    for name in ["h.io/a/b:c", "h.io/only/here:d"] {
        let name = Reference::parse(name).unwrap();
        registry.resolve(&name).await.unwrap();
        assert!(all(registry.fetch(&name, &layer, 0).await.unwrap()).await.unwrap() == content);
    }
    // What is sent does not go to the mirror.
    push_and_pull(&registry, &Reference::parse("h.io/new:e").unwrap()).await.unwrap();
    direct.resolve(&reference(&itself.host, "new:e")).await.unwrap();
    let error = direct.resolve(&reference(&mirror.host, "new:e")).await.unwrap_err();
    assert!(error.is_not_found());
    // Without the mirror there is still the host.
    drop(mirror);
    registry.resolve(&Reference::parse("h.io/a/b:c").unwrap()).await.unwrap();
}
