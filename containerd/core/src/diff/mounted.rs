//! Mounting for a while, where only one thread sees it.
//!
//! The mounts are made in a namespace of their own, which goes with its thread:
//! whatever happens, no mount stays, and only an empty folder may.

use std::{
    ffi::OsStr,
    fs::DirBuilder,
    io,
    os::{fd::OwnedFd, unix::fs::DirBuilderExt},
    path::{Path, PathBuf},
    thread,
};

use nix::{
    errno::Errno,
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
use shim_protocol::{Context, Error, ErrorKind, Result};

use crate::Mount;

/// What mount(2) copies of its data: a page, with the final zero.
const MAX_DATA_BYTES: usize = 4095;

/// Mounts all, each on top of the one before or inside of it, and does `work`
/// with the folder that this makes. Blocks.
///
/// # Errors
/// `InvalidArgument` or `FailedPrecondition` when something cannot be mounted,
/// `Unimplemented` for options that ask for more than mount(2) does; those of
/// the work.
pub(super) fn with<T: Send>(
    mounts: &[Mount],
    temp: &Path,
    work: impl FnOnce(OwnedFd) -> Result<T> + Send,
) -> Result<T> {
    let folder = Folder::new(temp)?;
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("mounted".into()).spawn_scoped(scope, || {
            isolate()?;
            for mount in mounts {
                mount_one(mount, &folder.0)?;
            }
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let root = openat(CWD, &folder.0, flags, Mode::empty());
            work(root.map_err(io::Error::from).context("open", folder.0.display())?)
        });
        let thread = thread.context("start", "a thread")?;
        thread.join().unwrap_or_else(|_| Err(Error::internal("mounted: thread panicked")))
    })
}

/// An empty folder that is removed in the end.
struct Folder(PathBuf);

impl Folder {
    fn new(temp: &Path) -> Result<Self> {
        use std::sync::atomic::{AtomicU64, Ordering};
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let made = DirBuilder::new().recursive(true).mode(0o700).create(temp);
        made.context("make", temp.display())?;
        loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = temp.join(format!("containerd-mount-{}-{number}", std::process::id()));
            match DirBuilder::new().mode(0o700).create(&path) {
                // A daemon before us may have been killed.
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                made => return made.context("make", path.display()).map(|()| Self(path)),
            }
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir(&self.0) {
            tracing::warn!(%error, path = %self.0.display(), "temporary folder stays");
        }
    }
}

/// Gives this thread mounts of its own. What is unmounted outside goes here too.
fn isolate() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).map_err(io::Error::from).context("unshare", "mounts")?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_SLAVE | MsFlags::MS_REC, none)
        .map_err(io::Error::from)
        .context("isolate", "mounts")
}

fn mount_one(request: &Mount, folder: &Path) -> Result<()> {
    let options = Options::parse(&request.options)?;
    let describe = || format!("{} {:?}", request.kind, request.source);
    let target = target(folder, &request.target).context("open target of", describe())?;
    let none = None::<&str>;
    let first = if options.is_bind() { options.flags & BIND } else { options.flags };
    let kind = Some(request.kind.as_str()).filter(|kind| !kind.is_empty());
    let data = shorten(&request.kind, &options.data)?;
    let data = Some(data.as_str()).filter(|data| !data.is_empty());
    let call = mount(Some(OsStr::new(&request.source)), &target, kind, first, data);
    call.map_err(|errno| refused(errno, describe()))?;
    if options.is_bind() && !(options.flags - BIND).is_empty() {
        // A bind mount takes its other flags only then (mount(2)).
        let flags = (options.flags - MsFlags::MS_REC) | MsFlags::MS_REMOUNT;
        let target = self::target(folder, &request.target).context("open target of", describe())?;
        mount(none, &target, none, flags, none).map_err(|errno| refused(errno, describe()))?;
    }
    Ok(())
}

fn refused(errno: Errno, what: String) -> Error {
    let kind = match errno {
        Errno::EINVAL | Errno::ENODEV => ErrorKind::InvalidArgument,
        Errno::ENOENT | Errno::ENOTDIR => ErrorKind::FailedPrecondition,
        errno => shim_protocol::error::io_kind(&errno.into()),
    };
    Error::caused(kind, format!("mount {what}"), io::Error::from(errno))
}

