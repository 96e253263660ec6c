//! The handle to the database.

use std::{
    fs::{DirBuilder, File, OpenOptions},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};
use redb::{Builder, Database, DatabaseError, StorageBackend};
use shim_protocol::{Context, Error, ErrorKind, Result};
use tokio::sync::{mpsc, oneshot};

use super::{
    fault::Fault,
    file::ReservedFile,
    migrate::migrate,
    store::{Open, Store},
    transaction::{Change, Snapshot},
    watch::{Counts, Watching},
    writer::{self, Job, Pending},
};

/// Folder of the database below the daemon's root.
const FOLDER: &str = "io.containerd.metadata.v1.redb";
const FILE: &str = "meta.redb";
/// The file while it is being made.
const NEW_FILE: &str = "meta.redb.new";

/// How long the lock of a daemon that was killed is waited for.
const LOCK_WAIT: Duration = Duration::from_secs(1);
const LOCK_PAUSE: Duration = Duration::from_millis(5);

/// Pages that are kept in memory. The kernel caches the file anyway; a daemon
/// is small when idle because of limits like this one.
const CACHE_BYTES: usize = 1 << 20;

/// Changes that may wait before further writers have to.
const QUEUE_LIMIT: usize = 1024;

/// The writer's stack: the depth of a B-tree is all that grows on it.
const WRITER_STACK_BYTES: usize = 256 << 10;

/// The database of all records. Cheap to clone; all clones are one.
///
/// Call [`Self::shutdown`] at the end. If the last clone is dropped instead,
/// changes that were accepted still become durable, with nobody waiting.
#[derive(Clone)]
pub struct Db(Arc<Inner>);

struct Inner {
    store: Arc<Store>,
    /// `None` after the shutdown.
    queue: Mutex<Option<mpsc::Sender<Box<dyn Job>>>>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl Db {
    /// Opens the database below `root`, or makes it, and locks it: as long as
    /// it is open, no second daemon can use the root.
    ///
    /// # Errors
    /// - `FailedPrecondition` when another daemon uses the root, or when a newer
    ///   one has written the database;
    /// - `DataLoss` when the file is no database, or is damaged;
    /// - `ResourceExhausted`, `Internal`: those of the disk.
    pub async fn open(root: &Path) -> Result<Self> {
        let root = root.to_owned();
        blocking(move || {
            let file = prepare(&root)?;
            wait_for_lock(&file, || thread::sleep(LOCK_PAUSE))?;
            Self::start(Box::new(move || open_file(&root, &file)))
        })
        .await
    }

    /// Whether there is a database below `root`.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn is_below(root: &Path) -> Result<bool> {
        let path = root.join(FOLDER).join(FILE);
        path.try_exists().context("look for", path.display())
    }

    /// Calls `read` with the state after the last commit. It waits for no
    /// writer, and runs where it may block.
    ///
    /// # Errors
    /// Those of `read` and of the disk.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Snapshot<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let store = self.0.store.clone();
        blocking(move || store.read(read)).await
    }

    /// Makes a change, and answers when it is durable. It is made even if the
    /// caller stops waiting, once it is in the queue.
    ///
    /// # Errors
    /// Those of `change`, which then leaves no trace; `Unavailable` after a
    /// shutdown; those of the disk.
    pub(crate) async fn write<T: Send + 'static>(
        &self,
        change: impl FnOnce(&mut Change<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (answer, answered) = oneshot::channel();
        // The caller may have stopped waiting; then nobody wants to know.
        self.submit(change, |outcome| drop(answer.send(outcome))).await?;
        answered.await.unwrap_or_else(|_| Err(closed()))
    }

    /// Queues a change. `done` gets its outcome on the writer's thread, in the
    /// order of commits, and must not block.
    ///
    /// # Errors
    /// `Unavailable` after a shutdown.
    pub(crate) async fn submit<T: Send + 'static>(
        &self,
        change: impl FnOnce(&mut Change<'_>) -> Result<T> + Send + 'static,
        done: impl FnOnce(Result<T>) + Send + 'static,
    ) -> Result<()> {
        let queue = lock(&self.0.queue).clone().ok_or_else(closed)?;
        queue.send(Box::new(Pending::new(change, done))).await.map_err(|_| closed())
    }

    /// Begins to note which records are written. One at a time can do this.
    ///
    /// A read that begins later sees all changes that are not noted: those
    /// before are durable, since this too is a change and waits for them.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub(crate) async fn watch(&self) -> Result<Watching> {
        let watch = self.0.store.watch().clone();
        self.write(move |_| {
            watch.begin();
            Ok(Watching(watch))
        })
        .await
    }

    /// How many changes were made.
    pub(crate) fn counts(&self) -> Counts {
        self.0.store.watch().counts()
    }

    /// Waits until there were other changes than `seen`.
    pub(crate) async fn changed(&self, seen: Counts) -> Counts {
        self.0.store.watch().changed(seen).await
    }

    /// Makes the changes that are queued, and closes the file; from here on
    /// every call is refused.
    pub async fn shutdown(&self) {
        drop(lock(&self.0.queue).take());
        let Some(writer) = lock(&self.0.writer).take() else { return };
        let store = self.0.store.clone();
        let ended = blocking(move || {
            let panicked = writer.join().is_err();
            store.close();
            if panicked { Err(Error::internal("the writer of metadata panicked")) } else { Ok(()) }
        });
        if let Err(e) = ended.await {
            tracing::error!(error = %e.report(), "metadata database was not closed as it should be");
        }
    }

    /// Opens a database with `open` and starts its writer.
    pub(super) fn start(open: Open) -> Result<Self> {
        let store = Arc::new(Store::new(open)?);
        let (queue, jobs) = mpsc::channel(QUEUE_LIMIT);
        let writer = thread::Builder::new()
            .name("metadata".into())
            .stack_size(WRITER_STACK_BYTES)
            .spawn({
                let store = store.clone();
                move || writer::run(&store, jobs)
            })
            .context("start the writer of", "metadata")?;
        let (queue, writer) = (Mutex::new(Some(queue)), Mutex::new(Some(writer)));
        Ok(Self(Arc::new(Inner { store, queue, writer })))
    }
}

