//! `ctr content fetch-object`

use std::io::{self, Write};

use anyhow::Result;
use clap::Args;
use containerd_client::{Descriptor, Reference, Registry};

use crate::registry::RegistryArgs;

/// Print what a reference stands for in a registry: an index or manifest.
#[derive(Debug, Args)]
pub(crate) struct FetchObject {
    #[command(flatten)]
    registry: RegistryArgs,
    /// The reference
    reference: String,
}

impl FetchObject {
    pub(crate) async fn run(self) -> Result<()> {
        let registry = self.registry.options()?.registry();
        let reference = Reference::parse(&self.reference)?;
        let descriptor = registry.resolve(&reference).await?;
        print(&registry, &reference, &descriptor).await
    }
}

/// Prints content of a repository.
pub(super) async fn print(
    registry: &Registry,
    reference: &Reference,
    descriptor: &Descriptor,
) -> Result<()> {
    let mut body = registry.fetch(reference, descriptor, 0).await?;
    let mut stdout = io::stdout();
    while let Some(piece) = body.next().await? {
        stdout.write_all(&piece)?;
    }
    Ok(stdout.flush()?)
}
