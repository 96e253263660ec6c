//! Bind mounts with ids of their own (OCI runtime specification, `config.md`,
//! "Mounts"; mount_setattr(2), `MOUNT_ATTR_IDMAP`).

use std::{
    fs::File,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use containerd_mounts::attributes;
use nix::libc;
use oci_spec::runtime::{Linux, LinuxIdMapping, Mount};
use shim_protocol::{Context, Error, ErrorKind, Result};

use super::{
    mounts::{self, is_bind},
    options::Options,
};
use crate::oci::process;

fn options(mount: &Mount) -> Options {
    Options::parse(mount.options().iter().flatten())
}

/// Is the mount to have ids of its own? Mappings alone ask for it, too.
pub(super) fn is_asked(mount: &Mount) -> bool {
    let has_some = |list: &Option<Vec<_>>| list.as_ref().is_some_and(|list| !list.is_empty());
    options(mount).idmap.is_some()
        || has_some(mount.uid_mappings())
        || has_some(mount.gid_mappings())
}

/// # Errors
/// `InvalidArgument` for a filesystem of its own, which has no other ids.
pub(super) fn require_bind(mount: &Mount) -> Result<()> {
    match is_bind(mount) {
        true => Ok(()),
        false => Err(Error::invalid(format!("{}: idmap is for bind mounts", mounts::name(mount)))),
    }
}

/// Gives a copy of what is to be mounted, which is attached nowhere, other ids.
///
/// # Errors
/// `InvalidArgument` for mappings that make no sense, `FailedPrecondition` for a
/// filesystem that has none.
pub(super) fn map(tree: &OwnedFd, mount: &Mount, namespaces: &mut Namespaces<'_>) -> Result<()> {
    let field = mounts::name(mount);
    let namespace = namespaces.of(mount, &field)?;
    let recursive = options(mount).idmap == Some(true);
    attributes::map_ids(tree.as_fd(), namespace, recursive).map_err(|error| {
        // The kernel says EINVAL of a filesystem that cannot do it, and EPERM of a mount
        // that has other ids already.
        let (kind, what) = match error.raw_os_error() {
            Some(libc::EINVAL | libc::EPERM) => {
                (ErrorKind::FailedPrecondition, "the filesystem's ids cannot be mapped")
            }
            _ => (ErrorKind::Internal, "map its ids"),
        };
        Error::caused(kind, format!("{field}: {what}"), error)
    })
}

type Mappings = (Vec<LinuxIdMapping>, Vec<LinuxIdMapping>);

/// User namespaces by their mappings: a mount takes its own from one.
pub(super) struct Namespaces<'a> {
    /// Has the mappings of the container's, if that is to be made.
    new: Option<&'a Linux>,
    /// The container's, if it is there already.
    joined: Option<&'a File>,
    made: Vec<(Mappings, OwnedFd)>,
}

impl<'a> Namespaces<'a> {
    pub(super) fn new(new: Option<&'a Linux>, joined: Option<&'a File>) -> Self {
        Self { new, joined, made: Vec::new() }
    }

    /// The one for a mount: by its own mappings, or else by the container's.
    fn of(&mut self, mount: &Mount, field: &str) -> Result<BorrowedFd<'_>> {
        let own = (mount.uid_mappings(), mount.gid_mappings());
        let own = (own.0.clone().unwrap_or_default(), own.1.clone().unwrap_or_default());
        let (mappings, field) = match (own.0.is_empty(), own.1.is_empty()) {
            (false, false) => (own, field),
            (true, true) => {
                if let Some(joined) = self.joined {
                    return Ok(joined.as_fd());
                }
                let list = |list: &Option<Vec<_>>| list.clone().unwrap_or_default();
                let Some(linux) = self.new else {
                    return Err(Error::invalid(format!(
                        "{field}: idmap without mappings, and no user namespace to have them from"
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
        let made = self.made.get(at).map(|(_, file)| file.as_fd());
        made.ok_or_else(|| Error::internal("a user namespace is lost"))
    }
}

/// A new user namespace. It lives as long as somebody has it open.
fn make((uids, gids): &Mappings, field: &str) -> Result<OwnedFd> {
    let made = containerd_mounts::user_namespace(&process::id_map(uids), &process::id_map(gids));
    let what = format_args!("{field}.uidMappings, {field}.gidMappings");
    made.context_as(ErrorKind::InvalidArgument, "set", what)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn mount(options: &[&str]) -> Mount {
        let json = json!({"source": "s", "destination": "/d", "type": "bind", "options": options});
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn only_what_asks_has_ids_of_its_own() {
        for (options, asks) in
            [(&["bind", "idmap"][..], true), (&["ridmap"], true), (&["rbind"], false)]
        {
            assert_eq!(is_asked(&mount(options)), asks, "{options:?}");
        }
        let mut mount = mount(&["bind"]);
        mount.set_uid_mappings(Some(Vec::new()));
        assert!(!is_asked(&mount));
    }
}