/// Opens the database on `backend`, making or updating it as needed. `root`
/// names it in errors.
///
/// # Errors
/// See [`Db::open`].
pub(super) fn open_backend(root: &Path, backend: impl StorageBackend) -> Result<Database> {
    let mut builder = Builder::new();
    let database = builder.set_cache_size(CACHE_BYTES).create_with_backend(backend);
    let database = database.map_err(|e| match e {
        DatabaseError::DatabaseAlreadyOpen => {
            Error::precondition(format!("another daemon uses {}", root.display()))
        }
        e => Fault::from(e).during("open"),
    })?;
    migrate(&database).context("open", root.display())?;
    Ok(database)
}

fn open_file(root: &Path, path: &Path) -> Result<Database> {
    let file = file_options().open(path).context("open", path.display())?;
    let backend = ReservedFile::new(file).map_err(|e| Fault::from(e).during("open"))?;
    open_backend(root, backend).context("open", path.display())
}

/// Waits for the end of a daemon that was killed, but not for long. A process that
/// it was about to start has all its open files, and so the lock, until that is
/// executed.
fn wait_for_lock(path: &Path, mut pause: impl FnMut()) -> Result<()> {
    let end = Instant::now() + LOCK_WAIT;
    let mut file = file_options().open(path).context("open", path.display())?;
    // A lock with a deadline is nothing that the kernel has.
    while let Err((locked, errno)) = Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        if errno != Errno::EWOULDBLOCK || end <= Instant::now() {
            // Whoever opens it says what is wrong.
            break;
        }
        file = locked;
        pause();
    }
    Ok(())
}

/// Makes folder and file of the database, unless they are there, and answers
/// the path of the file.
fn prepare(root: &Path) -> Result<PathBuf> {
    let folder = root.join(FOLDER);
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o700).create(&folder).context("create", folder.display())?;
    let path = folder.join(FILE);

    // Two daemons that start at once must not both make the file.
    let locked = File::open(&folder).context("open", folder.display())?;
    locked.lock().context("lock", folder.display())?;
    if path.try_exists().context("look for", path.display())? {
        return Ok(path);
    }
    // redb cannot open a file whose making was cut short by a loss of power, so
    // the file gets its name when it is complete.
    let new = folder.join(NEW_FILE);
    file_options().create(true).truncate(true).open(&new).context("create", new.display())?;
    drop(open_file(root, &new)?);
    std::fs::rename(&new, &path).context("rename", new.display())?;
    locked.sync_all().context("sync", folder.display())?;
    Ok(path)
}

fn file_options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    options
}

/// Runs `work` where it may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(e) => Err(Error::caused(ErrorKind::Internal, "access metadata", e)),
    }
}

fn closed() -> Error {
    Error::unavailable("the metadata database is closed")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is inside is replaced in one step, so a panic leaves it whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_of_a_daemon_that_ends_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let held = File::create(&path).unwrap();
        let mut held = Some(Flock::lock(held, FlockArg::LockExclusive).unwrap());
        let mut pauses = 0;
        let ends = || {
            pauses += 1;
            held = None;
        };
        wait_for_lock(&path, ends).unwrap();
        assert_eq!(pauses, 1);
        wait_for_lock(&path, || panic!("nobody has it")).unwrap();
    }
}
