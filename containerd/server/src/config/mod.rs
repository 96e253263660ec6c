//! The daemon's configuration: what files and flags say, checked and complete.
//!
//! The format is containerd's, versions 1 to 4. Keys and plugins that we do
//! not have are accepted with a warning; a wrong type is an error that names
//! the key and the file.

mod dump;
mod duration;
mod file;
mod glob;
mod read;
mod reader;
mod v1;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use containerd_core::{content::Sharing, gc::SchedulerConfig, snapshots::OverlayConfig};
use shim_protocol::{Context, Error, Id, Result};
use tracing::level_filters::LevelFilter;

use self::reader::Reader;
use crate::{
    plugins::{self, PluginName},
    rest,
};

/// Where the file is looked for when no flag names one.
pub(crate) const DEFAULT_PATH: &str = "/etc/containerd/config.toml";

/// Where clients find the daemon by default.
pub(crate) const DEFAULT_ADDRESS: &str = "/run/containerd/containerd.sock";

/// Names of the sections that [`Config`] is read from.
mod section {
    pub(super) const DIFF: &str = "io.containerd.service.v1.diff-service";
    /// Settings of containerd's database that are about what is in it.
    pub(super) const METADATA: &str = "io.containerd.metadata.v1.bolt";
    pub(super) const RESTART: &str = "io.containerd.internal.v1.restart";
    pub(super) const RUNTIME: &str = "io.containerd.runtime.v2.task";
    pub(super) const SHIMS: &str = "io.containerd.shim.v1.manager";
    /// Server settings in version 4 of the file.
    pub(super) const GRPC: &str = "io.containerd.server.v1.grpc";
    pub(super) const TTRPC: &str = "io.containerd.server.v1.ttrpc";
    pub(super) const GC: &str = "io.containerd.gc.v1.scheduler";
    pub(super) const OVERLAY: &str = "io.containerd.snapshotter.v1.overlayfs";
    pub(super) const NATIVE: &str = "io.containerd.snapshotter.v1.native";
    pub(super) const BTRFS: &str = "io.containerd.snapshotter.v1.btrfs";
    pub(super) const TRANSFER: &str = "io.containerd.transfer.v1.local";
    /// Containers of the APIs of 2015.
    pub(super) const LEGACY: &str = "io.containerd.legacy.v1.containers";
    pub(super) const REST: &str = "io.containerd.legacy.v1.rest";
}

/// Everything the daemon can be told.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Config {
    /// Folder of what outlives a reboot.
    pub(crate) root: PathBuf,
    /// Folder of what does not: bundles, journal, sockets.
    pub(crate) state: PathBuf,
    /// Folder for temporary files; the system's if there is none.
    pub(crate) temp: Option<PathBuf>,
    /// The daemon's own `oom_score_adj`; 0 leaves it as it is.
    pub(crate) oom_score: i32,
    pub(crate) disabled_plugins: Vec<PluginName>,
    pub(crate) required_plugins: Vec<PluginName>,
    pub(crate) imports: Vec<String>,
    pub(crate) grpc: Grpc,
    /// The address is the one of gRPC with `.ttrpc` behind it if none is given.
    pub(crate) ttrpc: Socket,
    pub(crate) log: Log,
    /// Cgroup that the daemon joins, from the root of the hierarchy.
    pub(crate) cgroup_path: Option<String>,
    pub(crate) timeouts: BTreeMap<String, Duration>,
    pub(crate) proxy_plugins: BTreeMap<String, ProxyPlugin>,
    /// How often the restart monitor compares what is with what shall be.
    pub(crate) restart_interval: Duration,
    /// Whether namespaces have each other's content by naming it.
    pub(crate) content_sharing: Sharing,
    /// Whether the disk has all of a layer when it is unpacked.
    pub(crate) sync_layers: bool,
    /// When garbage is collected.
    pub(crate) gc: SchedulerConfig,
    /// Further environment of shims.
    pub(crate) shim_env: Vec<(String, String)>,
    pub(crate) snapshotters: Snapshotters,
    pub(crate) transfer: Transfer,
    pub(crate) legacy: Legacy,
    pub(crate) rest: Rest,
    pub(crate) metrics: Metrics,
    /// How many tasks are made or started at the same time; 0 is no limit.
    pub(crate) concurrency: usize,
}

