//! `ctr containers checkpoint`

use anyhow::{Result, bail};
use clap::Args;

/// Save a container as an image (not supported yet).
#[derive(Debug, Args)]
pub(crate) struct Checkpoint {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    _args: Vec<String>,
}

impl Checkpoint {
    pub(crate) fn run(self) -> Result<()> {
        bail!(
            "saving a container as an image is not supported yet; \
             `ctr tasks checkpoint --image-path` saves its task to a folder"
        )
    }
}
