//! The core, put together: what is needed to answer requests, without a
//! socket in sight.

use std::{path::PathBuf, sync::Arc, time::Duration};

use containerd_core::{
    announce::Announcer,
    containers::Containers,
    content::{Content, ContentConfig},
    diff::{Diff, DiffConfig},
    events::{Exchange, ExchangeConfig},
    gc::{Collector, Scheduler},
    images::Images,
    leases::Leases,
    legacy::{Legacy, LegacyConfig, TaskCheckpoints},
    metadata::Db,
    namespaces::Namespaces,
    sandboxes::Sandboxes,
    snapshots::Snapshots,
    tasks::{Tasks, TasksConfig},
    transfer::{Places, TransferConfig, Transfers, UnpackTo},
};
use containerd_images::Platform;
use runtime_v2::{Manager, ManagerConfig};
use shim_protocol::{Context, Result};
use tracing::level_filters::LevelFilter;

use crate::{
    config::{Config, ContentPlace},
    plugins, proxy,
    snapshotters::{self, Opened},
};

/// Runtime of containers that name none.
const DEFAULT_RUNTIME: &str = "io.containerd.runc.v2";

/// Snapshotter of images that are unpacked to none in particular.
const DEFAULT_SNAPSHOTTER: &str = "overlayfs";

/// Folder of the runtime's data below the root, and of the bundles below the
/// state: containerd's, so that each can take over from the other.
const RUNTIME_FOLDER: &str = "io.containerd.runtime.v2.task";

/// Folder of content below the root: containerd's too.
const CONTENT_FOLDER: &str = "io.containerd.content.v1.content";

/// containerd's own database, whose records we do not know: where it is, nothing
/// is removed that we do not know.
const FOREIGN_METADATA: &str = "io.containerd.metadata.v1.bolt/meta.db";

/// Folder of the events' journal below the state.
const JOURNAL_FOLDER: &str = "io.containerd.events.v1.journal";

/// How long after boot a subscriber without a position still hears all that
/// was published since.
const BOOT_REPLAY: Duration = Duration::from_secs(30);

/// The parts of the core, connected.
pub(crate) struct Core {
    db: Db,
    announcer: Announcer,
    pub(crate) events: Arc<Exchange>,
    pub(crate) namespaces: Namespaces,
    pub(crate) containers: Containers,
    pub(crate) content: Content,
    pub(crate) diff: Diff,
    pub(crate) images: Images,
    pub(crate) leases: Leases,
    pub(crate) sandboxes: Sandboxes,
    pub(crate) snapshots: Snapshots,
    pub(crate) gc: Scheduler,
    /// What came of each snapshotter, and of a content store that is another
    /// process.
    pub(crate) opened: Vec<Opened>,
    pub(crate) transfers: Transfers,
    pub(crate) manager: Arc<Manager>,
    pub(crate) tasks: Arc<Tasks>,
    pub(crate) legacy: Arc<Legacy>,
}

impl Core {
    /// Opens what is on disk. From then on no other daemon can use the root.
    ///
    /// # Errors
    /// `FailedPrecondition` when another daemon uses the root; `DataLoss`
    /// when a file is damaged; those of the disk.
    pub(crate) async fn open(config: &Config) -> Result<Self> {
        let db = Db::open(&config.root).await?;
        let events = open_events(config.state.join(JOURNAL_FOLDER)).await?;
        let announcer = Announcer::start(events.clone());
        let namespaces = Namespaces::new(db.clone(), announcer.clone());
        let containers = Containers::new(db.clone(), announcer.clone());
        let foreign = has_foreign_metadata(config)?;
        let content = recover_content(config, foreign, &db).await?;
        let (snapshots, mut opened) = snapshotters::open(config, foreign, &db, &announcer)
            .await
            .context("open", "the snapshotters")?;
        if let ContentPlace::Proxy(name, proxy) = config.content_place()? {
            opened.push(Opened::proxy(plugins::CONTENT, name, proxy));
        }
        let diff = Diff::new(DiffConfig { sync: config.sync_layers }, content.clone());
        let images = Images::new(db.clone(), announcer.clone());
        let leases = Leases::new(db.clone());
        let sandboxes = Sandboxes::new(db.clone());
        let collector = Collector::new(
            db.clone(),
            announcer.clone(),
            content.clone(),
            Arc::new(snapshots.clone()),
        );
        let gc = Scheduler::start(config.gc, collector);
        let places = Places {
            content: content.clone(),
            images: images.clone(),
            snapshots: snapshots.clone(),
            diff: diff.clone(),
            leases: leases.clone(),
            gc: gc.clone(),
        };
        let transfers = Transfers::new(transfer_config(config), places);
        let manager = Manager::new(manager_config(config), events.clone());
        let tasks = Tasks::new(
            TasksConfig {
                default_runtime: DEFAULT_RUNTIME.to_owned(),
                state_timeout: config.shim_timeouts().state,
                concurrency: config.concurrency,
            },
            containers.clone(),
            namespaces.clone(),
            manager.clone(),
            events.clone(),
            diff.clone(),
        );
        let legacy = Legacy::new(
            legacy_config(config)?,
            containers.clone(),
            tasks.clone(),
            events.clone(),
            Arc::new(TaskCheckpoints::new(tasks.clone(), config.legacy.binary.clone())),
        );
        Ok(Self {
            db,
            announcer,
            events,
            namespaces,
            containers,
            content,
            diff,
            images,
            leases,
            sandboxes,
            snapshots,
            gc,
            opened,
            transfers,
            manager,
            tasks,
            legacy,
        })
    }

