//! Snapshots as the kernel's overlays: each has a folder of what it has beyond
//! its parents.
//!
//! ```text
//! <root>/snapshots/<n>/
//! ├──fs      what it has beyond its parents
//! └──work    the kernel's, of an active one
//! ```

use std::{
    fs::{self, File},
    os::unix::fs::{MetadataExt, lchown},
    path::{Path, PathBuf},
};

use nix::{
    dir::Dir,
    fcntl::OFlag,
    sys::{stat::Mode, statfs, utsname::uname},
};
use shim_protocol::{Context, Error, Result};

use super::{
    driver::{Driver, Stack, text},
    folders::{self, Folders},
    ids, usage,
};
use crate::{
    Mount,
    snapshots::{GID_MAPPING_LABEL, Kind, UID_MAPPING_LABEL, Usage},
};

/// What can be configured of overlays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OverlayConfig {
    /// Options of each overlay, such as `volatile`.
    pub mount_options: Vec<String>,
    /// Does a label of each snapshot tell where what was written to it is?
    pub upperdir_label: bool,
    /// May clients change the owner of each file where ids cannot be mapped?
    pub slow_chown: bool,
}

/// The kernel says here whether it can index overlays.
const INDEX: &str = "/sys/module/overlay/parameters/index";

/// Overlays upon mounts with mapped ids work from this version on.
const MAPPED_SINCE: (u32, u32) = (5, 19);

/// The option `userxattr` exists from this version on.
const USER_XATTR_SINCE: (u32, u32) = (5, 11);

/// See the [module](self).
pub(super) struct Overlay {
    folders: Folders,
    /// Of each overlay.
    options: Vec<String>,
    config: OverlayConfig,
    maps_ids: bool,
    in_user_namespace: bool,
}

impl Overlay {
    /// Overlays in `root`.
    ///
    /// # Errors
    /// `FailedPrecondition` when the filesystem is not good for them; those of
    /// the disk.
    pub(super) fn open(root: &Path, config: OverlayConfig) -> Result<Self> {
        let folders = Folders::open(root.join("snapshots"), 0o700)?;
        if !tells_types(root)? {
            return Err(Error::precondition(format!(
                "the filesystem of {} does not tell the types of files in folders (d_type), which \
                 overlays need; xfs does if it was made with ftype=1",
                root.display()
            )));
        }
        let in_user_namespace = in_user_namespace()?;
        let mut options = config.mount_options.clone();
        if !has(&options, "userxattr") && in_user_namespace && can_user_xattr(root)? {
            options.push("userxattr".into());
        }
        // With an index, a folder that was moved or copied is refused.
        if !has(&options, "index") && Path::new(INDEX).exists() {
            options.push("index=off".into());
        }
        let maps_ids = kernel()? >= MAPPED_SINCE;
        Ok(Self { folders, options, config, maps_ids, in_user_namespace })
    }

    fn fs(&self, id: u64) -> PathBuf {
        self.folders.path(id).join("fs")
    }

    fn bind(&self, id: u64, mut options: Vec<String>, access: &str) -> Result<Vec<Mount>> {
        options.extend([access.to_owned(), "rbind".to_owned()]);
        Ok(vec![Mount {
            kind: "bind".into(),
            source: text(&self.fs(id))?.to_owned(),
            target: String::new(),
            options,
        }])
    }

    /// Options that map ids, by the labels.
    fn mapping(&self, of: &Stack) -> Vec<String> {
        if !self.maps_ids {
            return Vec::new();
        }
        [("uidmap", UID_MAPPING_LABEL), ("gidmap", GID_MAPPING_LABEL)]
            .iter()
            .filter_map(|(option, label)| Some(format!("{option}={}", of.labels.get(*label)?)))
            .collect()
    }

    fn fill(&self, new: &Stack) -> Result<()> {
        let at = self.folders.new_path(new.id);
        let fs = at.join("fs");
        folders::make(&fs, 0o755)?;
        if new.kind == Kind::Active {
            folders::make(&at.join("work"), 0o711)?;
        }
        // A folder that nothing was written to shows as the root of the mount.
        let owner = match (ids::mapped_root(&new.labels)?, new.parents.first()) {
            (Some(mapped), _) => Some(mapped),
            (None, Some(parent)) => {
                let parent = self.fs(*parent);
                let found = fs::symlink_metadata(&parent).context("look at", parent.display())?;
                Some((found.uid(), found.gid()))
            }
            (None, None) => None,
        };
        if let Some((uid, gid)) = owner {
            lchown(&fs, Some(uid), Some(gid)).context("change the owner of", fs.display())?;
        }
        File::open(&fs).and_then(|fs| fs.sync_all()).context("sync", fs.display())
    }
}

