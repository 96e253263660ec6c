//! The embedded runtime in a test, whose own program makes no helper.

use std::{
    path::Path,
    sync::{Arc, Mutex},
};

use super::{EmbeddedRuntime, Helpers};
use crate::reaper::Reaper;

/// A runtime that keeps its state in the bundle.
pub(crate) fn runtime(bundle: &Path, reaper: &Arc<Reaper>) -> EmbeddedRuntime {
    let tests = std::env::current_exe().unwrap();
    // Beside the folder of the test programs, and built with them.
    let program = tests.ancestors().nth(2).unwrap().join("containerd-shim");
    assert!(program.exists(), "{} is not built", program.display());
    let helpers =
        Helpers { reaper: Arc::clone(reaper), first: Mutex::default(), program: Some(program) };
    EmbeddedRuntime::new(bundle.join("state"), bundle, Arc::new(helpers))
}
