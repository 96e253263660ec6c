//! `ctr content delete`

use anyhow::{Result, bail};
use clap::Args;

use crate::{cli::Global, output, session};

/// Delete content and print its digests. What is not there is passed over.
#[derive(Debug, Args)]
pub(crate) struct Delete {
    /// Digests
    #[arg(required = true, value_name = "DIGEST")]
    digests: Vec<String>,
}

impl Delete {
    pub(crate) async fn run(self, global: &Global) -> Result<()> {
        let content = session::namespace(global).await?.content();
        let mut failed = 0;
        for digest in &self.digests {
            match content.delete(digest).await {
                Ok(()) => output::line(digest)?,
                Err(e) if e.is_not_found() => {}
                Err(e) => {
                    failed += 1;
                    eprintln!("ctr: {}", e.report());
                }
            }
        }
        match failed {
            0 => Ok(()),
            failed => bail!("{failed} of {} were not deleted", self.digests.len()),
        }
    }
}
