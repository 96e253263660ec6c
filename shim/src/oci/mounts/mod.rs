//! Mounts that libcontainer cannot make: those with ids of their own, and tmpfs
//! that begin with what the image has there.
//!
//! They are made in a folder that only the new process sees, before libcontainer
//! comes, which then finds a bind mount of each in the configuration. So it does
//! them in their order among the others, at the place that is safe to mount at;
//! and a copy of a mount keeps its ids. With the host's root, which the container
//! leaves, goes the folder.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::DirBuilderExt,
    },
    path::{Path, PathBuf},
};

use libcontainer::{
    rootfs::utils::parse_mount,
    syscall::{Syscall, linux::LinuxSyscall},
};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};
use oci_spec::runtime::{Linux, Mount, Spec};
use shim_protocol::{Context, Error, ErrorKind, Result};

use self::{copy::copy, idmap::Namespaces};
use super::{process::Place, spec};

mod copy;
mod idmap;

/// The folder: there on every machine, for every user, and nothing that anybody
/// mounts into a container. A path that is shorter lived would be out of reach
/// of who is root in a user namespace only.
const FOLDER: &str = "/proc/tty";
const PROC: &str = "/proc";
/// Not for the kernel, nor for libcontainer.
const IDMAP: &str = "idmap";
const RECURSIVE_IDMAP: &str = "ridmap";
const COPY_UP: &str = "tmpcopyup";
/// `include/uapi/linux/mount.h`.
const MOVE_MOUNT_F_EMPTY_PATH: u32 = 4;

/// Mounts to be made first.
#[derive(Debug, Default)]
pub(super) struct Scratch(Vec<Item>);

#[derive(Debug)]
struct Item {
    /// Which mount it is for.
    field: String,
    what: What,
}

#[derive(Debug)]
enum What {
    /// A tree of mounts that is attached nowhere.
    Tree { root: OwnedFd, is_folder: bool },
    /// A tmpfs with the content of a folder of the root filesystem.
    Copy { rootfs: PathBuf, folder: PathBuf, options: String },
}

impl Scratch {
    /// Prepares what can be prepared outside, and has `spec` name it.
    ///
    /// # Errors
    /// `InvalidArgument` for mappings that make no sense, `FailedPrecondition`
    /// for a filesystem that has none, `Unimplemented` for a copy of what an
    /// earlier mount hides.
    pub(super) fn plan(
        spec: &mut Spec,
        bundle: &Path,
        rootfs: &Path,
        linux: &Linux,
        place: &Place,
    ) -> Result<Self> {
        let mut mounts = spec.mounts().clone().unwrap_or_default();
        let mut scratch = Self::default();
        let mut namespaces =
            Namespaces::new(place.has_new_user().then_some(linux), place.user_namespace());
        for at in 0..mounts.len() {
            let (before, rest) = mounts.split_at_mut(at);
            let Some(mount) = rest.first_mut() else { break };
            let field = format!("mounts[{}]", mount.destination().display());
            let what = if idmap::is_asked(mount) {
                idmap::tree(mount, bundle, &field, &mut namespaces, place.has_user())?
            } else if has(mount, COPY_UP) {
                let hides =
                    |earlier: &&Mount| mount.destination().starts_with(earlier.destination());
                if let Some(earlier) = before.iter().find(hides) {
                    let earlier = earlier.destination().display();
                    let what = format!("{field}: {COPY_UP} below the mount at {earlier}");
                    return Err(spec::unable(&what));
                }
                take_tmpfs(mount, rootfs, &field)?
            } else {
                continue;
            };
            mount.set_source(Some(Path::new(FOLDER).join(scratch.0.len().to_string())));
            mount.set_typ(Some("bind".to_owned()));
            scratch.0.push(Item { field, what });
        }
        if !scratch.0.is_empty() {
            spec.set_mounts(Some(mounts));
        }
        Ok(scratch)
    }