/// Figures of the daemon and of its containers.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Metrics {
    /// `host:port` where they are served for Prometheus; empty: they are not.
    pub(crate) address: String,
    /// How often those of the daemon are logged; zero: they are not.
    pub(crate) interval: Duration,
    /// Whether it is served how long gRPC requests take.
    pub(crate) grpc_histogram: bool,
}

/// Containers of the APIs of 2015.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Legacy {
    /// Where they are.
    pub(crate) namespace: Id,
    /// Runtime of those; empty: the one of all containers that name none.
    pub(crate) runtime: String,
    /// Their OCI runtime; empty: the shim's own.
    pub(crate) binary: String,
    /// Name of this instance; empty: the name of the host.
    pub(crate) id: String,
    /// Whether subscribers hear of it when the kernel kills for want of memory.
    pub(crate) oom_notify: bool,
}

/// The REST API of 2015.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Rest {
    /// `host:port` or `unix:///path`; empty: it is not served.
    pub(crate) address: String,
    /// Whether the address may be one that other hosts can reach.
    pub(crate) allow_remote: bool,
}

impl Default for Legacy {
    fn default() -> Self {
        // A constant that is well formed.
        let namespace = Id::new("namespace", "legacy").unwrap_or_else(|e| unreachable!("{e:?}"));
        let (runtime, binary, id) = Default::default();
        Self { namespace, runtime, binary, id, oom_notify: true }
    }
}

/// How images are moved.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Transfer {
    /// How many downloads there may be at once.
    pub(crate) max_downloads: usize,
    /// How many uploads there may be at once.
    pub(crate) max_uploads: usize,
    /// Folders in which registries are configured.
    pub(crate) hosts_dirs: Vec<PathBuf>,
    /// Operating systems whose images can be unpacked, and the snapshotters for
    /// that; all to all if that is not said.
    pub(crate) unpack: Option<Vec<(String, String)>>,
}

impl Default for Transfer {
    fn default() -> Self {
        Self { max_downloads: 3, max_uploads: 3, hosts_dirs: Vec::new(), unpack: None }
    }
}

/// Settings of our own snapshotters. A folder is below the root if none is
/// given.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Snapshotters {
    pub(crate) overlay: OverlayConfig,
    pub(crate) overlay_root: Option<PathBuf>,
    /// Whether an overlay's files are gone when its removal is answered.
    pub(crate) overlay_sync_remove: bool,
    pub(crate) native_root: Option<PathBuf>,
    pub(crate) btrfs_root: Option<PathBuf>,
}

/// A socket and who may use it besides root.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Socket {
    pub(crate) address: PathBuf,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// The socket of clients.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Grpc {
    pub(crate) socket: Socket,
    /// Largest message that is accepted, in bytes.
    pub(crate) max_recv_message_size: usize,
    /// Largest message that is sent, in bytes.
    pub(crate) max_send_message_size: usize,
}

/// What is logged, and how.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Log {
    pub(crate) level: LevelFilter,
    pub(crate) format: LogFormat,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

/// Our own content store, among the plugins of its type.
const LOCAL_CONTENT: &str = "content";

/// Where content is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum ContentPlace<'a> {
    /// Below the root.
    Root,
    /// With another process; its name and what is said of it.
    Proxy(&'a str, &'a ProxyPlugin),
}

/// A part of the daemon that another process provides.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ProxyPlugin {
    /// `snapshot`, `content`, `sandbox` or `diff`.
    pub(crate) kind: String,
    /// Path of the gRPC socket.
    pub(crate) address: String,
    pub(crate) platform: String,
    pub(crate) exports: BTreeMap<String, String>,
    pub(crate) capabilities: Vec<String>,
}

