//! The shim under its short name.

use std::process::ExitCode;

fn main() -> ExitCode {
    containerd_shim::cli::main()
}
