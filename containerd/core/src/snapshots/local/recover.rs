//! Opens a snapshotter, and puts right what a killed daemon left.

use std::{fs::DirBuilder, os::unix::fs::DirBuilderExt};

use super::{btrfs::Btrfs, folders::Name, native::Native, overlay::Overlay, *};

/// containerd's own records of a snapshotter, in the snapshotter's folder.
const FOREIGN_RECORDS: &str = "metadata.db";

/// What is not as it must be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Snapshots whose folder is not there, by name.
    pub lost: Vec<String>,
    /// Folders that belong to no snapshot.
    pub strays: Vec<PathBuf>,
    /// Snapshots whose parent is not there, or is none, by name.
    pub orphans: Vec<String>,
}

impl Local {
    /// Opens a snapshotter, making its folders if they are not there; its
    /// records are in `db`. Leftovers of a daemon that was killed are removed.
    ///
    /// # Errors
    /// `FailedPrecondition` when the filesystem is not good for it; those of
    /// the disk.
    pub async fn open(config: LocalConfig, db: Db) -> Result<Self> {
        let LocalConfig { name, root, layout, foreign, sync_remove } = config;
        let at = root.clone();
        let opened = tokio::task::spawn_blocking(move || open(&at, layout)).await;
        let opened = opened.map_err(std::io::Error::other).context("open", root.display())?;
        let (driver, has_foreign_records) = opened.context("open", root.display())?;
        let this = Self(Arc::new(Inner {
            db,
            name,
            root,
            driver,
            foreign: foreign || has_foreign_records,
            sync_remove,
            next: AtomicU64::new(1),
            at_work: Mutex::default(),
            unswept: AtomicBool::new(false),
            work: TaskTracker::new(),
        }));
        let rows = this.read(|db, name| record::list(db, name)).await?;
        let mend = this.blocking(move |driver| {
            let mut last = 0;
            for (_, row) in &rows {
                driver.mend(row.id, row.kind)?;
                last = last.max(row.id);
            }
            // Also those of other daemons: their folders are not to be met.
            for area in driver.areas() {
                for (_, name) in area.list()? {
                    if let Name::Snapshot(id) | Name::New(id) = name {
                        last = last.max(id);
                    }
                }
            }
            Ok(last)
        });
        let last = mend.await?;
        this.0.next.store(last + 1, Ordering::Relaxed);
        this.remove_leftovers().await?;
        for name in this.check().await?.lost {
            tracing::error!(snapshotter = this.name(), name, "snapshot is recorded, but not there");
        }
        Ok(this)
    }

    /// Looks for what is not as it must be. Nobody may be using it meanwhile.
    ///
    /// # Errors
    /// Those of the disk.
    pub async fn check(&self) -> Result<Findings> {
        let rows = self.read(|db, name| record::list(db, name)).await?;
        self.blocking(move |driver| {
            let mut findings = Findings::default();
            let committed: HashSet<&str> = rows
                .iter()
                .filter(|(_, row)| row.kind == Kind::Committed)
                .map(|(name, _)| name.as_str())
                .collect();
            for (name, row) in &rows {
                let has_parent = !row.parent.is_empty();
                if has_parent && !committed.contains(row.parent.as_str()) {
                    findings.orphans.push(name.clone());
                }
                let stack = Stack {
                    id: row.id,
                    kind: row.kind,
                    parents: if has_parent { vec![0] } else { Vec::new() },
                    labels: Labels::new(),
                };
                let path = driver.area(row.kind).path(row.id);
                if driver.has_folder(&stack) && !path.is_dir() {
                    findings.lost.push(name.clone());
                }
            }
            // What is being removed is none.
            let listed = list(driver)?.into_iter().filter(|(_, name)| *name != Name::Old);
            findings.strays = left(listed.collect(), &rows, &HashSet::new(), false);
            Ok(findings)
        })
        .await
    }

    /// Removes folders that belong to no snapshot. One that cannot be removed is
    /// left for the next time.
    pub(super) async fn remove_leftovers(&self) -> Result<()> {
        let listed = self.blocking(list).await?;
        // In this order: whoever makes a folder has its id here before that, and
        // until it is recorded.
        let at_work = self.0.at_work().clone();
        let rows = self.read(|db, name| record::list(db, name)).await?;
        let (foreign, this) = (self.0.foreign, self.clone());
        self.blocking(move |driver| {
            for path in left(listed, &rows, &at_work, foreign) {
                if let Err(e) = driver.delete(&path) {
                    this.leave(&e);
                }
            }
            Ok(())
        })
        .await
    }
}

/// Makes the folders of a snapshotter; says also whether containerd's own
/// records are there.
fn open(root: &Path, layout: Layout) -> Result<(Box<dyn Driver>, bool)> {
    DirBuilder::new().recursive(true).mode(0o700).create(root).context("create", root.display())?;
    let records = root.join(FOREIGN_RECORDS);
    let has_foreign_records = records.try_exists().context("look for", records.display())?;
    let driver: Box<dyn Driver> = match layout {
        Layout::Overlay(config) => Box::new(Overlay::open(root, config)?),
        Layout::Native => Box::new(Native::open(root)?),
        Layout::Btrfs => Box::new(Btrfs::open(root)?),
    };
    Ok((driver, has_foreign_records))
}

/// All that is in the places for folders of snapshots.
fn list(driver: &dyn Driver) -> Result<Vec<(PathBuf, Name)>> {
    let mut listed = Vec::new();
    for area in driver.areas() {
        listed.extend(area.list()?);
    }
    Ok(listed)
}

/// What of `listed` belongs to no snapshot. With `foreign`, only what is surely
/// ours.
fn left(
    listed: Vec<(PathBuf, Name)>,
    rows: &[(String, Row)],
    at_work: &HashSet<u64>,
    foreign: bool,
) -> Vec<PathBuf> {
    // By number alone: the folder of a snapshot that is being committed may be
    // where its record does not say yet.
    let known: HashSet<u64> = rows.iter().map(|(_, row)| row.id).collect();
    let is_left = |(_, name): &(PathBuf, Name)| match name {
        Name::Snapshot(id) => !foreign && !known.contains(id) && !at_work.contains(id),
        Name::New(id) => !at_work.contains(id),
        Name::Old => true,
        Name::Foreign => !foreign,
        Name::Other => false,
    };
    listed.into_iter().filter(is_left).map(|(path, _)| path).collect()
}
