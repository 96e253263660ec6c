//! Opens the snapshotters that the configuration tells of.

use std::{collections::BTreeMap, sync::Arc};

use containerd_core::{
    announce::Announcer,
    metadata::Db,
    snapshots::{Backend, Layout, Local, LocalConfig, Snapshots},
};
use shim_protocol::{Context, Error, ErrorKind, Result};

use crate::{
    config::{Config, ProxyPlugin},
    plugins, proxy,
};

/// Under this name clients find a snapshotter's folder.
const ROOT_EXPORT: &str = "root";

/// What came of a part that was to be opened and that clients want to know more
/// of: a snapshotter, or a content store that is another process.
#[derive(Debug)]
pub(crate) struct Opened {
    /// What containerd calls its type.
    pub(crate) kind: &'static str,
    pub(crate) name: String,
    /// What clients may rely on.
    pub(crate) capabilities: Vec<String>,
    /// What clients may want to know.
    pub(crate) exports: BTreeMap<String, String>,
    /// Why it is not there. `FailedPrecondition` when this machine is not one
    /// for it.
    pub(crate) error: Option<Error>,
}

impl Opened {
    /// One that is another process.
    pub(crate) fn proxy(kind: &'static str, name: &str, proxy: &ProxyPlugin) -> Self {
        Self {
            kind,
            name: name.to_owned(),
            capabilities: proxy.capabilities.clone(),
            exports: proxy.exports.clone(),
            error: None,
        }
    }
}

/// Opens all snapshotters that are not switched off; one that cannot be opened
/// is left out. `foreign` is true where containerd's own records are.
///
/// # Errors
/// `InvalidArgument` when two have one name, or one has a bad address; those of
/// the database.
pub(crate) async fn open(
    config: &Config,
    foreign: bool,
    db: &Db,
    announcer: &Announcer,
) -> Result<(Snapshots, Vec<Opened>)> {
    let (mut backends, mut all) = (BTreeMap::new(), Vec::new());
    for local in locals(config, foreign) {
        let (name, root) = (local.name.clone(), local.root.display().to_string());
        let exports = BTreeMap::from([(ROOT_EXPORT.to_owned(), root)]);
        let mut opened = Opened {
            kind: plugins::SNAPSHOTTER,
            name: name.clone(),
            capabilities: Vec::new(),
            exports,
            error: None,
        };
        match Local::open(local, db.clone()).await {
            Ok(local) => {
                opened.capabilities = local.capabilities().into_iter().map(str::to_owned).collect();
                backends.insert(name, Backend::Local(local));
            }
            Err(e) => {
                let why = e.report().to_string();
                match e.kind() {
                    ErrorKind::FailedPrecondition => tracing::info!(name, why, "no snapshotter"),
                    _ => tracing::error!(name, why, "snapshotter cannot be opened"),
                }
                opened.error = Some(e);
            }
        }
        all.push(opened);
    }
    for (name, proxy) in config.proxy_plugins.iter().filter(|(_, proxy)| proxy.kind == "snapshot") {
        if config.is_disabled(&format!("{}.{name}", plugins::SNAPSHOTTER)) {
            continue;
        }
        let max = config.grpc.max_recv_message_size;
        let snapshotter = proxy::Snapshotter::new(name, &proxy.address, max)?;
        if backends.insert(name.clone(), Backend::Remote(Arc::new(snapshotter))).is_some() {
            return Err(Error::invalid(format!("there are two snapshotters {name:?}")));
        }
        all.push(Opened::proxy(plugins::SNAPSHOTTER, name, proxy));
    }
    let snapshots = Snapshots::open(db.clone(), announcer.clone(), backends).await?;
    let recovered = snapshots.recover().await?;
    tracing::debug!(?recovered, "looked through the snapshots");
    Ok((snapshots, all))
}

/// Opens those of our own snapshotters that have a folder, to look at them:
/// nothing is removed from them.
///
/// # Errors
/// Those of the disk and of the database.
pub(crate) async fn look(config: &Config, db: &Db, announcer: &Announcer) -> Result<Snapshots> {
    let mut backends = BTreeMap::new();
    // What is not surely ours is left alone.
    for local in locals(config, true) {
        let name = local.name.clone();
        if !local.root.try_exists().context("look for", local.root.display())? {
            continue;
        }
        match Local::open(local, db.clone()).await {
            // It never kept anything here.
            Err(e) if e.kind() == ErrorKind::FailedPrecondition => {}
            opened => drop(backends.insert(name, Backend::Local(opened?))),
        }
    }
    Snapshots::open(db.clone(), announcer.clone(), backends).await
}

/// Our own snapshotters.
fn locals(config: &Config, foreign: bool) -> Vec<LocalConfig> {
    let settings = &config.snapshotters;
    let overlay = Layout::Overlay(settings.overlay.clone());
    [
        ("btrfs", Layout::Btrfs, &settings.btrfs_root, false),
        ("native", Layout::Native, &settings.native_root, false),
        ("overlayfs", overlay, &settings.overlay_root, settings.overlay_sync_remove),
    ]
    .into_iter()
    .filter_map(|(name, layout, root, sync_remove)| {
        let plugin = format!("{}.{name}", plugins::SNAPSHOTTER);
        let root = root.clone().unwrap_or_else(|| config.root.join(&plugin));
        let name = name.to_owned();
        let local = LocalConfig { name, root, layout, foreign, sync_remove };
        (!config.is_disabled(&plugin)).then_some(local)
    })
    .collect()
}
