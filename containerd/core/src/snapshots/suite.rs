//! What every snapshotter must do, as tests. [`crate::snapshot_suite!`] makes
//! them for one.
//!
//! Mounts are real, so this needs root.

// All of it is test code, also where another crate uses it.
#![allow(clippy::unwrap_used, missing_docs)]

mod errors;
mod files;
mod layers;
mod records;

use std::{any::Any, collections::BTreeMap, fs, os::fd::AsRawFd, path::Path, sync::Arc};

pub use errors::*;
pub use files::*;
pub use layers::*;
pub use records::*;
use shim_protocol::{Error, ErrorKind, Result};

use super::{Info, Labels, Snapshotter};
use crate::Mount;

/// A snapshotter with nothing in it.
pub struct Rig {
    pub snapshotter: Arc<dyn Snapshotter>,
    /// Whether an active snapshot can get its parent when it is committed.
    pub rebases: bool,
    /// What must live as long.
    pub keep: Box<dyn Any + Send + Sync>,
}

/// Makes a test of each check. `$make` is an async function that answers an
/// optional [`Rig`]; none where this machine has not what it takes.
#[macro_export]
macro_rules! snapshot_suite {
    ($name:ident, $make:path) => {
        mod $name {
            $crate::snapshot_suite!(@ $make:
                // What is recorded.
                a_snapshot_lives, keys_are_used_again, labels_are_changed, listings_are_filtered,
                // What fails.
                wrong_kinds_and_orders_are_refused, taken_names_are_refused,
                what_is_missing_is_not_found, parents_stay,
                // What is in it.
                layers_build_upon_each_other, removed_files_stay_removed,
                folders_are_replaced, owners_and_modes_are_kept, files_move_and_have_two_names,
                views_are_read_only, the_root_is_for_all, usage_is_measured,
                cleanup_takes_only_what_is_left,
                // Many of them.
                a_stack_of_127_is_mounted, a_parent_may_come_with_the_commit,
                several_at_once_do_not_meet,
            );
        }
    };
    (@ $make:path: $($check:ident),+ $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $check() {
                match $make().await {
                    Some(rig) => $crate::snapshots::suite::$check(&rig).await,
                    None => eprintln!("skipped: this machine has not what it takes"),
                }
            }
        )+
    };
}

impl Rig {
    /// A committed snapshot with what `fill` puts into it.
    async fn layer(&self, name: &str, parent: &str, fill: impl FnOnce(&Path) + Send) {
        let key = format!("{name} in the making");
        let mounts = self.snapshotter.prepare(&key, parent, Labels::new()).await.unwrap();
        mounted(&mounts, fill);
        self.snapshotter.commit(name, &key, "", Labels::new()).await.unwrap();
    }

    /// Looks at a committed snapshot.
    async fn look<T: Send>(&self, name: &str, look: impl FnOnce(&Path) -> T + Send) -> T {
        let key = format!("{name} looked at");
        let mounts = self.snapshotter.view(&key, name, Labels::new()).await.unwrap();
        let seen = mounted(&mounts, look);
        self.snapshotter.remove(&key).await.unwrap();
        seen
    }

    async fn stat(&self, key: &str) -> Info {
        self.snapshotter.stat(key).await.unwrap()
    }

    /// Names of the snapshots that a filter matches.
    async fn names(&self, filters: &[&str]) -> Vec<String> {
        let filters: Vec<String> = filters.iter().map(|text| (*text).to_owned()).collect();
        let found = self.snapshotter.list(&filters).await.unwrap();
        let mut names: Vec<String> = found.into_iter().map(|info| info.name).collect();
        names.sort_unstable();
        names
    }
}

/// Does `work` where only it sees what is mounted.
fn mounted<T: Send>(mounts: &[Mount], work: impl FnOnce(&Path) -> T + Send) -> T {
    let mounts: Vec<_> = mounts
        .iter()
        .map(|mount| containerd_mounts::Mount {
            kind: mount.kind.clone(),
            source: mount.source.clone(),
            target: mount.target.clone(),
            options: mount.options.clone(),
        })
        .collect();
    containerd_mounts::with_mounted(&mounts, |folder| {
        Ok(work(Path::new(&format!("/proc/self/fd/{}", folder.as_raw_fd()))))
    })
    .unwrap()
}

/// What is in a folder, by path: mode, owner, and text of a file.
fn tree(root: &Path) -> BTreeMap<String, (u32, u32, u32, String)> {
    use std::os::unix::fs::MetadataExt;
    let mut found = BTreeMap::new();
    let mut folders = vec![String::new()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root.join(&folder)).unwrap() {
            let entry = entry.unwrap();
            let path = format!("{folder}{}", entry.file_name().to_string_lossy());
            let metadata = entry.metadata().unwrap();
            let text = match metadata.is_file() {
                true => fs::read_to_string(entry.path()).unwrap(),
                false => String::new(),
            };
            if metadata.is_dir() {
                folders.push(format!("{path}/"));
            }
            found.insert(path, (metadata.mode(), metadata.uid(), metadata.gid(), text));
        }
    }
    found
}

fn kind<T>(outcome: Result<T>) -> Option<ErrorKind> {
    outcome.err().as_ref().map(Error::kind)
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}
