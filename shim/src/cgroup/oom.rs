//! Notice of out-of-memory kills.

use std::{
    fs::{self, File},
    io,
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use nix::{
    errno::Errno,
    sys::{
        eventfd::{EfdFlags, EventFd},
        inotify::{AddWatchFlags, InitFlags, Inotify},
    },
    unistd,
};
use shim_protocol::{Context, Result};
use tokio::io::{Interest, unix::AsyncFd};

use super::{exists, files::Flat};
use crate::sys::fd;

/// Tells when the kernel kills a process of the container for want of memory.
pub struct OomWatcher {
    notice: AsyncFd<OwnedFd>,
    group: PathBuf,
    version: Version,
}

enum Version {
    V1,
    V2 {
        /// Kills that were told already.
        seen: AtomicU64,
    },
}

impl OomWatcher {
    /// An eventfd that the kernel signals, also when the group goes away
    /// (kernel, cgroup-v1/memory, "OOM Control").
    pub(super) fn v1(group: &Path) -> Result<Self> {
        exists(group)?;
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let event =
            EventFd::from_flags(flags).map_err(io::Error::from).context("make", "eventfd")?;
        let register = || {
            let control = File::open(group.join("memory.oom_control"))?;
            let request = format!("{} {}", event.as_raw_fd(), control.as_raw_fd());
            fs::write(group.join("cgroup.event_control"), request)
        };
        register().context("watch memory of", group.display())?;
        Self::new(event.into(), group, Version::V1)
    }

    /// Changes of `memory.events`, and of `cgroup.events` for the end of the
    /// last process.
    pub(crate) fn v2(group: &Path) -> Result<Self> {
        exists(group)?;
        let watch = || {
            let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
            for name in ["memory.events", "cgroup.events"] {
                inotify.add_watch(&group.join(name), AddWatchFlags::IN_MODIFY)?;
            }
            Ok(inotify)
        };
        let inotify = watch().map_err(|errno: nix::Error| io::Error::from(errno));
        let inotify = inotify.context("watch memory of", group.display())?;
        let seen = kills(group).context("read", group.display())?.into();
        Self::new(inotify.into(), group, Version::V2 { seen })
    }

    fn new(notice: OwnedFd, group: &Path, version: Version) -> Result<Self> {
        let notice = fd::register(notice, Interest::READABLE).context("poll", "oom notice")?;
        Ok(Self { notice, group: group.to_owned(), version })
    }

    /// Waits for the next kill. False when the group is gone or empty.
    pub async fn next(&self) -> bool {
        loop {
            let noticed = self.noticed().await;
            let more = noticed.and_then(|()| match &self.version {
                Version::V1 => Ok(Some(self.group.exists())),
                Version::V2 { seen } => changed(&self.group, seen),
            });
            match more {
                Ok(None) => {}
                Ok(Some(killed)) => return killed,
                Err(error) => {
                    tracing::warn!(%error, group = %self.group.display(), "oom notice ends");
                    return false;
                }
            }
        }
    }

    /// Was there a kill that nobody was told of? Each is told once, here or by
    /// [`OomWatcher::next`]. The kernel gives notice before it kills, so a
    /// process that was reaped had its notice before.
    pub fn take(&self) -> bool {
        let taken = match &self.version {
            Version::V1 => match unistd::read(self.notice.get_ref(), &mut [0; 8]) {
                Ok(_) => Ok(self.group.exists()),
                Err(Errno::EAGAIN) => Ok(false),
                Err(errno) => Err(errno.into()),
            },
            Version::V2 { seen } => is_more(&self.group, seen),
        };
        taken.unwrap_or_else(|error| {
            tracing::warn!(%error, group = %self.group.display(), "read oom notice");
            false
        })
    }

    /// Waits for a notice, and takes it and those that came with it.
    async fn noticed(&self) -> io::Result<()> {
        // Enough for an eventfd's counter and for inotify events without name.
        let mut buffer = [0; 256];
        loop {
            let mut ready = self.notice.readable().await?;
            if let Ok(result) = ready.try_io(|fd| Ok(unistd::read(fd.get_ref(), &mut buffer)?)) {
                return result.map(drop);
            }
        }
    }
}

/// True after a kill, false when no process is left, `None` otherwise.
fn changed(group: &Path, seen: &AtomicU64) -> io::Result<Option<bool>> {
    if is_more(group, seen)? {
        return Ok(Some(true));
    }
    let populated = Flat::read(group, "cgroup.events")?.get("populated") == 1;
    Ok(if populated { None } else { Some(false) })
}

fn is_more(group: &Path, seen: &AtomicU64) -> io::Result<bool> {
    let kills = kills(group)?;
    Ok(seen.fetch_max(kills, Ordering::Relaxed) < kills)
}

fn kills(group: &Path) -> io::Result<u64> {
    Ok(Flat::read(group, "memory.events")?.get("oom_kill"))
}
