//! The shim under the name that `io.containerd.runc.v2` stands for.

use std::process::ExitCode;

fn main() -> ExitCode {
    containerd_shim::cli::main()
}
