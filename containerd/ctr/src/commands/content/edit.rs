//! `ctr content edit`

use std::{io::Write, process::Command};

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::{cli::Global, output, session};

/// Change content in an editor and print the digest of what came of it.
#[derive(Debug, Args)]
pub(crate) struct Edit {
    /// Program that changes a file
    #[arg(long, env = "EDITOR")]
    editor: String,
    /// Digest of the content
    digest: String,
}

impl Edit {
    pub(crate) async fn run(self, global: &Global) -> Result<()> {
        let content = session::namespace(global).await?.content();
        let mut file = tempfile::Builder::new().prefix("ctr-edit-").tempfile()?;
        let mut reader = content.read(&self.digest, 0).await?;
        while let Some(piece) = reader.next().await? {
            file.write_all(&piece)?;
        }
        // A shell, as the editor may come with arguments.
        let status = Command::new("sh")
            .args(["-c", &format!("{} \"$1\"", self.editor), "sh"])
            .arg(file.path())
            .status()
            .context("start the editor")?;
        ensure!(status.success(), "the editor has failed: {status}");
        // The editor may have put another file in its place.
        let text = std::fs::read(file.path()).context("read what was edited")?;
        let reference = format!("edit-{}", self.digest);
        let mut writer = content.write(&reference, 0, None).await?;
        if writer.offset() > 0 {
            // What an earlier edit left is none of ours.
            drop(writer);
            content.abort(&reference).await?;
            writer = content.write(&reference, 0, None).await?;
        }
        for piece in text.chunks(super::ingest::PIECE_BYTES) {
            writer.write(piece.to_vec()).await?;
        }
        Ok(output::line(writer.commit(0, None, Default::default()).await?)?)
    }
}
