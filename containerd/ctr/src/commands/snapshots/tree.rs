//! `ctr snapshots tree`

use std::collections::BTreeMap;

use anyhow::Result;
use clap::Args;
use containerd_client::{SnapshotInfo, Snapshots};

use crate::output;

/// Print which snapshots build upon which.
#[derive(Debug, Args)]
pub(crate) struct Tree {}

impl Tree {
    pub(super) async fn run(self, snapshots: &Snapshots) -> Result<()> {
        Ok(output::text(render(&super::all(snapshots).await?))?)
    }
}

/// A line for each snapshot, below its parent.
fn render(all: &[SnapshotInfo]) -> String {
    let mut children: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for info in all {
        children.entry(&info.parent).or_default().push(&info.name);
    }
    let mut text = String::new();
    // With the depth of each; the next one is last.
    let mut pending: Vec<(&str, usize)> = Vec::new();
    let push = |pending: &mut Vec<_>, parent: &str, depth: usize| {
        let found = children.get(parent).into_iter().flatten();
        pending.extend(found.rev().map(|name| (*name, depth)));
    };
    push(&mut pending, "", 0);
    while let Some((name, depth)) = pending.pop() {
        let branch = if depth > 0 { "\\_" } else { "" };
        text.push_str(&format!("{}{branch} {name}\n", "  ".repeat(depth)));
        push(&mut pending, name, depth + 1);
    }
    text
}

#[cfg(test)]
mod tests {
    use containerd_client::SnapshotKind;

    use super::*;

    #[test]
    fn children_are_below_their_parents() {
        let one = |name: &str, parent: &str| SnapshotInfo {
            kind: SnapshotKind::Committed,
            name: name.into(),
            parent: parent.into(),
            labels: BTreeMap::new(),
            created_at: None,
            updated_at: None,
        };
        let all = [one("c", "b"), one("a", ""), one("b", "a"), one("d", "a"), one("e", "")];
        assert_eq!(render(&all), " a\n  \\_ b\n    \\_ c\n  \\_ d\n e\n");
    }
}
