//! The options of a mount (OCI runtime specification, `config.md`, "Linux mount
//! options"). What is no option of mounts is one of the filesystem.

use containerd_mounts::attributes::Attributes;
use nix::libc;
use rustix::mount::{MountFlags, MountPropagationFlags};

/// What a list of options asks for. Later words override earlier ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Options {
    /// A part of the tree that is there already; with all that is mounted in it?
    pub(super) bind: Option<bool>,
    /// Of the mount alone.
    pub(super) own: Attributes,
    /// Of it and all mounts in it.
    pub(super) deep: Attributes,
    /// How it and its copies follow each other, in the order of the words.
    pub(super) propagation: Vec<MountPropagationFlags>,
    /// It has ids of its own; all mounts in it, too?
    pub(super) idmap: Option<bool>,
    /// A tmpfs begins with what is there.
    pub(super) copies_up: bool,
    /// For the filesystem, as flags and as words.
    pub(super) flags: MountFlags,
    pub(super) data: Vec<String>,
}

/// An attribute by its word, and whether the word sets or clears it.
fn attribute(word: &str) -> Option<(bool, u64)> {
    Some(match word {
        "ro" => (true, libc::MOUNT_ATTR_RDONLY),
        "rw" => (false, libc::MOUNT_ATTR_RDONLY),
        "nosuid" => (true, libc::MOUNT_ATTR_NOSUID),
        "suid" => (false, libc::MOUNT_ATTR_NOSUID),
        "nodev" => (true, libc::MOUNT_ATTR_NODEV),
        "dev" => (false, libc::MOUNT_ATTR_NODEV),
        "noexec" => (true, libc::MOUNT_ATTR_NOEXEC),
        "exec" => (false, libc::MOUNT_ATTR_NOEXEC),
        "noatime" => (true, libc::MOUNT_ATTR_NOATIME),
        "atime" => (false, libc::MOUNT_ATTR_NOATIME),
        "strictatime" => (true, libc::MOUNT_ATTR_STRICTATIME),
        "nostrictatime" => (false, libc::MOUNT_ATTR_STRICTATIME),
        "relatime" => (true, libc::MOUNT_ATTR_RELATIME),
        "norelatime" => (false, libc::MOUNT_ATTR_RELATIME),
        "nodiratime" => (true, libc::MOUNT_ATTR_NODIRATIME),
        "diratime" => (false, libc::MOUNT_ATTR_NODIRATIME),
        "nosymfollow" => (true, libc::MOUNT_ATTR_NOSYMFOLLOW),
        "symfollow" => (false, libc::MOUNT_ATTR_NOSYMFOLLOW),
        _ => return None,
    })
}

/// `include/uapi/linux/mount.h`, MS_I_VERSION and MS_POSIXACL.
const I_VERSION: MountFlags = MountFlags::from_bits_retain(1 << 23);
const POSIX_ACL: MountFlags = MountFlags::from_bits_retain(1 << 16);

/// A flag of the filesystem, likewise.
fn flag(word: &str) -> Option<(bool, MountFlags)> {
    Some(match word {
        "sync" => (true, MountFlags::SYNCHRONOUS),
        "async" => (false, MountFlags::SYNCHRONOUS),
        "dirsync" => (true, MountFlags::DIRSYNC),
        "mand" => (true, MountFlags::PERMIT_MANDATORY_FILE_LOCKING),
        "nomand" => (false, MountFlags::PERMIT_MANDATORY_FILE_LOCKING),
        "lazytime" => (true, MountFlags::LAZYTIME),
        "nolazytime" => (false, MountFlags::LAZYTIME),
        "iversion" => (true, I_VERSION),
        "noiversion" => (false, I_VERSION),
        "acl" => (true, POSIX_ACL),
        "noacl" => (false, POSIX_ACL),
        "silent" => (true, MountFlags::SILENT),
        "loud" => (false, MountFlags::SILENT),
        _ => return None,
    })
}

/// How a mount and its copies follow each other (mount(8), "Shared subtrees").
pub(super) fn propagation(word: &str) -> Option<MountPropagationFlags> {
    let (recursive, name) = match word.strip_prefix('r') {
        Some(name) => (MountPropagationFlags::REC, name),
        None => (MountPropagationFlags::empty(), word),
    };
    let kind = match name {
        "shared" => MountPropagationFlags::SHARED,
        "slave" => MountPropagationFlags::DOWNSTREAM,
        "private" => MountPropagationFlags::PRIVATE,
        "unbindable" => MountPropagationFlags::UNBINDABLE,
        _ => return None,
    };
    Some(kind | recursive)
}

