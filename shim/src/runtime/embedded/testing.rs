//! The embedded runtime in a test, whose own program makes no helper.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use super::{EmbeddedRuntime, Helpers};
use crate::reaper::Reaper;

/// A runtime that keeps its state in the bundle.
pub(crate) fn runtime(bundle: &Path, reaper: &Arc<Reaper>) -> EmbeddedRuntime {
    let (reaper, program) = (Arc::clone(reaper), Some(program()));
    let helpers = Helpers { reaper, first: Mutex::default(), program };
    EmbeddedRuntime::new(bundle.join("state"), bundle, Arc::new(helpers))
}

/// A program that is called as runc is, and is this runtime.
pub(crate) fn command_line(dir: &Path) -> PathBuf {
    let script = dir.join("embedded-runc");
    let text = format!("#!/bin/sh\nexec {} oci \"$@\"\n", program().display());
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    script
}

/// Beside the folder of the test programs, and built with them.
fn program() -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let program = tests.ancestors().nth(2).unwrap().join("containerd-shim");
    assert!(program.exists(), "{} is not built", program.display());
    program
}