impl Driver for Overlay {
    fn make(&self, new: &Stack) -> Result<()> {
        let at = self.folders.new_path(new.id);
        folders::make(&at, 0o700)?;
        let made = self.fill(new).and_then(|()| self.folders.place(new.id));
        if made.is_err() {
            folders::delete(&at)?;
        }
        made
    }

    fn mounts(&self, of: &Stack) -> Result<Vec<Mount>> {
        let mut options = self.mapping(of);
        // An overlay needs two folders; of one, the folder itself is as good.
        match (of.kind, of.parents.as_slice()) {
            (Kind::View, []) => return self.bind(of.id, options, "ro"),
            (_, []) => return self.bind(of.id, options, "rw"),
            (Kind::View, [parent]) => return self.bind(*parent, options, "ro"),
            _ => {}
        }
        if of.kind == Kind::Active {
            let work = self.folders.path(of.id).join("work");
            options.push(format!("workdir={}", text(&work)?));
            options.push(format!("upperdir={}", text(&self.fs(of.id))?));
        }
        let mut lower = String::from("lowerdir=");
        for (i, parent) in of.parents.iter().enumerate() {
            if i > 0 {
                lower.push(':');
            }
            lower.push_str(text(&self.fs(*parent))?);
        }
        options.push(lower);
        options.extend(self.options.iter().cloned());
        let overlay = String::from("overlay");
        Ok(vec![Mount { kind: overlay.clone(), source: overlay, target: String::new(), options }])
    }

    fn usage(&self, of: &Stack) -> Result<Usage> {
        usage::of(&self.fs(of.id))
    }

    fn can_rebase(&self) -> bool {
        true
    }

    fn area(&self, _kind: Kind) -> &Folders {
        &self.folders
    }

    fn areas(&self) -> Vec<&Folders> {
        vec![&self.folders]
    }

    fn upper(&self, id: u64) -> Option<PathBuf> {
        self.config.upperdir_label.then(|| self.fs(id))
    }

    fn capabilities(&self) -> Vec<&'static str> {
        let mut found = Vec::new();
        if self.maps_ids {
            found.push("remap-ids");
        }
        if !self.config.slow_chown {
            found.push("only-remap-ids");
        }
        // Files that stand for removed ones are devices, which only root of the
        // machine may make.
        if !self.in_user_namespace {
            found.push("rebase");
        }
        found
    }
}

/// Whether an option is there, as a word or with a value.
fn has(options: &[String], key: &str) -> bool {
    options.iter().any(|option| option.split_once('=').map_or(option.as_str(), |(k, _)| k) == key)
}

/// Whether the filesystem tells the types of files in folders. `root` has one.
fn tells_types(root: &Path) -> Result<bool> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut folder = Dir::open(root, flags, Mode::empty())
        .map_err(std::io::Error::from)
        .context("read", root.display())?;
    for entry in folder.iter() {
        let entry = entry.map_err(std::io::Error::from).context("read", root.display())?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            return Ok(entry.file_type().is_some());
        }
    }
    Ok(true)
}

/// Whether ids of users are mapped (user_namespaces(7)).
fn in_user_namespace() -> Result<bool> {
    let path = "/proc/self/uid_map";
    let text = fs::read_to_string(path).context("read", path)?;
    Ok(text.split_whitespace().ne(["0", "0", "4294967295"]))
}

/// Whether extended attributes of users are as good as trusted ones.
fn can_user_xattr(root: &Path) -> Result<bool> {
    let found = statfs::statfs(root).map_err(std::io::Error::from);
    let on_tmpfs =
        found.context("look at", root.display())?.filesystem_type() == statfs::TMPFS_MAGIC;
    Ok(!on_tmpfs && kernel()? >= USER_XATTR_SINCE)
}

/// Major and minor version of the kernel.
fn kernel() -> Result<(u32, u32)> {
    let names = uname().map_err(std::io::Error::from).context("ask for", "the kernel's version")?;
    let release = names.release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => Ok((major, minor)),
        _ => Err(Error::internal(format!("{release:?} is no version of a kernel"))),
    }
}
