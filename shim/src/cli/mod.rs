//! The command line: one module per subcommand.

pub mod args;

use std::{ffi::OsString, process::ExitCode};

use args::{Action, Args};

/// Runs the shim with the arguments of this process.
pub fn main() -> ExitCode {
    match run(std::env::args_os().skip(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}: {}", env!("CARGO_PKG_NAME"), error.report());
            ExitCode::FAILURE
        }
    }
}

fn run(args: impl Iterator<Item = OsString>) -> shim_protocol::Result<()> {
    let args = Args::parse(args)?;
    match args.action {
        Action::Version => {
            println!("{}:\n  Version:  {}", env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));
            Ok(())
        }
        Action::Info | Action::Start | Action::Delete | Action::Serve => {
            Err(shim_protocol::Error::unimplemented("this action"))
        }
    }
}
