//! `ctr content push-object`

use anyhow::Result;
use clap::Args;
use containerd_client::{Descriptor, Digest, Reference, media_type, walk};

use crate::{cli::Global, output, registry::RegistryArgs, session};

/// Send content to a repository.
#[derive(Debug, Args)]
pub(crate) struct PushObject {
    #[command(flatten)]
    registry: RegistryArgs,
    /// The repository; what is a manifest gets its tag
    reference: String,
    /// Digest of the content
    digest: String,
    /// What it is: its media type
    media_type: String,
}

impl PushObject {
    pub(crate) async fn run(self, global: &Global) -> Result<()> {
        let registry = self.registry.options()?.registry();
        let reference = Reference::parse(&self.reference)?;
        let namespace = session::namespace(global).await?;
        let info = namespace.content().info(&self.digest).await?;
        let digest = Digest::parse(&self.digest)?;
        let descriptor = Descriptor::new(&self.media_type, digest, info.size);
        let store = namespace.store();
        let kind = &descriptor.media_type;
        if media_type::is_manifest(kind) || media_type::is_index(kind) {
            let document = walk::read_document(&store, &descriptor).await?;
            registry.put_manifest(&reference, &descriptor, document).await?;
        } else {
            registry.push_blob(&reference, &descriptor, &[], &store, None).await?;
        }
        Ok(output::line(format_args!("Pushed {} {kind}", descriptor.digest))?)
    }
}
