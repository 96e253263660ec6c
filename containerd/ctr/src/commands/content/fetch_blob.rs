//! `ctr content fetch-blob`

use anyhow::Result;
use clap::Args;
use containerd_client::{Descriptor, Digest, Reference};

use super::fetch_object::print;
use crate::registry::RegistryArgs;

/// Print blobs of a repository by their digests.
#[derive(Debug, Args)]
pub(crate) struct FetchBlob {
    #[command(flatten)]
    registry: RegistryArgs,
    /// What they are, such as the media type of a manifest
    #[arg(long, value_name = "TYPE", default_value = "", hide_default_value = true)]
    media_type: String,
    /// The repository
    reference: String,
    /// Digests
    #[arg(required = true, value_name = "DIGEST")]
    digests: Vec<String>,
}

impl FetchBlob {
    pub(crate) async fn run(self) -> Result<()> {
        let registry = self.registry.options()?.registry();
        let reference = Reference::parse(&self.reference)?;
        for digest in &self.digests {
            let digest = Digest::parse(digest)?;
            let descriptor = Descriptor::new(&self.media_type, digest, 0);
            print(&registry, &reference, &descriptor).await?;
        }
        Ok(())
    }
}
