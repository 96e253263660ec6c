//! The command line: one module per subcommand.

pub mod args;
pub mod delete;
pub mod info;
pub mod oci;
pub mod serve;
pub mod start;

use std::{env, ffi::OsString, process::ExitCode};

use args::{Action, Args};
use shim_protocol::{Context, Result};

use crate::{bundle::Bundle, runtime::embedded::helper};

/// The name in front of messages and in the answer to `-info`.
pub const NAME: &str = "io.containerd.runc.v2";

/// Runs the shim with the arguments of this process.
pub fn main() -> ExitCode {
    match run(env::args_os().skip(1)) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("{NAME}: {}", error.report());
            ExitCode::FAILURE
        }
    }
}

fn run(args: impl Iterator<Item = OsString>) -> Result<u8> {
    let mut args = args.peekable();
    if args.next_if(|word| word == helper::COMMAND).is_some() {
        let (parent, log_level) = (args.next(), args.next());
        let text = |word: &'_ Option<OsString>| word.as_ref()?.to_str().map(str::to_owned);
        return helper::main(text(&parent).as_deref(), text(&log_level).as_deref()).map(|()| 0);
    }
    if args.next_if(|word| word == oci::COMMAND).is_some() {
        return oci::run(&mut args);
    }
    shim(Args::parse(args)?).map(|()| 0)
}

fn shim(args: Args) -> Result<()> {
    match args.action {
        Action::Version => {
            println!("{NAME}:\n  Version:  {}", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
        Action::Info => info::run(),
        Action::Start => start::run(args),
        Action::Delete => delete::run(args),
        Action::Serve => serve::foreground(args),
    }
}

/// The bundle named by the arguments, else the working directory; by a path
/// that stays good when that changes.
fn bundle(args: &Args) -> Result<Bundle> {
    let path = match &args.bundle {
        Some(path) => std::path::absolute(path),
        None => env::current_dir(),
    };
    path.map(Bundle::new).context("find", "the bundle")
}