    /// Makes them, in the new process, while that is in the host's root and in
    /// the user namespace.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub(super) fn attach(&self) -> Result<()> {
        if self.0.is_empty() {
            return Ok(());
        }
        let none = None::<&str>;
        let make = || -> nix::Result<()> {
            unshare(CloneFlags::CLONE_NEWNS)?;
            // Nothing of it is to reach the host.
            mount(none, PROC, none, MsFlags::MS_PRIVATE, none)?;
            mount(Some("tmpfs"), FOLDER, Some("tmpfs"), MsFlags::empty(), Some("mode=0700"))
        };
        make().map_err(io::Error::from).context("make", "a folder for mounts")?;
        let folder = File::open(FOLDER).context("open", FOLDER)?;
        for (at, Item { field, what }) in self.0.iter().enumerate() {
            let name = at.to_string();
            let path = Path::new(FOLDER).join(&name);
            match what {
                What::Tree { root, is_folder } => {
                    let made = if *is_folder { make_folder(&path) } else { make_file(&path) };
                    made.context("make", path.display())?;
                    let flags = MOVE_MOUNT_F_EMPTY_PATH;
                    LinuxSyscall
                        .move_mount(root.as_fd(), None, folder.as_fd(), Some(&name), flags)
                        .map_err(|e| Error::caused(ErrorKind::Internal, field, e))?;
                }
                What::Copy { rootfs, folder, options } => {
                    make_folder(&path).context("make", path.display())?;
                    copy(rootfs, folder, &path, options)
                        .map_err(|e| Error::caused(e.kind(), format!("{field}: {COPY_UP}"), e))?;
                }
            }
        }
        Ok(())
    }
}

fn make_folder(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().mode(0o700).create(path)
}

fn make_file(path: &Path) -> io::Result<()> {
    File::create_new(path).map(drop)
}

fn has(mount: &Mount, option: &str) -> bool {
    mount.options().iter().flatten().any(|other| other == option)
}

/// Makes a bind mount of a tmpfs: the filesystem's own options are taken out,
/// those of the mount stay.
fn take_tmpfs(mount: &mut Mount, rootfs: &Path, field: &str) -> Result<What> {
    if mount.typ().as_deref() != Some("tmpfs") {
        return Err(Error::invalid(format!("{field}: {COPY_UP} is for tmpfs")));
    }
    let (mut own, mut rest) = (Vec::new(), vec!["bind".to_owned()]);
    for option in mount.options().iter().flatten().filter(|option| *option != COPY_UP) {
        // The library knows which those are.
        let mut alone = Mount::default();
        alone.set_destination(mount.destination().clone()).set_typ(mount.typ().clone());
        alone.set_options(Some(vec![option.clone()]));
        let parsed = parse_mount(&alone).map_err(|e| {
            Error::caused(ErrorKind::InvalidArgument, format!("{field}.options"), e)
        })?;
        if parsed.data.contains(option) {
            own.push(option.clone())
        } else {
            rest.push(option.clone())
        }
    }
    mount.set_options(Some(rest));
    let folder = mount.destination().clone();
    Ok(What::Copy { rootfs: rootfs.to_owned(), folder, options: own.join(",") })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn mount(options: &[&str], kind: &str) -> Mount {
        let json = json!({"source": "s", "destination": "/d", "type": kind, "options": options});
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn options_of_a_tmpfs_and_of_its_mount() {
        let asked = ["nosuid", "size=64k", "tmpcopyup", "ro", "mode=700", "rprivate", "huge=never"];
        let mut mount = mount(&asked, "tmpfs");
        let what = take_tmpfs(&mut mount, Path::new("/r"), "mounts[/d]").unwrap();
        let What::Copy { options, folder, .. } = what else { panic!("no copy") };
        assert_eq!((&*options, &*folder), ("size=64k,mode=700,huge=never", Path::new("/d")));
        let rest = mount.options().clone().unwrap();
        assert_eq!(rest, ["bind", "nosuid", "ro", "rprivate"]);
    }

    #[test]
    fn only_what_asks_has_ids_of_its_own() {
        for (options, asks) in
            [(&["bind", "idmap"][..], true), (&["ridmap"], true), (&["rbind"], false)]
        {
            assert_eq!(idmap::is_asked(&mount(options, "bind")), asks, "{options:?}");
        }
        let mut mount = mount(&["bind"], "bind");
        mount.set_uid_mappings(Some(Vec::new()));
        assert!(!idmap::is_asked(&mount));
    }
}
