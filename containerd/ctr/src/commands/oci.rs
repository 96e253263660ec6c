//! `ctr oci`

use anyhow::Result;
use clap::Subcommand;
use containerd_client::{SpecBuilder, spec};

use crate::{cli::Global, json};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Print the configuration that a container gets by default
    Spec,
}

impl Command {
    pub(crate) fn run(self, global: &Global) -> Result<()> {
        let Self::Spec = self;
        // No container, so its cgroup is the namespace's.
        let cgroup = format!("/{}", global.namespace);
        let spec = SpecBuilder::new(&global.namespace, "").cgroup(cgroup).build()?;
        json::print(&spec::to_json(&spec)?)
    }
}
