//! What a [`super::Registry`] is told: where hosts are configured, how to
//! connect, who we are, and how long to wait.

use std::{path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use shim_protocol::Result;

/// How registries are reached. What a `hosts.toml` says of a host counts more.
#[derive(Clone)]
pub struct RegistryConfig {
    /// Folders with one folder for each host, such as `/etc/containerd/certs.d`.
    /// The first that has something for a host counts.
    pub hosts_dirs: Vec<PathBuf>,
    /// How hosts are spoken to. By default with TLS; hosts of this machine with
    /// TLS if they know it, and without otherwise.
    pub default_scheme: Option<Scheme>,
    /// How to know a host, and be known by it.
    pub tls: Tls,
    /// Sent with each request to a configured host, and to nobody else.
    pub headers: Vec<(String, String)>,
    /// Who we are, and with which version.
    pub user_agent: String,
    /// Asked when a host wants to know who we are; without it we are nobody.
    pub credentials: Option<Arc<dyn CredentialProvider>>,
    /// How long, how often, how much.
    pub limits: Limits,
}

impl Default for RegistryConfig {
    fn default() -> Self {
        Self {
            hosts_dirs: Vec::new(),
            default_scheme: None,
            tls: Tls::default(),
            headers: Vec::new(),
            user_agent: concat!("containerd/", env!("CARGO_PKG_VERSION")).to_owned(),
            credentials: None,
            limits: Limits::default(),
        }
    }
}

/// Whether a host is spoken to with TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Without.
    Http,
    /// With.
    Https,
}

impl Scheme {
    /// As it stands in an address.
    pub fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// How to know a host, and be known by it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// Take any host for the one that is meant.
    pub skip_verify: bool,
    /// Files (PEM) with further authorities beside those of the system.
    pub ca: Vec<PathBuf>,
    /// Our certificates and their keys (PEM); a certificate without a file for
    /// its key has it in its own.
    pub client: Vec<(PathBuf, Option<PathBuf>)>,
}

impl Tls {
    /// Nothing is told.
    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// How long, how often, how much.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Longest wait for a connection.
    pub connect: Duration,
    /// Longest wait for the beginning of an answer.
    pub response: Duration,
    /// Longest wait for the next bytes, in both directions.
    pub idle: Duration,
    /// Longest time for a request that moves no blob, with all its tries; and
    /// how long one that reads a blob is tried again without getting on.
    pub request: Duration,
    /// How often something is tried in all.
    pub tries: u32,
    /// Wait before the second try; doubled before each further one.
    pub backoff: Duration,
    /// Longest wait before a try. A host that asks for a longer one is not tried
    /// again.
    pub backoff_max: Duration,
    /// How many redirections in a row are followed.
    pub redirects: usize,
    /// How many blobs are read from one host at the same time.
    pub bodies_per_host: usize,
    /// Blobs larger than this are sent in pieces of this length, in bytes; by
    /// default all are sent in one.
    pub upload_chunk: Option<u64>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(30),
            response: Duration::from_secs(60),
            idle: Duration::from_secs(60),
            request: Duration::from_secs(120),
            tries: 5,
            backoff: Duration::from_millis(250),
            backoff_max: Duration::from_secs(30),
            redirects: 10,
            bodies_per_host: 10,
            upload_chunk: None,
        }
    }
}

/// Says who we are.
#[async_trait]
pub trait CredentialProvider: Send + Sync {
    /// What `host` shall be told about us; `reference` is what is wanted of it,
    /// and `challenges` are the `WWW-Authenticate` headers it asked with.
    async fn credentials(
        &self,
        host: &str,
        reference: &str,
        challenges: &[String],
    ) -> Result<Credentials>;
}

/// Who we are.
#[derive(Clone, Default, PartialEq, Eq)]
pub enum Credentials {
    /// Nobody.
    #[default]
    None,
    /// Somebody with a password.
    Basic {
        /// Name.
        username: String,
        /// Password.
        password: String,
    },
    /// Somebody for whom the token server made this (also "identity token").
    RefreshToken(String),
    /// Somebody for whom `Authorization` says this.
    Header(String),
}

impl std::fmt::Debug for Credentials {
    /// Shows no secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Basic { .. } => "Basic",
            Self::RefreshToken(_) => "RefreshToken",
            Self::Header(_) => "Header",
        })
    }
}
