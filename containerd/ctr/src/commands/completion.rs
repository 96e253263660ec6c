//! `ctr completion`

use anyhow::Result;
use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::{cli::Cli, output};

/// Print a script that completes commands in a shell:
/// `source <(ctr completion bash)`.
#[derive(Debug, Args)]
pub(crate) struct Completion {
    /// Shell
    shell: Shell,
}

impl Completion {
    pub(crate) fn run(self) -> Result<()> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "ctr", &mut script);
        Ok(output::text(String::from_utf8_lossy(&script))?)
    }
}