/// Where something is mounted below `folder`, as if that were the root.
fn target(folder: &Path, inside: &str) -> io::Result<PathBuf> {
    use std::os::fd::AsRawFd;
    let inside = inside.trim_start_matches('/');
    if inside.is_empty() {
        return Ok(folder.to_owned());
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = openat(CWD, folder, flags, Mode::empty())?;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let found = openat2(&root, inside, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)?;
    std::fs::read_link(format!("/proc/thread-self/fd/{}", found.as_raw_fd()))
}

const BIND: MsFlags = MsFlags::MS_BIND.union(MsFlags::MS_REC);

/// fstab's words (mount(8)): flags, and what is for the filesystem.
struct Options {
    flags: MsFlags,
    data: Vec<String>,
}

impl Options {
    fn parse(words: &[String]) -> Result<Self> {
        let mut options = Self { flags: MsFlags::empty(), data: Vec::new() };
        for word in words {
            match word.as_str() {
                "" | "defaults" | "rw" | "exec" | "suid" | "dev" | "async" => {}
                // Nobody else sees it.
                "private" | "rprivate" | "slave" | "rslave" | "shared" | "rshared"
                | "unbindable" | "runbindable" => {}
                "bind" => options.flags |= MsFlags::MS_BIND,
                "rbind" => options.flags |= BIND,
                "ro" => options.flags |= MsFlags::MS_RDONLY,
                "nodev" => options.flags |= MsFlags::MS_NODEV,
                "noexec" => options.flags |= MsFlags::MS_NOEXEC,
                "nosuid" => options.flags |= MsFlags::MS_NOSUID,
                "noatime" => options.flags |= MsFlags::MS_NOATIME,
                "nodiratime" => options.flags |= MsFlags::MS_NODIRATIME,
                "relatime" => options.flags |= MsFlags::MS_RELATIME,
                "sync" => options.flags |= MsFlags::MS_SYNCHRONOUS,
                word if word == "loop" || word.contains("idmap=") => {
                    return Err(Error::unimplemented(format!("mount option {word:?}")));
                }
                word if word.starts_with("uidmap=") || word.starts_with("gidmap=") => {
                    return Err(Error::unimplemented(format!("mount option {word:?}")));
                }
                word if word.starts_with("x-") || word.starts_with("X-") => {}
                word => options.data.push(word.to_owned()),
            }
        }
        Ok(options)
    }

    fn is_bind(&self) -> bool {
        self.flags.contains(MsFlags::MS_BIND)
    }
}

/// The data of a mount. An overlay's layers are too long for one page when they
/// are many: then this thread goes to the folder that has them all.
fn shorten(kind: &str, data: &[String]) -> Result<String> {
    let joined = data.join(",");
    if joined.len() <= MAX_DATA_BYTES {
        return Ok(joined);
    }
    let too_long = || {
        let length = joined.len();
        Error::invalid(format!("mount data has {length} bytes, {MAX_DATA_BYTES} are possible"))
    };
    let folders: Vec<&str> = data.iter().flat_map(|option| folders(option)).collect();
    let base = folders.first().and_then(|path| Path::new(path).parent()).and_then(|first| {
        let holds_all = |base: &&Path| {
            folders.iter().all(|path| Path::new(path).starts_with(base) && Path::new(path) != *base)
        };
        first.ancestors().find(holds_all)
    });
    let Some(base) = base.filter(|base| kind == "overlay" && *base != Path::new("/")) else {
        return Err(too_long());
    };
    let prefix = format!("{}/", base.display());
    let short: Vec<String> = data
        .iter()
        .map(|option| match folders_of(option) {
            Some((key, paths)) => {
                let paths: Vec<&str> =
                    paths.iter().map(|path| path.strip_prefix(&prefix).unwrap_or(path)).collect();
                format!("{key}{}", paths.join(":"))
            }
            None => option.clone(),
        })
        .collect();
    let short = short.join(",");
    if short.len() > MAX_DATA_BYTES || joined.contains('\\') {
        return Err(too_long());
    }
    // A mount namespace of one's own comes with a working folder of one's own.
    std::env::set_current_dir(base).context("enter", base.display())?;
    Ok(short)
}

fn folders(option: &str) -> Vec<&str> {
    folders_of(option).map(|(_, paths)| paths).unwrap_or_default()
}

fn folders_of(option: &str) -> Option<(&str, Vec<&str>)> {
    for key in ["lowerdir=", "upperdir=", "workdir="] {
        if let Some(paths) = option.strip_prefix(key) {
            return Some((key, paths.split(':').filter(|path| !path.is_empty()).collect()));
        }
    }
    None
}
