//! `ctr`: the command line of a containerd daemon, ours or the Go original.
//!
//! It has the words, flags and tables of containerd's own `ctr`, so that what
//! people know and their scripts go on working. Each command is a file in
//! `commands`; all of them go through the client library, but for `ctr shim`,
//! which talks to a shim.

mod attach;
mod cli;
mod commands;
mod console;
mod json;
mod labels;
mod listing;
mod output;
mod platforms;
mod progress;
mod registry;
mod session;
mod signal;
mod snapshotter;
mod spec;
mod table;
mod time;
mod units;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use tracing_subscriber::EnvFilter;

use cli::Cli;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() => {
            let text = error.render().to_string();
            eprint!("ctr: {}", text.strip_prefix("error: ").unwrap_or(&text));
            return ExitCode::FAILURE;
        }
        // Help and version are errors to the parser, and answers to people.
        Err(answer) => {
            let _ = answer.print();
            return ExitCode::SUCCESS;
        }
    };
    let level = if cli.global.debug { "debug" } else { "warn" };
    let filter = EnvFilter::new(format!("ctr={level},containerd_client={level}"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .without_time()
        .with_target(false)
        .init();

    match run(cli) {
        Ok(code) => code,
        Err(error) if output::is_reader_gone(&error) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("ctr: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let Some(command) = cli.command else {
        Cli::command().print_help()?;
        return Ok(ExitCode::SUCCESS);
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(async {
        let work = command.run(&cli.global);
        match cli.global.timeout {
            None => work.await,
            Some(limit) => tokio::time::timeout(limit, work)
                .await
                .map_err(|_| anyhow::anyhow!("not done within {limit:?}"))?,
        }
    });
    // A thread may be reading standard input, and will not end before it does.
    runtime.shutdown_background();
    result
}
