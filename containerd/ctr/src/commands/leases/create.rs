//! `ctr leases create`

use std::time::Duration;

use anyhow::Result;
use clap::Args;
use containerd_client::Lease;

use crate::{cli::Global, labels, output, session, time};

/// Make a lease and print its id.
#[derive(Debug, Args)]
pub(crate) struct Create {
    /// Its id, in place of a random one
    #[arg(long)]
    id: Option<String>,
    /// When it ends by itself; 0 is never
    #[arg(short = 'x', long, value_parser = time::parse_duration, default_value = "24h", value_name = "DURATION")]
    expires: Duration,
    /// Labels
    #[arg(value_name = "KEY=VALUE")]
    labels: Vec<String>,
}

impl Create {
    pub(crate) async fn run(self, global: &Global) -> Result<()> {
        let leases = session::namespace(global).await?.leases();
        let mut labels = labels::parse(&self.labels);
        if !self.expires.is_zero() {
            labels.extend([Lease::expires(self.expires)]);
        }
        let id = self.id.unwrap_or_else(Lease::random_id);
        Ok(output::line(leases.create(&id, labels).await?.id)?)
    }
}