/// What flags say; they go before files.
#[derive(Clone, Debug, Default)]
pub(crate) struct Overrides {
    pub(crate) root: Option<PathBuf>,
    pub(crate) state: Option<PathBuf>,
    pub(crate) address: Option<PathBuf>,
    pub(crate) log_level: Option<LevelFilter>,
    /// Options of 2015.
    pub(crate) id: Option<String>,
    pub(crate) concurrency: Option<usize>,
    pub(crate) metrics_interval: Option<Duration>,
    pub(crate) oom_notify: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            root: "/var/lib/containerd".into(),
            state: "/run/containerd".into(),
            temp: None,
            oom_score: 0,
            disabled_plugins: Vec::new(),
            required_plugins: Vec::new(),
            imports: Vec::new(),
            grpc: Grpc {
                socket: Socket { address: DEFAULT_ADDRESS.into(), uid: 0, gid: 0 },
                max_recv_message_size: 16 << 20,
                max_send_message_size: 16 << 20,
            },
            ttrpc: Socket::default(),
            log: Log { level: LevelFilter::INFO, format: LogFormat::Text },
            cgroup_path: None,
            timeouts: default_timeouts(),
            proxy_plugins: BTreeMap::new(),
            restart_interval: Duration::from_secs(10),
            content_sharing: Sharing::Shared,
            sync_layers: false,
            gc: SchedulerConfig::default(),
            shim_env: Vec::new(),
            snapshotters: Snapshotters::default(),
            transfer: Transfer::default(),
            legacy: Legacy::default(),
            rest: Rest::default(),
            metrics: Metrics::default(),
            concurrency: 0,
        }
    }
}

/// Names and defaults of the timeouts that we use.
fn default_timeouts() -> BTreeMap<String, Duration> {
    let default = runtime_v2::Timeouts::default();
    [
        ("io.containerd.timeout.shim.cleanup", default.cleanup),
        ("io.containerd.timeout.shim.load", default.load),
        ("io.containerd.timeout.shim.shutdown", default.shutdown),
        ("io.containerd.timeout.shim.start", default.start),
        ("io.containerd.timeout.task.state", default.state),
    ]
    .map(|(name, duration)| (name.to_owned(), duration))
    .into()
}

impl Config {
    /// Reads `file` and what it imports, and puts the flags on top. Without a
    /// file the defaults hold. Also returns what the operator should be told.
    ///
    /// # Errors
    /// `InvalidArgument` naming file and key when something cannot be meant.
    pub(crate) fn load(file: Option<&Path>, flags: Overrides) -> Result<(Self, Vec<String>)> {
        let mut warnings = Vec::new();
        let mut config = match file {
            None => Self::default(),
            Some(path) => {
                let loaded = file::load(path)?;
                warnings.extend(loaded.warnings);
                for (path, table) in loaded.files {
                    // Each file by itself first, so that a complaint can name it.
                    let mut unknown = Vec::new();
                    let mut ineffective = Vec::new();
                    Self::read(Reader::new(table, &mut unknown), &mut ineffective)
                        .context("configuration", path.display())?;
                    let path = path.display();
                    warnings.extend(ineffective.iter().map(|text| format!("{path}: {text}")));
                    warnings.extend(
                        unknown.iter().map(|key| format!("{path}: ignoring unknown key {key}")),
                    );
                }
                Self::read(Reader::new(loaded.table, &mut Vec::new()), &mut Vec::new())?
            }
        };
        config.apply(flags)?;
        config.check()?;
        Ok((config, warnings))
    }

    fn apply(&mut self, flags: Overrides) -> Result<()> {
        let absolute =
            |path: PathBuf| std::path::absolute(&path).context("make absolute", path.display());
        if let Some(root) = flags.root {
            self.root = absolute(root)?;
        }
        if let Some(state) = flags.state {
            self.state = absolute(state)?;
        }
        if let Some(address) = flags.address {
            self.grpc.socket.address = absolute(address)?;
        }
        if let Some(level) = flags.log_level {
            self.log.level = level;
        }
        if let Some(id) = flags.id {
            self.legacy.id = id;
        }
        if let Some(concurrency) = flags.concurrency {
            self.concurrency = concurrency;
        }
        if let Some(interval) = flags.metrics_interval {
            self.metrics.interval = interval;
        }
        self.legacy.oom_notify |= flags.oom_notify;
        if self.ttrpc.address.as_os_str().is_empty() {
            let mut address = self.grpc.socket.address.clone().into_os_string();
            address.push(".ttrpc");
            self.ttrpc.address = address.into();
            // Who may use the one may use the other, unless the file says otherwise.
            if self.ttrpc.uid == 0 {
                self.ttrpc.uid = self.grpc.socket.uid;
            }
            if self.ttrpc.gid == 0 {
                self.ttrpc.gid = self.grpc.socket.gid;
            }
        }
        Ok(())
    }

