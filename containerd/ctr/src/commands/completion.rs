//! `ctr completion`

use anyhow::Result;
use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::cli::Cli;

/// Print a script that completes commands in a shell:
/// `source <(ctr completion bash)`.
#[derive(Debug, Args)]
pub(crate) struct Completion {
    /// Shell
    shell: Shell,
}

impl Completion {
    pub(crate) fn run(self) -> Result<()> {
        clap_complete::generate(self.shell, &mut Cli::command(), "ctr", &mut std::io::stdout());
        Ok(())
    }
}
