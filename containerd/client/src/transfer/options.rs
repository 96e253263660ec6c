//! How to move images.

use std::{collections::BTreeMap, fmt, path::PathBuf, sync::Arc};

use async_trait::async_trait;
use containerd_images::{
    Platform,
    archive::names::NameRule,
    registry::{CredentialProvider, Registry, RegistryConfig, Scheme, Tls},
};

use super::Progress;

pub use containerd_images::registry::Credentials;

/// Called when a transfer has come further.
pub type OnProgress = Arc<dyn Fn(Progress) + Send + Sync>;

/// Who moves images.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Where {
    /// The daemon if it can, or else this side.
    #[default]
    Anywhere,
    /// The daemon.
    Daemon,
    /// This side.
    Local,
}

/// How to reach a registry.
#[derive(Clone, Debug, Default)]
pub struct RegistryOptions {
    /// Who we are.
    pub credentials: Credentials,
    /// Folder with one folder for each host, with its `hosts.toml`.
    pub hosts_dir: Option<PathBuf>,
    /// Speak without TLS, unless a `hosts.toml` says otherwise.
    pub plain_http: bool,
    /// Take any host for the one that is meant. Only on this side.
    pub skip_verify: bool,
    /// File (PEM) with further authorities. Only on this side.
    pub ca: Option<PathBuf>,
    /// Files (PEM) with our certificate and its key. Only on this side.
    pub client: Option<(PathBuf, PathBuf)>,
}

impl RegistryOptions {
    /// Whether only this side can do it: the daemon cannot be told all.
    pub fn is_local(&self) -> bool {
        self.skip_verify || self.ca.is_some() || self.client.is_some()
    }

    /// The registries, to talk to them from this side.
    pub fn registry(&self) -> Registry {
        let client = self.client.iter().cloned().map(|(cert, key)| (cert, Some(key)));
        Registry::new(RegistryConfig {
            hosts_dirs: self.hosts_dir.iter().cloned().collect(),
            default_scheme: self.plain_http.then_some(Scheme::Http),
            tls: Tls {
                skip_verify: self.skip_verify,
                ca: self.ca.iter().cloned().collect(),
                client: client.collect(),
            },
            credentials: match &self.credentials {
                Credentials::None => None,
                known => Some(Arc::new(Known(known.clone()))),
            },
            ..RegistryConfig::default()
        })
    }
}

/// Who we are, whoever asks.
struct Known(Credentials);

#[async_trait]
impl CredentialProvider for Known {
    async fn credentials(
        &self,
        _: &str,
        _: &str,
        _: &[String],
    ) -> shim_protocol::Result<Credentials> {
        Ok(self.0.clone())
    }
}

/// How to pull.
#[derive(Clone, Default)]
pub struct PullOptions {
    /// How to reach the registry.
    pub registry: RegistryOptions,
    /// For which platforms; that of this machine if there is none.
    pub platforms: Vec<Platform>,
    /// For all platforms.
    pub all_platforms: bool,
    /// Manifests and configurations of the other platforms too.
    pub all_metadata: bool,
    /// Labels of the image.
    pub labels: BTreeMap<String, String>,
    /// Snapshotter that it is unpacked in; an empty name is the namespace's.
    pub unpack: Option<String>,
    /// How many downloads there are at once; 0 is as many as usual. Only on this
    /// side: a daemon has its own limit.
    pub max_downloads: usize,
    /// Who does it.
    pub place: Where,
    /// Who wants to know how far it has come.
    pub progress: Option<OnProgress>,
}

/// How to push.
#[derive(Clone, Default)]
pub struct PushOptions {
    /// How to reach the registry.
    pub registry: RegistryOptions,
    /// For which platforms; all if there is none.
    pub platforms: Vec<Platform>,
    /// How many uploads there are at once; 0 is as many as usual. Only on this
    /// side: a daemon has its own limit.
    pub max_uploads: usize,
    /// Who does it.
    pub place: Where,
    /// Who wants to know how far it has come.
    pub progress: Option<OnProgress>,
}

/// How to import.
#[derive(Clone, Default)]
pub struct ImportOptions {
    /// Which names images get.
    pub names: Vec<NameRule>,
    /// Name of the index of all images; it gets none if this is empty.
    pub index_name: String,
    /// For which platforms; all if there is none.
    pub platforms: Vec<Platform>,
    /// Labels of the images.
    pub labels: BTreeMap<String, String>,
    /// Platform and snapshotter that they are unpacked for; an empty name is the
    /// namespace's.
    pub unpack: Option<(Platform, String)>,
    /// Compresses layers that are not.
    pub compress: bool,
    /// Leaves layers to the garbage collector when they are unpacked. Only on
    /// this side.
    pub discard_layers: bool,
    /// Who does it.
    pub place: Where,
    /// Who wants to know how far it has come.
    pub progress: Option<OnProgress>,
}

/// How to export.
#[derive(Clone, Default)]
pub struct ExportOptions {
    /// For which platforms; that of this machine if there is none.
    pub platforms: Vec<Platform>,
    /// For all platforms.
    pub all_platforms: bool,
    /// Leaves out what makes it one of Docker's archives too.
    pub skip_docker_manifest: bool,
    /// Leaves out layers that must not be given on.
    pub skip_non_distributable: bool,
    /// Who does it.
    pub place: Where,
    /// Who wants to know how far it has come.
    pub progress: Option<OnProgress>,
}

/// Shows all but who is told.
macro_rules! debug {
    ($($name:ident),+) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name))
                    .field("platforms", &self.platforms)
                    .field("place", &self.place)
                    .finish_non_exhaustive()
            }
        }
    )+};
}
debug!(PullOptions, PushOptions, ImportOptions, ExportOptions);
