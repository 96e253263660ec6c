//! The places at which our daemon can be told to die, as its sources name them.

use std::{collections::BTreeSet, fs, path::Path};

use anyhow::{Context, Result, ensure};

/// The environment variable by which a daemon is told.
pub const VARIABLE: &str = "CONTAINERD_FAULT";

const CALL: &str = "fault::point(";

/// Every place in the sources, so that none can be forgotten.
///
/// # Errors
/// The sources are not there, or a place has no name that can be read here.
pub fn places() -> Result<Vec<String>> {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../containerd");
    let mut found = BTreeSet::new();
    let mut folders = vec![sources];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|kind| kind == "rs") && !is_of_tests(&path) {
                read(&path, &mut found)?;
            }
        }
    }
    ensure!(!found.is_empty(), "no place at all");
    Ok(found.into_iter().collect())
}

fn read(path: &Path, found: &mut BTreeSet<String>) -> Result<()> {
    let text = fs::read_to_string(path)?;
    // Comments show how it is done.
    let lines = text.lines().map(str::trim_start).filter(|line| !line.starts_with("//"));
    let code = lines.collect::<Vec<_>>().join("\n");
    for (at, _) in code.match_indices(CALL) {
        let argument = code[at + CALL.len()..].trim_start();
        let name = argument.strip_prefix('"').and_then(|rest| rest.split_once('"'));
        let (name, _) = name.with_context(|| format!("{}: not a name", path.display()))?;
        found.insert(name.to_owned());
    }
    Ok(())
}

/// Unit tests may have places of their own.
fn is_of_tests(path: &Path) -> bool {
    let parts = path.iter().skip_while(|part| *part != "..");
    parts.into_iter().any(|part| part == "tests" || part == "tests.rs")
}
