//! `ctr content prune`

use std::{collections::BTreeMap, time::Duration};

use anyhow::Result;
use clap::{Args, Subcommand};
use containerd_client::Lease;

use crate::{cli::Global, session};

/// Labels with this prefix keep content that another one refers to.
const REFERENCE: &str = "containerd.io/gc.ref.content.";

#[derive(Debug, Subcommand)]
pub(crate) enum Prune {
    /// Let go of layers: they are collected unless something else needs them
    References(References),
}

/// Let go of layers: labels are cleared by which manifests keep theirs.
#[derive(Debug, Args)]
pub(crate) struct References {
    /// Do not wait until they are collected
    #[arg(long = "async")]
    asynchronous: bool,
    /// Only print what would be cleared
    #[arg(long)]
    dry: bool,
}

impl Prune {
    pub(crate) async fn run(self, global: &Global) -> Result<()> {
        let Self::References(options) = self;
        let namespace = session::namespace(global).await?;
        for info in namespace.content().list(&[]).await? {
            let keys = info.labels.into_keys().filter(|key| keeps_a_layer(key));
            let cleared: BTreeMap<String, String> = keys.map(|key| (key, String::new())).collect();
            if options.dry {
                for key in cleared.keys() {
                    eprintln!("{} {key}", info.digest);
                }
            } else if !cleared.is_empty() {
                namespace.content().set_labels(&info.digest, cleared).await?;
            }
        }
        // The end of a lease is what makes the daemon collect.
        let (leases, id) = (namespace.leases(), Lease::random_id());
        leases.create(&id, [Lease::expires(Duration::from_secs(3600))].into()).await?;
        Ok(leases.delete(&id, !options.asynchronous).await?)
    }
}

/// Manifests number their layers: `l.0` and so on; long ago 1 and so on, with 0
/// for the configuration.
fn keeps_a_layer(key: &str) -> bool {
    let Some(rest) = key.strip_prefix(REFERENCE) else { return false };
    rest.starts_with("l.") || (rest != "0" && rest.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_layers_are_let_go() {
        for (rest, expected) in [
            ("l.0", true),
            ("12", true),
            ("0", false),
            ("config", false),
            ("m.0", false),
            ("x1", false),
        ] {
            assert_eq!(keeps_a_layer(&format!("{REFERENCE}{rest}")), expected, "{rest}");
        }
        assert!(!keeps_a_layer("containerd.io/uncompressed"));
    }
}
