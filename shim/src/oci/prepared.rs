//! What can be made of a container's configuration before the container is
//! asked for: by a helper that waits for its question.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use shim_protocol::{Context, ErrorKind, Result};

use super::{
    seccomp::Filter,
    spec::{self, Config},
};
use crate::cgroup;

/// A configuration that was read, checked, and is ready for use.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(super) config: Config,
    pub(super) filter: Option<Filter>,
    bundle: PathBuf,
    version: Version,
}

/// What changes with a file: device, inode, size, and time of the last change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Version(u64, u64, u64, (i64, i64));

impl Version {
    fn of(bundle: &Path) -> Result<Self> {
        let path = bundle.join("config.json");
        let found = fs::metadata(&path);
        let found = found.context_as(ErrorKind::InvalidArgument, "read", path.display())?;
        let changed = (found.mtime(), found.mtime_nsec());
        Ok(Self(found.dev(), found.ino(), found.size(), changed))
    }
}

impl Prepared {
    /// Reads the configuration of a bundle.
    ///
    /// # Errors
    /// `InvalidArgument` for what is no configuration, `Unimplemented` for what
    /// it asks for and cannot have.
    pub(super) fn load(bundle: &Path) -> Result<Self> {
        let version = Version::of(bundle)?;
        let config = spec::load(bundle)?;
        let filter = config.process.seccomp.as_ref().map(Filter::compile).transpose()?;
        Ok(Self { config, filter, bundle: bundle.to_owned(), version })
    }

    /// The same, if there is the time for it: what is wrong with the
    /// configuration is said to whoever asks for the container. In a process
    /// that ends before anybody mounts another hierarchy of control groups.
    pub(crate) fn early(bundle: &Path) -> Option<Self> {
        cgroup::keep_hierarchies();
        Self::load(bundle).ok()
    }

    /// Is it still what a bundle says?
    pub(super) fn is_of(&self, bundle: &Path) -> bool {
        let root = self.config.spec.root().as_ref();
        let rootfs = root.and_then(|root| fs::canonicalize(bundle.join(root.path())).ok());
        self.bundle == bundle
            && Version::of(bundle).is_ok_and(|version| version == self.version)
            && rootfs.is_some_and(|rootfs| rootfs == self.config.rootfs)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn write(bundle: &Path, root: &str) {
        let config = json!({
            "ociVersion": "1.0.2",
            "root": {"path": root},
            "process": {"args": ["true"], "cwd": "/", "user": {"uid": 0, "gid": 0}},
            "linux": {"namespaces": [{"type": "mount"}]},
        });
        // As the daemon does it.
        shim_protocol::note::write(&bundle.join("config.json"), config.to_string().as_bytes())
            .unwrap();
    }

    #[test]
    fn it_counts_until_the_bundle_says_something_else() {
        let folder = tempfile::tempdir().unwrap();
        let bundle = folder.path();
        assert!(Prepared::load(bundle).is_err());
        for root in ["rootfs", "other"] {
            fs::create_dir(bundle.join(root)).unwrap();
        }
        write(bundle, "rootfs");
        let prepared = Prepared::load(bundle).unwrap();
        assert!(prepared.is_of(bundle));
        assert!(!prepared.is_of(&bundle.join("rootfs/..")));
        write(bundle, "other");
        assert!(!prepared.is_of(bundle));
        let prepared = Prepared::load(bundle).unwrap();
        fs::remove_dir(bundle.join("other")).unwrap();
        std::os::unix::fs::symlink("rootfs", bundle.join("other")).unwrap();
        assert!(!prepared.is_of(bundle));
    }
}
