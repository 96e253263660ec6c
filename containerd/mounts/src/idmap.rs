//! Mounts whose files belong to others than on disk: a container in a user
//! namespace sees an image as its own, and nothing is copied.
//!
//! An overlay cannot be mapped itself. Its lower folders can, so the folder
//! that has all of them is mounted mapped where only one thread sees it, the
//! overlay is put together there, and only the result gets out (containerd,
//! `core/mount/mount_linux.go`, leaves mounts in a temporary folder for that).

use std::{
    fs, io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    thread,
};

use nix::mount::{MsFlags, mount};
use rustix::{
    fs::CWD,
    mount::{MoveMountFlags, move_mount},
};
use shim_protocol::{Context, Error, ErrorKind, Result};

use crate::{
    attributes,
    mount::MAX_DATA_BYTES,
    overlay, private, sys,
    tree::{self, Depth},
};

/// Ids of users and groups, in the format of the kernel's files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mapping {
    uids: String,
    gids: String,
}

impl Mapping {
    /// From the words of mount options: `<inside>:<outside>:<count>`, with `,`
    /// or `;` between several.
    ///
    /// # Errors
    /// `InvalidArgument` for other forms.
    pub(crate) fn parse(uids: &str, gids: &str) -> Result<Self> {
        Ok(Self { uids: lines(uids)?, gids: lines(gids)? })
    }

    fn namespace(&self) -> Result<OwnedFd> {
        let made = sys::user_namespace(&self.uids, &self.gids);
        made.context_as(ErrorKind::InvalidArgument, "map ids by", format!("{self:?}"))
    }
}

fn lines(map: &str) -> Result<String> {
    let refuse = || Error::invalid(format!("{map:?} does not map ids, as 0:100000:65536 would"));
    let mut lines = String::new();
    for range in map.split([',', ';']) {
        let numbers: Vec<u32> =
            range.split(':').map(str::parse).collect::<Result<_, _>>().map_err(|_| refuse())?;
        let [inside, outside, count] = numbers[..] else { return Err(refuse()) };
        lines.push_str(&format!("{inside} {outside} {count}\n"));
    }
    Ok(lines)
}

/// What is mounted, once more with mapped ids, detached.
///
/// # Errors
/// `InvalidArgument` when the filesystem cannot be mapped.
pub(crate) fn remap(mounted: &OwnedFd, mapping: &Mapping) -> Result<OwnedFd> {
    let tree = tree::clone_open(mounted.as_fd(), Depth::All).context("clone", "the mount")?;
    let mapped = attributes::map_ids(tree.as_fd(), mapping.namespace()?.as_fd(), true);
    mapped.context_as(ErrorKind::InvalidArgument, "map ids of", "the mount")?;
    Ok(tree)
}

/// An overlay with mapped lower folders, detached.
///
/// # Errors
/// `InvalidArgument` when it has no lower folders or they cannot be mapped.
pub(crate) fn overlay(flags: MsFlags, data: &[String], mapping: &Mapping) -> Result<OwnedFd> {
    let (base, data) = overlay::split_lower(data)
        .ok_or_else(|| Error::invalid("an overlay with mapped ids needs lower folders"))?;
    let joined = data.join(",");
    if joined.len() > MAX_DATA_BYTES {
        let length = joined.len();
        return Err(Error::invalid(format!("{length} bytes of options for an overlay")));
    }
    let namespace = mapping.namespace()?;
    thread::scope(|scope| {
        let thread = scope.spawn(|| assemble(&base, &joined, flags, &namespace));
        thread.join().unwrap_or_else(|_| Err(Error::internal("mount thread panicked")))
    })
}

fn assemble(base: &Path, data: &str, flags: MsFlags, namespace: &OwnedFd) -> Result<OwnedFd> {
    private::isolate()?;
    let layers = tree::clone_path(base, Depth::One).context("clone", base.display())?;
    attributes::map_ids(layers.as_fd(), namespace.as_fd(), true).context_as(
        ErrorKind::InvalidArgument,
        "map ids of",
        base.display(),
    )?;
    let room = PathBuf::from(private::PLACE);
    let (lower, merged) = (room.join("lower"), room.join("merged"));
    let tmpfs = mount(Some("tmpfs"), &room, Some("tmpfs"), MsFlags::empty(), Some("mode=700"));
    tmpfs.map_err(io::Error::from).context("make room for", "an overlay")?;
    for folder in [&lower, &merged] {
        fs::create_dir(folder).context("make", folder.display())?;
    }
    move_mount(&layers, "", CWD, &lower, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(io::Error::from)
        .context("attach", base.display())?;
    // Of this thread only, as its mounts.
    std::env::set_current_dir(&lower).context("enter", lower.display())?;
    mount(Some("overlay"), &merged, Some("overlay"), flags, Some(data)).map_err(|errno| {
        Error::caused(ErrorKind::InvalidArgument, "mount an overlay with mapped ids", errno)
    })?;
    let tree = tree::clone_path(&merged, Depth::One);
    tree.context("take out", "an overlay")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_checked() {
        let mapping = Mapping::parse("0:100000:65536", "0:1:1,1:2000:10").unwrap();
        assert_eq!(mapping.uids, "0 100000 65536\n");
        assert_eq!(mapping.gids, "0 1 1\n1 2000 10\n");
        for bad in ["", "0", "0:1", "0:1:2:3", "a:b:c", "0:-1:2", "0:1:2,", "0:1:99999999999"] {
            let error = Mapping::parse(bad, "0:1:1").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{bad}");
        }
    }
}
