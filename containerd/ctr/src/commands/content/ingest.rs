//! `ctr content ingest`

use anyhow::{Context, Result, bail};
use clap::Args;
use tokio::io::{AsyncReadExt, stdin};

use crate::{cli::Global, session};

/// How much goes into one message.
pub(super) const PIECE_BYTES: usize = 1 << 20;

/// Store standard input. With the same key it can be gone on with, if it is cut
/// short.
#[derive(Debug, Args)]
pub(crate) struct Ingest {
    /// How many bytes it must be
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    expected_size: u64,
    /// The digest that it must have
    #[arg(long, value_name = "DIGEST")]
    expected_digest: Option<String>,
    /// What it is called while it is written
    key: String,
}

impl Ingest {
    pub(crate) async fn run(self, global: &Global) -> Result<()> {
        let content = session::namespace(global).await?.content();
        let expected = self.expected_digest.as_deref();
        let mut writer = match content.write(&self.key, self.expected_size, expected).await {
            // That is what is wanted.
            Err(e) if e.is_already_exists() => return Ok(()),
            writer => writer?,
        };
        let mut input = stdin();
        let mut skip = writer.offset();
        loop {
            let mut piece = Vec::with_capacity(PIECE_BYTES);
            let limit = PIECE_BYTES as u64;
            (&mut input).take(limit).read_to_end(&mut piece).await.context("read input")?;
            if piece.is_empty() {
                break;
            }
            // What has come before need not be sent again.
            let known = usize::try_from(skip).unwrap_or(usize::MAX).min(piece.len());
            skip -= known as u64;
            writer.write(piece.split_off(known)).await?;
        }
        if skip > 0 {
            bail!("more than that was written to {:?} before", self.key);
        }
        match writer.commit(self.expected_size, expected, Default::default()).await {
            Err(e) if !e.is_already_exists() => Err(e.into()),
            _ => Ok(()),
        }
    }
}
