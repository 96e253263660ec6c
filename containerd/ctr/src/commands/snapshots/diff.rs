//! `ctr snapshots diff`

use std::{
    io::{self, Write},
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::Result;
use clap::Args;
use containerd_client::{Context, Namespace, NewLayer, RootMount, SnapshotKind, Snapshots};

use super::{ROOT_LABEL, now};
use crate::labels;

/// Print what two snapshots differ by, as a layer. Without a second one, it is
/// what the first one has beyond its parent.
#[derive(Debug, Args)]
pub(crate) struct Diff {
    /// What the layer shall be
    #[arg(
        long,
        value_name = "TYPE",
        default_value = "application/vnd.oci.image.layer.v1.tar+gzip"
    )]
    media_type: String,
    /// What the layer is called while it is written
    #[arg(long = "ref", value_name = "NAME", default_value = "", hide_default_value = true)]
    reference: String,
    /// Keep the layer as content
    #[arg(long)]
    keep: bool,
    /// Labels of the layer
    #[arg(long, value_name = "KEY=VALUE")]
    label: Vec<String>,
    /// A snapshot
    first: String,
    /// The one that has more
    second: Option<String>,
}

impl Diff {
    pub(super) async fn run(self, namespace: &Namespace, snapshots: &Snapshots) -> Result<()> {
        let snapshotter = snapshots.snapshotter();
        let printed = namespace.under_lease(async |namespace| {
            let mut views = Views { snapshots: namespace.snapshots(snapshotter), keys: Vec::new() };
            let printed = self.print(namespace, &mut views).await;
            let removed = views.remove().await;
            printed.and(removed)
        });
        Ok(printed.await?)
    }

    async fn print(
        &self,
        namespace: &Namespace,
        views: &mut Views,
    ) -> containerd_client::Result<()> {
        let (left, right) = match &self.second {
            Some(second) => (views.mounts(&self.first).await?, views.mounts(second).await?),
            None => {
                let parent = views.snapshots.stat(&self.first).await?.parent;
                (views.view(&parent).await?, views.mounts(&self.first).await?)
            }
        };
        let mut labels = labels::parse(&self.label);
        if self.keep {
            labels.insert(ROOT_LABEL.into(), now());
        }
        let layer = NewLayer {
            media_type: self.media_type.clone(),
            reference: self.reference.clone(),
            labels,
            latest: None,
        };
        let layer = namespace.diff().diff(left, right, layer).await?;
        let mut reader = namespace.content().read(&layer.digest, 0).await?;
        let mut stdout = io::stdout().lock();
        while let Some(piece) = reader.next().await? {
            stdout.write_all(&piece).context("write", "the layer")?;
        }
        stdout.flush().context("write", "the layer")
    }
}

/// Views that are made to compare snapshots.
struct Views {
    snapshots: Snapshots,
    keys: Vec<String>,
}

impl Views {
    /// How to mount a snapshot of whatever kind.
    async fn mounts(&mut self, name: &str) -> containerd_client::Result<Vec<RootMount>> {
        match self.snapshots.stat(name).await?.kind {
            SnapshotKind::Committed => self.view(name).await,
            _ => self.snapshots.mounts(name).await,
        }
    }

    async fn view(&mut self, parent: &str) -> containerd_client::Result<Vec<RootMount>> {
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let key = format!("{parent}-view-{}-{}", time.as_nanos(), std::process::id());
        let mounts = self.snapshots.view(&key, parent, Default::default()).await?;
        self.keys.push(key);
        Ok(mounts)
    }

    async fn remove(self) -> containerd_client::Result<()> {
        let mut outcome = Ok(());
        for key in &self.keys {
            outcome = outcome.and(self.snapshots.remove(key).await);
        }
        outcome
    }
}