    fn check(&self) -> Result<()> {
        // Shims get them too, and each has another working directory.
        for (key, path) in [
            ("root", &self.root),
            ("state", &self.state),
            ("grpc.address", &self.grpc.socket.address),
            ("ttrpc.address", &self.ttrpc.address),
        ] {
            if !path.is_absolute() {
                return Err(Error::invalid(format!(
                    "key {key}: expected an absolute path, found {path:?}"
                )));
            }
        }
        if self.root == self.state {
            return Err(Error::invalid("root and state must be different folders"));
        }
        if !(-1000..=1000).contains(&self.oom_score) {
            return Err(Error::invalid(format!(
                "key oom_score: expected an integer from -1000 to 1000, found {}",
                self.oom_score
            )));
        }
        plugins::check(&self.required_plugins, &self.disabled_plugins)?;
        rest::Address::of(&self.rest)?;
        self.content_place().map(drop)
    }

    /// Where content is.
    ///
    /// # Errors
    /// `FailedPrecondition` when there is no place, or more than one: as in
    /// containerd 2, only one content store may be left that is not disabled.
    pub(crate) fn content_place(&self) -> Result<ContentPlace<'_>> {
        let is_on = |name: &str| !self.is_disabled(&format!("{}.{name}", plugins::CONTENT));
        let local = is_on(LOCAL_CONTENT).then_some((LOCAL_CONTENT, ContentPlace::Root));
        let others = self
            .proxy_plugins
            .iter()
            .filter(|(name, proxy)| proxy.kind == "content" && is_on(name));
        let others = others.map(|(name, proxy)| (name.as_str(), ContentPlace::Proxy(name, proxy)));
        let mut all: Vec<_> = local.into_iter().chain(others).collect();
        match (all.pop(), all.is_empty()) {
            (Some((_, place)), true) => Ok(place),
            (Some((last, _)), false) => {
                let mut names: Vec<_> = all.iter().map(|(name, _)| *name).collect();
                names.push(last);
                let kind = plugins::CONTENT;
                let text = format!(
                    "there is more than one content store: {}; disabled_plugins must name all \
                     but one, each with {kind} and a dot before it",
                    names.join(", ")
                );
                Err(Error::precondition(text))
            }
            (None, _) => Err(Error::precondition(format!(
                "plugin {}.{LOCAL_CONTENT} cannot be disabled without another content store",
                plugins::CONTENT
            ))),
        }
    }

    /// Is that part of the daemon switched off?
    pub(crate) fn is_disabled(&self, plugin: &str) -> bool {
        self.disabled_plugins.iter().any(|name| name.as_str() == plugin)
    }

    /// Timeouts of shims, with what the file says in place of the defaults.
    pub(crate) fn shim_timeouts(&self) -> runtime_v2::Timeouts {
        let mut timeouts = runtime_v2::Timeouts::default();
        for (name, timeout) in [
            ("io.containerd.timeout.shim.cleanup", &mut timeouts.cleanup),
            ("io.containerd.timeout.shim.load", &mut timeouts.load),
            ("io.containerd.timeout.shim.shutdown", &mut timeouts.shutdown),
            ("io.containerd.timeout.shim.start", &mut timeouts.start),
            ("io.containerd.timeout.task.state", &mut timeouts.state),
        ] {
            // Zero would give a shim no chance at all.
            if let Some(duration) = self.timeouts.get(name).filter(|d| !d.is_zero()) {
                *timeout = *duration;
            }
        }
        timeouts
    }
}

/// A length of time in Go's notation, such as `1m30s`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration> {
    duration::parse(text).ok_or_else(|| {
        Error::invalid(format!("expected a duration such as \"10s\", found {text:?}"))
    })
}

/// A level by the name that containerd gives it.
///
/// # Errors
/// `InvalidArgument` when there is no such level.
pub(crate) fn parse_level(name: &str) -> Result<LevelFilter> {
    match name {
        "trace" => Ok(LevelFilter::TRACE),
        "debug" => Ok(LevelFilter::DEBUG),
        "info" => Ok(LevelFilter::INFO),
        "warn" | "warning" => Ok(LevelFilter::WARN),
        // Worse than an error ends the process, and is one.
        "error" | "fatal" | "panic" => Ok(LevelFilter::ERROR),
        other => Err(Error::invalid(format!(
            "expected trace, debug, info, warn, error, fatal or panic, found {other:?}"
        ))),
    }
}

#[cfg(test)]
mod tests;
