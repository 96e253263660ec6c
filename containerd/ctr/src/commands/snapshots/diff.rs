//! `ctr snapshots diff`

use std::io::{self, Write};

use anyhow::Result;
use clap::Args;
use containerd_client::{Context, Namespace, NewLayer, Snapshots, Views};

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
            let mut views = Views::new(namespace.snapshots(snapshotter));
            let printed = self.print(namespace, snapshots, &mut views).await;
            let removed = views.remove().await;
            printed.and(removed)
        });
        Ok(printed.await?)
    }

    async fn print(
        &self,
        namespace: &Namespace,
        snapshots: &Snapshots,
        views: &mut Views,
    ) -> containerd_client::Result<()> {
        let (left, right) = match &self.second {
            Some(second) => (views.mounts(&self.first).await?, views.mounts(second).await?),
            None => {
                let parent = snapshots.stat(&self.first).await?.parent;
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
