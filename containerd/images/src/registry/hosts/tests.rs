use std::fs;

use shim_protocol::ErrorKind;

use super::*;

fn config(root: &Path) -> RegistryConfig {
    RegistryConfig { hosts_dirs: vec![root.to_owned()], ..RegistryConfig::default() }
}

fn only(config: &RegistryConfig, host: &str) -> Configured {
    let mut hosts = find(config, host).unwrap();
    assert_eq!(hosts.len(), 1);
    hosts.remove(0)
}

#[test]
fn a_host_stands_for_itself() {
    let none = RegistryConfig::default();
    let docker = only(&none, "docker.io");
    assert_eq!((docker.host.as_str(), docker.path.as_str()), ("registry-1.docker.io", "/v2"));
    for (host, scheme, fallback) in [
        ("h.io", Scheme::Https, false),
        ("h.io:5000", Scheme::Https, false),
        ("localhost", Scheme::Https, false),
        ("localhost:443", Scheme::Https, false),
        ("localhost:5000", Scheme::Https, true),
        ("127.0.0.1:80", Scheme::Http, false),
        ("[::1]:5000", Scheme::Https, true),
    ] {
        let found = only(&none, host);
        assert_eq!((found.scheme, found.plain_fallback), (Some(scheme), fallback), "{host}");
        assert_eq!(found.host, host);
    }
    let plain = RegistryConfig { default_scheme: Some(Scheme::Http), ..RegistryConfig::default() };
    let found = only(&plain, "h.io:5000");
    assert_eq!((found.scheme, found.plain_fallback), (Some(Scheme::Http), false));
    let found = only(&plain, "localhost:5000");
    assert_eq!((found.scheme, found.tls), (Some(Scheme::Http), None));
}

#[test]
fn the_nearest_folder_counts() {
    let root = tempfile::tempdir().unwrap();
    let config = config(root.path());
    let say = |folder: &str, server: &str| {
        fs::create_dir(root.path().join(folder)).unwrap();
        let text = format!("server = \"https://{server}\"");
        fs::write(root.path().join(folder).join("hosts.toml"), text).unwrap();
    };
    assert_eq!(only(&config, "h.io:5000").host, "h.io:5000");
    say("_default", "default.io");
    assert_eq!(only(&config, "h.io:5000").host, "default.io");
    say("h.io:5000", "colon.io");
    assert_eq!(only(&config, "h.io:5000").host, "colon.io");
    say("h.io_5000_", "underscore.io");
    assert_eq!(only(&config, "h.io:5000").host, "underscore.io");
    assert_eq!(only(&config, "h.io").host, "default.io");
}

#[test]
fn a_broken_file_is_told_and_not_passed_over() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("h.io")).unwrap();
    let path = root.path().join("h.io/hosts.toml");
    fs::write(&path, "server = ").unwrap();
    let error = find(&config(root.path()), "h.io").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
}

#[test]
fn a_file_without_server_speaks_of_the_host_itself() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("docker.io")).unwrap();
    let text = "skip_verify = true\n[host.\"http://mirror:80\"]\ncapabilities = [\"pull\"]";
    fs::write(root.path().join("docker.io/hosts.toml"), text).unwrap();
    let hosts = find(&config(root.path()), "docker.io").unwrap();
    assert_eq!(hosts[0].scheme, Some(Scheme::Http));
    assert_eq!(hosts[1].host, "registry-1.docker.io");
    assert!(hosts[1].tls.as_ref().unwrap().skip_verify);
}

#[test]
fn certificates_in_a_folder_are_found() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("h.io");
    fs::create_dir(&folder).unwrap();
    for name in ["b.crt", "a.crt", "c.cert", "c.key", "d.cert", "other"] {
        fs::write(folder.join(name), "").unwrap();
    }
    let tls = only(&config(root.path()), "h.io").tls.unwrap();
    assert_eq!(tls.ca, [folder.join("a.crt"), folder.join("b.crt")]);
    let pairs =
        [(folder.join("c.cert"), Some(folder.join("c.key"))), (folder.join("d.cert"), None)];
    assert_eq!(tls.client, pairs);
}
