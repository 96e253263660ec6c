//! Bind mounts with ids of their own (OCI runtime specification, `config.md`,
//! "Mounts"; mount_setattr(2), `MOUNT_ATTR_IDMAP`).

use std::{
    fs::{File, OpenOptions},
    os::{
        fd::{AsFd, AsRawFd},
        unix::fs::OpenOptionsExt,
    },
    path::Path,
};

use libcontainer::syscall::{
    Syscall, SyscallError,
    linux::{self, LinuxSyscall, MountAttr},
};
use nix::{libc, sched::CloneFlags};
use oci_spec::runtime::{Linux, LinuxIdMapping, Mount};
use shim_protocol::{Context, Error, ErrorKind, Result};

use super::{IDMAP, RECURSIVE_IDMAP, What, has};
use crate::oci::{idle::Idle, process};

/// `include/uapi/linux/mount.h`.
const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;

/// Is the mount to have ids of its own? Mappings alone ask for it, too.
pub(super) fn is_asked(mount: &Mount) -> bool {
    let has_some = |list: &Option<Vec<_>>| list.as_ref().is_some_and(|list| !list.is_empty());
    has(mount, IDMAP)
        || has(mount, RECURSIVE_IDMAP)
        || has_some(mount.uid_mappings())
        || has_some(mount.gid_mappings())
}

/// A copy of what is to be mounted, with other ids, attached nowhere.
pub(super) fn tree(
    mount: &mut Mount,
    bundle: &Path,
    field: &str,
    namespaces: &mut Namespaces<'_>,
    in_user_namespace: bool,
) -> Result<What> {
    let whole = has(mount, "rbind");
    if !whole && !has(mount, "bind") {
        return Err(Error::invalid(format!("{field}: {IDMAP} is for bind mounts")));
    }
    let source = mount.source().as_deref().unwrap_or(Path::new(""));
    let source = bundle.join(source);
    let what = || format!("{field}.source: {}", source.display());
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(&source);
    let opened = opened.context_as(ErrorKind::InvalidArgument, "open", what())?;
    let is_folder = opened.metadata().context("look at", what())?.is_dir();
    let recursive = |yes: bool| if yes { linux::AT_RECURSIVE } else { 0 };
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
    let flags = flags | linux::AT_EMPTY_PATH | recursive(whole);
    let root = LinuxSyscall.open_tree(opened.as_raw_fd(), Some(""), flags).map_err(|e| {
        Error::caused(ErrorKind::Internal, format!("copy the mount of {}", what()), e)
    })?;
    let namespace = namespaces.of(mount, field)?;
    let attributes = MountAttr {
        attr_set: MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: namespace.as_raw_fd() as u64,
    };
    let flags = linux::AT_EMPTY_PATH | recursive(has(mount, RECURSIVE_IDMAP));
    let size = size_of_val(&attributes);
    LinuxSyscall
        .mount_setattr(root.as_fd(), Path::new(""), flags, &attributes, size)
        .map_err(|error| refusal(error, field))?;
    if in_user_namespace {
        // As the kernel has it for all mounts that a user namespace gets to see: what
        // happens to them there must not come back.
        let slave =
            MountAttr { attr_set: 0, attr_clr: 0, propagation: libc::MS_SLAVE, userns_fd: 0 };
        let flags = linux::AT_EMPTY_PATH | linux::AT_RECURSIVE;
        LinuxSyscall
            .mount_setattr(root.as_fd(), Path::new(""), flags, &slave, size)
            .map_err(|e| Error::caused(ErrorKind::Internal, field, e))?;
    }
    let ours = [IDMAP, RECURSIVE_IDMAP];
    let mut options = mount.options().clone().unwrap_or_default();
    options.retain(|option| !ours.contains(&&**option));
    mount.set_options(Some(options)).set_uid_mappings(None).set_gid_mappings(None);
    Ok(What::Tree { root, is_folder })
}

/// The kernel says `EINVAL` of a filesystem that cannot do it, and `EPERM` of a
/// mount that has other ids already.
fn refusal(error: SyscallError, field: &str) -> Error {
    // The library's own version of the type.
    let number = match &error {
        SyscallError::Nix(errno) => *errno as i32,
        _ => 0,
    };
    let (kind, what) = match number {
        libc::EINVAL | libc::EPERM => {
            (ErrorKind::FailedPrecondition, "the filesystem's ids cannot be mapped")
        }
        _ => (ErrorKind::Internal, "map its ids"),
    };
    Error::caused(kind, format!("{field}: {what}"), error)
}

type Mappings = (Vec<LinuxIdMapping>, Vec<LinuxIdMapping>);

/// User namespaces by their mappings: a mount takes its own from one.
pub(super) struct Namespaces<'a> {
    /// Has the mappings of the container's, if that is to be made.
    new: Option<&'a Linux>,
    /// The container's, if it is there already.
    joined: Option<&'a File>,
    made: Vec<(Mappings, File)>,
}

impl<'a> Namespaces<'a> {
    pub(super) fn new(new: Option<&'a Linux>, joined: Option<&'a File>) -> Self {
        Self { new, joined, made: Vec::new() }
    }

    /// The one for a mount: by its own mappings, or else by the container's.
    fn of(&mut self, mount: &Mount, field: &str) -> Result<&File> {
        let own = (mount.uid_mappings(), mount.gid_mappings());
        let own = (own.0.clone().unwrap_or_default(), own.1.clone().unwrap_or_default());
        let (mappings, field) = match (own.0.is_empty(), own.1.is_empty()) {
            (false, false) => (own, field),
            (true, true) => {
                if let Some(joined) = self.joined {
                    return Ok(joined);
                }
                let list = |list: &Option<Vec<_>>| list.clone().unwrap_or_default();
                let Some(linux) = self.new else {
                    return Err(Error::invalid(format!(
                        "{field}: {IDMAP} without mappings, and no user namespace to have them from"
                    )));
                };
                ((list(linux.uid_mappings()), list(linux.gid_mappings())), "linux")
            }
            _ => {
                return Err(Error::invalid(format!(
                    "{field}: uidMappings and gidMappings go together"
                )));
            }
        };
        let at = match self.made.iter().position(|(known, _)| *known == mappings) {
            Some(at) => at,
            None => {
                let file = make(&mappings, field)?;
                self.made.push((mappings, file));
                self.made.len() - 1
            }
        };
        let made = self.made.get(at).map(|(_, file)| file);
        made.ok_or_else(|| Error::internal("a user namespace is lost"))
    }
}

/// A new user namespace. It lives as long as somebody has it open.
fn make((uids, gids): &Mappings, field: &str) -> Result<File> {
    let holder = Idle::new(CloneFlags::CLONE_NEWUSER)?;
    process::write_ids(holder.pid(), field, uids, gids)?;
    let path = format!("/proc/{}/ns/user", holder.pid());
    File::open(&path).context("open", &path)
}
