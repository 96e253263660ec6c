//! fstab's words for mount flags (mount(8), "filesystem-independent mount
//! options"). What is no flag is data for the filesystem.

use nix::mount::MsFlags;
use shim_protocol::{Error, Result};

use crate::idmap::Mapping;

/// All that the first call for a bind mount heeds.
const BIND: MsFlags = MsFlags::MS_BIND.union(MsFlags::MS_REC);

/// The options of one mount, sorted by who they are for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Options {
    /// For the mount itself.
    pub(crate) flags: MsFlags,
    /// For a call of its own afterwards; empty if nothing is to change.
    pub(crate) propagation: MsFlags,
    /// For the filesystem.
    pub(crate) data: Vec<String>,
    /// Whose the files are.
    pub(crate) mapping: Option<Mapping>,
}

impl Options {
    /// Later words override earlier ones.
    ///
    /// # Errors
    /// `Unimplemented` for words that ask for more than the kernel does,
    /// `InvalidArgument` for maps of ids that are none.
    pub(crate) fn parse(words: &[String]) -> Result<Self> {
        let mut options = Self {
            flags: MsFlags::empty(),
            propagation: MsFlags::empty(),
            data: Vec::new(),
            mapping: None,
        };
        let (mut uids, mut gids) = (None, None);
        for word in words {
            match word.as_str() {
                "" | "defaults" => {}
                "loop" => return Err(unsupported(word)),
                // Notes for user space, not for the kernel (mount(8)).
                word if word.starts_with("x-") || word.starts_with("X-") => {}
                word => match word.split_once('=') {
                    Some(("uidmap", map)) => uids = Some(map),
                    Some(("gidmap", map)) => gids = Some(map),
                    _ => options.add(word),
                },
            }
        }
        options.mapping = match (uids, gids) {
            (Some(uids), Some(gids)) => Some(Mapping::parse(uids, gids)?),
            (None, None) => None,
            _ => return Err(Error::invalid("users and groups can be mapped together only")),
        };
        Ok(options)
    }

    fn add(&mut self, word: &str) {
        if let Some(flags) = propagation(word) {
            self.propagation = flags;
        } else if let Some((set, flags)) = flag(word) {
            self.flags.set(flags, set);
        } else {
            self.data.push(word.to_owned());
        }
    }

    /// Flags of the first call.
    pub(crate) fn mount_flags(&self) -> MsFlags {
        match self.bind_remount() {
            Some(_) => self.flags & BIND,
            None => self.flags,
        }
    }

    /// Flags of a second call: a bind mount takes most of them only then
    /// (mount(2), "Creating a bind mount").
    pub(crate) fn bind_remount(&self) -> Option<MsFlags> {
        let later = self.flags - BIND;
        let is_new_bind =
            self.flags.contains(MsFlags::MS_BIND) && !self.flags.contains(MsFlags::MS_REMOUNT);
        (is_new_bind && !later.is_empty()).then_some(later | MsFlags::MS_BIND | MsFlags::MS_REMOUNT)
    }
}

fn unsupported(word: &str) -> Error {
    Error::unimplemented(format!("mount option {word:?}"))
}

/// The flag a word stands for, and whether it sets or clears it.
fn flag(word: &str) -> Option<(bool, MsFlags)> {
    Some(match word {
        "async" => (false, MsFlags::MS_SYNCHRONOUS),
        "atime" => (false, MsFlags::MS_NOATIME),
        "bind" => (true, MsFlags::MS_BIND),
        "dev" => (false, MsFlags::MS_NODEV),
        "diratime" => (false, MsFlags::MS_NODIRATIME),
        "dirsync" => (true, MsFlags::MS_DIRSYNC),
        "exec" => (false, MsFlags::MS_NOEXEC),
        "iversion" => (true, MsFlags::MS_I_VERSION),
        "lazytime" => (true, MsFlags::MS_LAZYTIME),
        "mand" => (true, MsFlags::MS_MANDLOCK),
        "noatime" => (true, MsFlags::MS_NOATIME),
        "nodev" => (true, MsFlags::MS_NODEV),
        "nodiratime" => (true, MsFlags::MS_NODIRATIME),
        "noexec" => (true, MsFlags::MS_NOEXEC),
        "noiversion" => (false, MsFlags::MS_I_VERSION),
        "nolazytime" => (false, MsFlags::MS_LAZYTIME),
        "nomand" => (false, MsFlags::MS_MANDLOCK),
        "norelatime" => (false, MsFlags::MS_RELATIME),
        "nostrictatime" => (false, MsFlags::MS_STRICTATIME),
        "nosuid" => (true, MsFlags::MS_NOSUID),
        "rbind" => (true, MsFlags::MS_BIND.union(MsFlags::MS_REC)),
        "relatime" => (true, MsFlags::MS_RELATIME),
        "remount" => (true, MsFlags::MS_REMOUNT),
        "ro" => (true, MsFlags::MS_RDONLY),
        "rw" => (false, MsFlags::MS_RDONLY),
        "silent" => (true, MsFlags::MS_SILENT),
        "strictatime" => (true, MsFlags::MS_STRICTATIME),
        "suid" => (false, MsFlags::MS_NOSUID),
        "sync" => (true, MsFlags::MS_SYNCHRONOUS),
        _ => return None,
    })
}

fn propagation(word: &str) -> Option<MsFlags> {
    let (word, recursive) = match word.strip_prefix('r') {
        Some(rest @ ("private" | "shared" | "slave" | "unbindable")) => (rest, MsFlags::MS_REC),
        _ => (word, MsFlags::empty()),
    };
    let flag = match word {
        "private" => MsFlags::MS_PRIVATE,
        "shared" => MsFlags::MS_SHARED,
        "slave" => MsFlags::MS_SLAVE,
        "unbindable" => MsFlags::MS_UNBINDABLE,
        _ => return None,
    };
    Some(flag | recursive)
}

#[cfg(test)]
mod tests {
    use shim_protocol::ErrorKind;

    use super::*;

    fn parse(words: &str) -> Options {
        Options::parse(&words.split(',').map(String::from).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn words_are_sorted() {
        let options = parse("rbind,ro,nosuid,rslave,lowerdir=/a:/b,x-note,defaults,userxattr");
        assert_eq!(
            options.flags,
            MsFlags::MS_BIND | MsFlags::MS_REC | MsFlags::MS_RDONLY | MsFlags::MS_NOSUID
        );
        assert_eq!(options.propagation, MsFlags::MS_SLAVE | MsFlags::MS_REC);
        assert_eq!(options.data, ["lowerdir=/a:/b", "userxattr"]);
    }

    #[test]
    fn the_last_word_counts() {
        assert_eq!(parse("ro,rw,nodev,dev").flags, MsFlags::empty());
        assert_eq!(parse("rw,ro").flags, MsFlags::MS_RDONLY);
        assert_eq!(parse("private,rshared").propagation, MsFlags::MS_SHARED | MsFlags::MS_REC);
    }

    #[test]
    fn a_bind_mount_gets_its_flags_in_a_second_call() {
        assert_eq!(parse("rbind").bind_remount(), None);
        assert_eq!(parse("ro").bind_remount(), None);
        let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        let options = parse("rbind,ro");
        assert_eq!((options.mount_flags(), options.bind_remount()), (BIND, Some(flags)));
        let options = parse("bind,remount,ro");
        assert_eq!((options.mount_flags(), options.bind_remount()), (flags, None));
    }

    #[test]
    fn what_is_not_built_is_said() {
        let error = Options::parse(&["loop".into()]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unimplemented);
    }
}
