//! Who works on what, where another process keeps the snapshots.
//!
//! What it does and what we record cannot change together, so whoever does both
//! claims what that is about, and waits for whoever has claimed it before:
//! 1. keys, in the order of the alphabet, all of them before anything else, and
//!    until all is done: what is made or removed, the target of what is made,
//!    and the new name and parent of what is committed. Only records that the
//!    collector removes go without that;
//! 2. then one name of the snapshotter at a time, to ask it for a change of the
//!    snapshot: no name is recorded or removed by two at once, nor removed on
//!    the word of a record that was read before.
//!
//! Nobody who has a name waits for a key, and nobody waits for a name who has
//! one, so nobody waits for ever. Whoever sweeps waits for none at all: what is
//! claimed is left to the next time.
//!
//! Keys are claimed for all namespaces together, as a snapshot that one of them
//! has can be the target of another.

use super::Snapshots;
use crate::claims::Claim;

/// What can be claimed, each of one snapshotter.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Claimed {
    /// What namespaces call a snapshot.
    Key { snapshotter: String, key: String },
    /// What the snapshotter calls one.
    Name { snapshotter: String, name: String },
}

impl Claimed {
    fn key(snapshotter: &str, key: &str) -> Self {
        Self::Key { snapshotter: snapshotter.to_owned(), key: key.to_owned() }
    }

    fn name(snapshotter: &str, name: &str) -> Self {
        Self::Name { snapshotter: snapshotter.to_owned(), name: name.to_owned() }
    }
}

impl Snapshots {
    /// Claims keys; empty ones are none.
    pub(super) async fn claim_keys(
        &self,
        snapshotter: &str,
        mut keys: Vec<&str>,
    ) -> Vec<Claim<Claimed>> {
        keys.retain(|key| !key.is_empty());
        keys.sort_unstable();
        keys.dedup();
        let mut claims = Vec::new();
        for key in keys {
            claims.push(self.claims().take(&Claimed::key(snapshotter, key)).await);
        }
        claims
    }

    /// Claims a name of the snapshotter.
    pub(super) async fn claim_name(&self, snapshotter: &str, name: &str) -> Claim<Claimed> {
        self.claims().take(&Claimed::name(snapshotter, name)).await
    }

    /// As [`Self::claim_keys`] and [`Self::claim_name`], but none when somebody
    /// has one of them.
    pub(super) fn try_claim(
        &self,
        snapshotter: &str,
        key: Option<&str>,
        name: &str,
    ) -> Option<Vec<Claim<Claimed>>> {
        let key = key.map(|key| Claimed::key(snapshotter, key));
        let all = key.into_iter().chain([Claimed::name(snapshotter, name)]);
        all.map(|claimed| self.claims().try_take(&claimed)).collect()
    }
}
