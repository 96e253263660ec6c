//! Whether records, snapshotters and disk agree.

use std::collections::{HashMap, HashSet};

use shim_protocol::Result;

use super::{Backend, Findings, Info, Snapshots, record};

/// What was found at boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Snapshots that no namespace has, and that were removed.
    pub removed: usize,
    /// Snapshots that a namespace has, but their snapshotter does not.
    pub lost: usize,
}

/// What is not as it must be with one snapshotter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Check {
    /// Which one.
    pub snapshotter: String,
    /// Snapshots that a namespace has, but the snapshotter does not: namespace
    /// and key.
    pub lost: Vec<(String, String)>,
    /// Snapshots that no namespace has, by the snapshotter's names.
    pub unnamed: Vec<String>,
    /// Snapshots whose parent their namespace does not have, or has under
    /// another name: namespace and key.
    pub orphans: Vec<(String, String)>,
    /// What of a snapshotter of our own is not as it must be on disk.
    pub disk: Findings,
}

impl Check {
    /// Whether all is well.
    pub fn is_clean(&self) -> bool {
        let snapshotter = self.snapshotter.clone();
        *self == Self { snapshotter, ..Self::default() }
    }
}

impl Snapshots {
    /// Removes what a daemon that was killed left in our own snapshotters. To be
    /// called once, before anybody is served.
    ///
    /// # Errors
    /// Those of the disk.
    pub async fn recover(&self) -> Result<Recovered> {
        let mut recovered = Recovered::default();
        for (name, backend) in self.backends() {
            if !matches!(backend, Backend::Local(_)) {
                continue;
            }
            let check = self.check_one(name, backend).await?;
            recovered.removed += check.unnamed.len();
            recovered.lost += check.lost.len();
            for (namespace, key) in check.lost {
                tracing::error!(snapshotter = name, namespace, key, "a snapshot is lost");
            }
            if !check.unnamed.is_empty() {
                self.sweep(name).await?;
            }
        }
        Ok(recovered)
    }

    /// Looks for what is not as it must be, in all snapshotters that can be
    /// asked. Nobody may be using them meanwhile.
    ///
    /// # Errors
    /// Those of the disk, and of the snapshotters.
    pub async fn check(&self) -> Result<Vec<Check>> {
        let mut checks = Vec::new();
        for (name, backend) in self.backends() {
            checks.push(self.check_one(name, backend).await?);
        }
        Ok(checks)
    }

    async fn check_one(&self, name: &str, backend: &Backend) -> Result<Check> {
        let disk = match backend {
            Backend::Local(local) => local.check().await?,
            Backend::Remote(_) => Findings::default(),
        };
        let all = backend.snapshotter().list(&[]).await?;
        let snapshotter = name.to_owned();
        self.db()
            .read(move |db| {
                let mut found = Check { snapshotter, disk, ..Check::default() };
                let mut entries = Vec::new();
                record::each(db, |namespace, entry| {
                    if entry.snapshotter == found.snapshotter {
                        entries.push((namespace.to_owned(), entry));
                    }
                    Ok(())
                })?;
                let infos: HashMap<&str, &Info> =
                    all.iter().map(|info| (info.name.as_str(), info)).collect();
                let names: HashMap<(&str, &str), &str> = entries
                    .iter()
                    .map(|(namespace, entry)| {
                        ((namespace.as_str(), entry.key.as_str()), entry.name.as_str())
                    })
                    .collect();
                let mut named = HashSet::new();
                for (namespace, entry) in &entries {
                    let both = [entry.name.as_str(), entry.becoming.as_str()];
                    named.extend(both);
                    let place = (namespace.clone(), entry.key.clone());
                    let Some(info) = both.iter().find_map(|name| infos.get(name)) else {
                        found.lost.push(place);
                        continue;
                    };
                    let parent = names.get(&(namespace.as_str(), entry.parent.as_str()));
                    let parent = parent.copied().unwrap_or_default();
                    let has_parent = !entry.parent.is_empty();
                    if info.parent != parent || has_parent == parent.is_empty() {
                        found.orphans.push(place);
                    }
                }
                let unnamed = all.iter().filter(|info| !named.contains(info.name.as_str()));
                found.unnamed = unnamed.map(|info| info.name.clone()).collect();
                Ok(found)
            })
            .await
    }
}
