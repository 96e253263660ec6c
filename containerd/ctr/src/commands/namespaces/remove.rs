//! `ctr namespaces remove`

use std::{fs, io, path::Path};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::{cli::Global, output, session};

/// Where cgroups are, of both versions.
const CGROUPS: &str = "/sys/fs/cgroup";

/// Remove namespaces that are empty, and print the names of those removed.
#[derive(Debug, Args)]
pub(crate) struct Remove {
    /// Remove the cgroup of the namespace too
    #[arg(short, long)]
    cgroup: bool,
    /// Their names
    #[arg(required = true)]
    names: Vec<String>,
}

impl Remove {
    pub(crate) async fn run(self, global: &Global) -> Result<()> {
        let namespaces = session::connect(global).await?.namespaces();
        let mut failures = 0;
        for name in &self.names {
            let removed = async {
                match namespaces.delete(name).await {
                    Err(error) if !error.is_not_found() => return Err(error.into()),
                    _ => {}
                }
                if self.cgroup { remove_cgroups(Path::new(CGROUPS), name) } else { Ok(()) }
            };
            match removed.await {
                Ok(()) => output::line(name)?,
                Err(error) => {
                    eprintln!("ctr: {error:#}");
                    failures += 1;
                }
            }
        }
        if failures > 0 {
            bail!("{failures} of {} namespaces were not removed", self.names.len());
        }
        Ok(())
    }
}

/// Removes the namespace's cgroup of each hierarchy: version 1 has one for each
/// controller, below the root of version 2.
fn remove_cgroups(root: &Path, name: &str) -> Result<()> {
    let hierarchies = fs::read_dir(root).with_context(|| format!("read {}", root.display()))?;
    let hierarchies = hierarchies.filter_map(|entry| Some(entry.ok()?.path()));
    for hierarchy in hierarchies.chain([root.to_owned()]) {
        let cgroup = hierarchy.join(name);
        match fs::remove_dir(&cgroup) {
            Err(e)
                if !matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
            {
                return Err(e).with_context(|| format!("remove {}", cgroup.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cgroup_goes_from_every_hierarchy() {
        let root = tempfile::tempdir().unwrap();
        for path in ["cpu/web", "memory/web", "memory/other", "web"] {
            fs::create_dir_all(root.path().join(path)).unwrap();
        }
        remove_cgroups(root.path(), "web").unwrap();
        assert!(!root.path().join("cpu/web").exists() && !root.path().join("web").exists());
        assert!(root.path().join("memory/other").exists());
    }
}