    /// Waits for what was begun with tasks, and lets go of shims; containers are
    /// left alone. Shims can deliver their events meanwhile, as deletes wait for
    /// that.
    pub(crate) async fn leave_tasks(&self) {
        self.legacy.shutdown().await;
        self.tasks.shutdown().await;
        self.manager.shutdown().await;
    }

    /// Ends everything else that runs by itself, the youngest first.
    pub(crate) async fn shutdown(self) {
        self.transfers.shutdown().await;
        self.diff.shutdown().await;
        self.gc.shutdown().await;
        self.snapshots.shutdown().await;
        self.content.shutdown().await;
        self.db.shutdown().await;
        self.announcer.shutdown().await;
        self.events.catch_up();
    }
}

/// Whether records of containerd's own are there.
///
/// # Errors
/// Those of the disk.
pub(crate) fn has_foreign_metadata(config: &Config) -> Result<bool> {
    let metadata = config.root.join(FOREIGN_METADATA);
    metadata.try_exists().context("look for", metadata.display())
}

/// The content of the root, as it lies there, or with another process.
///
/// # Errors
/// `InvalidArgument` when that process cannot be reached by what is said of it;
/// those of the disk.
pub(crate) async fn open_content(config: &Config, foreign: bool, db: &Db) -> Result<Content> {
    let sharing = config.content_sharing;
    match config.content_place()? {
        ContentPlace::Root => {
            let root = config.root.join(CONTENT_FOLDER);
            Content::open(ContentConfig { root, sharing, foreign }, db.clone()).await
        }
        ContentPlace::Proxy(name, proxy) => {
            let max = config.grpc.max_recv_message_size;
            let store = proxy::ContentStore::new(name, &proxy.address, max)?;
            tracing::info!(name, address = proxy.address, "content is with another process");
            Ok(Content::remote(Arc::new(store), sharing, foreign, db.clone()))
        }
    }
}

async fn recover_content(config: &Config, foreign: bool, db: &Db) -> Result<Content> {
    let folder = config.root.join(CONTENT_FOLDER);
    let content = open_content(config, foreign, db).await?;
    let recovered = content.recover().await.context("recover", folder.display())?;
    tracing::debug!(?recovered, "looked through the content");
    Ok(content)
}

async fn open_events(journal: PathBuf) -> Result<Arc<Exchange>> {
    let config = ExchangeConfig { journal, boot_replay: BOOT_REPLAY };
    let opened = tokio::task::spawn_blocking(|| Exchange::open(config)).await;
    opened.map_err(std::io::Error::other).context("open", "the journal of events")?
}

fn transfer_config(config: &Config) -> TransferConfig {
    let unpack = |(os, snapshotter): &(String, String)| UnpackTo {
        platform: Platform { os: os.clone(), ..Platform::default() },
        snapshotter: snapshotter.clone(),
    };
    let unpacks = config.transfer.unpack.as_ref();
    TransferConfig {
        max_downloads: config.transfer.max_downloads,
        max_uploads: config.transfer.max_uploads,
        unpack: unpacks.map(|unpacks| unpacks.iter().map(unpack).collect()),
        default_snapshotter: DEFAULT_SNAPSHOTTER.to_owned(),
    }
}

fn legacy_config(config: &Config) -> Result<LegacyConfig> {
    let crate::config::Legacy { namespace, runtime, binary, id, oom_notify } =
        config.legacy.clone();
    let id = if id.is_empty() {
        let name = nix::unistd::gethostname().map_err(std::io::Error::from);
        name.context("ask for", "the name of the host")?.to_string_lossy().into_owned()
    } else {
        id
    };
    let runtime = if runtime.is_empty() { DEFAULT_RUNTIME.to_owned() } else { runtime };
    Ok(LegacyConfig { namespace, runtime, binary, id, oom_notify })
}

fn manager_config(config: &Config) -> ManagerConfig {
    ManagerConfig {
        root: config.root.join(RUNTIME_FOLDER),
        state: config.state.join(RUNTIME_FOLDER),
        grpc_address: config.grpc.socket.address.to_string_lossy().into_owned(),
        ttrpc_address: config.ttrpc.address.to_string_lossy().into_owned(),
        env: config.shim_env.clone(),
        debug: config.log.level >= LevelFilter::DEBUG,
        timeouts: config.shim_timeouts(),
    }
}
