//! `ctr containers restore`

use anyhow::{Result, bail};
use clap::Args;

/// Make a container from a saved one (not supported yet).
#[derive(Debug, Args)]
pub(crate) struct Restore {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    _args: Vec<String>,
}

impl Restore {
    pub(crate) fn run(self) -> Result<()> {
        bail!("making a container from a saved one is not supported yet")
    }
}
