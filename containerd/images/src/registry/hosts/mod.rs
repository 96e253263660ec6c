//! Which hosts are asked for the images of a host: those of a folder with a
//! `hosts.toml`, or the host itself.

mod certs;
pub(super) mod file;

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use shim_protocol::{Context, Error, Result};

use super::{RegistryConfig, Scheme, Tls};
use crate::reference::is_localhost;

/// A host as it is configured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Configured {
    /// None where `host` is empty.
    pub(super) scheme: Option<Scheme>,
    /// With its port, if one is named; empty for the host that is asked for.
    pub(super) host: String,
    /// Where its API begins, such as `/v2`.
    pub(super) path: String,
    pub(super) capabilities: Capabilities,
    /// None when nothing is said.
    pub(super) tls: Option<Tls>,
    pub(super) headers: Vec<(String, String)>,
    pub(super) dial_timeout: Option<Duration>,
    /// TLS is tried first, and if the host does not speak it, it is spoken to
    /// without.
    pub(super) plain_fallback: bool,
}

/// What a host may be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Capabilities {
    pub(super) pull: bool,
    pub(super) resolve: bool,
    pub(super) push: bool,
    pub(super) referrers: bool,
}

impl Default for Capabilities {
    fn default() -> Self {
        Self { pull: true, resolve: true, push: true, referrers: true }
    }
}

impl Capabilities {
    fn parse(names: &[String]) -> Result<Self> {
        let mut all = Self { pull: false, resolve: false, push: false, referrers: false };
        for name in names {
            match name.to_ascii_lowercase().as_str() {
                "pull" => all.pull = true,
                "resolve" => all.resolve = true,
                "push" => all.push = true,
                "referrers" => all.referrers = true,
                _ => return Err(Error::precondition(format!("unknown capability {name:?}"))),
            }
        }
        Ok(all)
    }
}

/// Finds the hosts to ask for images of `host`, in this order. Reads files.
///
/// # Errors
/// `FailedPrecondition` when what is configured cannot be.
pub(super) fn find(config: &RegistryConfig, host: &str) -> Result<Vec<Configured>> {
    let mut hosts = match folder(&config.hosts_dirs, host)? {
        Some(folder) => read(&folder)?,
        None => vec![Configured::default()],
    };
    for one in &mut hosts {
        if one.host.is_empty() {
            complete(one, config, host);
        }
        let told_tls = one.tls.is_some() || !config.tls.is_default();
        // Whoever gives certificates for a host means TLS, unless it is clear
        // from the port that there is none.
        if one.scheme == Some(Scheme::Http) && told_tls && port(&one.host) != Some("80") {
            one.scheme = Some(Scheme::Https);
            one.plain_fallback = true;
        }
    }
    Ok(hosts)
}

/// The host itself, with what the file says of how to reach it.
fn complete(one: &mut Configured, config: &RegistryConfig, host: &str) {
    "/v2".clone_into(&mut one.path);
    one.capabilities = Capabilities::default();
    if host == "docker.io" {
        "registry-1.docker.io".clone_into(&mut one.host);
        one.scheme = Some(Scheme::Https);
        return;
    }
    host.clone_into(&mut one.host);
    one.scheme = Some(match config.default_scheme {
        Some(scheme) => scheme,
        None if !is_localhost(host) => Scheme::Https,
        // Nobody gives this machine a certificate; what it answers is trusted.
        None => {
            if port(host) != Some("80") {
                one.tls.get_or_insert_default().skip_verify = true;
            }
            match port(host) {
                None | Some("443") => Scheme::Https,
                Some(_) => Scheme::Http,
            }
        }
    });
}

fn port(host: &str) -> Option<&str> {
    let (_, port) = host.rsplit_once(':')?;
    // Not the end of an address in brackets.
    (!port.contains(']')).then_some(port)
}

/// The folder that says something about a host: `host_port_`, `host:port` or
/// `_default`.
fn folder(roots: &[PathBuf], host: &str) -> Result<Option<PathBuf>> {
    for root in roots {
        let mut names = Vec::new();
        if let Some(port) = port(host) {
            let name = &host[..host.len() - port.len() - 1];
            names.push(format!("{name}_{port}_"));
        }
        names.push(host.to_owned());
        names.push("_default".to_owned());
        for name in names {
            let path = root.join(name);
            if path.try_exists().context("look for", path.display())? {
                return Ok(Some(path));
            }
        }
    }
    Ok(None)
}

fn read(folder: &Path) -> Result<Vec<Configured>> {
    let path = folder.join("hosts.toml");
    match std::fs::read_to_string(&path) {
        Ok(text) if !text.is_empty() => file::parse(&text, folder).context("read", path.display()),
        Ok(_) => certs::find(folder),
        Err(error) if error.kind() == io::ErrorKind::NotFound => certs::find(folder),
        Err(error) => Err(error).context("read", path.display()),
    }
}

#[cfg(test)]
mod tests;