impl Options {
    pub(super) fn parse<'a>(words: impl IntoIterator<Item = &'a String>) -> Self {
        let mut options = Self {
            bind: None,
            own: Attributes::default(),
            deep: Attributes::default(),
            propagation: Vec::new(),
            idmap: None,
            copies_up: false,
            flags: MountFlags::empty(),
            data: Vec::new(),
        };
        for word in words {
            options.add(word);
        }
        options
    }

    fn add(&mut self, word: &str) {
        let deep = || attribute(word.strip_prefix('r')?);
        if let Some(kind) = propagation(word) {
            self.propagation.push(kind);
        } else if let Some((set, attribute)) = attribute(word) {
            self.own.change(set, attribute);
        } else if let Some((set, attribute)) = deep() {
            self.deep.change(set, attribute);
        } else if let Some((set, flag)) = flag(word) {
            self.flags.set(flag, set);
        } else {
            match word {
                "" | "defaults" => {}
                "bind" => self.bind = Some(self.bind.unwrap_or_default()),
                "rbind" => self.bind = Some(true),
                "idmap" => self.idmap = Some(self.idmap.unwrap_or_default()),
                "ridmap" => self.idmap = Some(true),
                "tmpcopyup" => self.copies_up = true,
                _ => self.data.push(word.to_owned()),
            }
        }
    }

    /// All flags for a new filesystem (mount(2)).
    pub(super) fn mount_flags(&self) -> MountFlags {
        let pairs = [
            (libc::MOUNT_ATTR_RDONLY, MountFlags::RDONLY),
            (libc::MOUNT_ATTR_NOSUID, MountFlags::NOSUID),
            (libc::MOUNT_ATTR_NODEV, MountFlags::NODEV),
            (libc::MOUNT_ATTR_NOEXEC, MountFlags::NOEXEC),
            (libc::MOUNT_ATTR_NOATIME, MountFlags::NOATIME),
            (libc::MOUNT_ATTR_STRICTATIME, MountFlags::STRICTATIME),
            (libc::MOUNT_ATTR_NODIRATIME, MountFlags::NODIRATIME),
            (libc::MOUNT_ATTR_NOSYMFOLLOW, MountFlags::NOSYMFOLLOW),
        ];
        let set = pairs.into_iter().filter(|(attribute, _)| self.own.has(*attribute));
        set.fold(self.flags, |all, (_, flag)| all | flag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Options {
        let words: Vec<_> = words.iter().map(|word| (*word).to_owned()).collect();
        Options::parse(&words)
    }

    #[test]
    fn words_are_sorted_by_what_they_are_for() {
        let options = parse(&["nosuid", "strictatime", "mode=755", "dirsync", "rro", "rslave"]);
        assert!(options.own.has(libc::MOUNT_ATTR_NOSUID));
        assert!(options.deep.has(libc::MOUNT_ATTR_RDONLY));
        assert!(!options.own.has(libc::MOUNT_ATTR_RDONLY));
        assert_eq!(options.data, ["mode=755"]);
        let slave = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
        assert_eq!(options.propagation, [slave]);
        let flags = MountFlags::NOSUID | MountFlags::STRICTATIME | MountFlags::DIRSYNC;
        assert_eq!(options.mount_flags(), flags);
        assert_eq!(options.bind, None);
    }

    #[test]
    fn words_for_this_runtime_are_for_nobody_else() {
        let options = parse(&["tmpcopyup", "size=64k", "idmap", "ridmap", "mode=700"]);
        assert!(options.copies_up);
        assert_eq!(options.idmap, Some(true));
        assert_eq!(options.data, ["size=64k", "mode=700"]);
    }

    #[test]
    fn the_last_word_counts() {
        let options = parse(&["ro", "rw", "noatime", "relatime", "bind", "rbind", "bind"]);
        assert_eq!(options.bind, Some(true));
        assert!(!options.own.has(libc::MOUNT_ATTR_RDONLY));
        assert!(!options.own.has(libc::MOUNT_ATTR_NOATIME));
        assert_eq!(options.mount_flags(), MountFlags::empty());
    }
}
