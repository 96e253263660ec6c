//! `ctr content get`

use std::io::{self, Write};

use anyhow::Result;
use clap::Args;

use crate::{cli::Global, session};

/// Print content.
#[derive(Debug, Args)]
pub(crate) struct Get {
    /// Its digest
    digest: String,
}

impl Get {
    pub(crate) async fn run(self, global: &Global) -> Result<()> {
        let content = session::namespace(global).await?.content();
        let mut reader = content.read(&self.digest, 0).await?;
        let mut stdout = io::stdout().lock();
        while let Some(piece) = reader.next().await? {
            stdout.write_all(&piece)?;
        }
        Ok(stdout.flush()?)
    }
}
