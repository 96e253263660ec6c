//! Docker's way to say how a host is reached: a folder with its certificates.

use std::path::Path;

use shim_protocol::{Context, Result};

use super::Configured;
use crate::registry::Tls;

/// Finds `*.crt` (authorities), and `*.cert` with `*.key` (ours). A certificate
/// without a key beside it has it in its own file.
pub(super) fn find(folder: &Path) -> Result<Vec<Configured>> {
    let mut tls = Tls::default();
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).context("list", folder.display())? {
        let entry = entry.context("list", folder.display())?;
        // What a link points to counts: certificates are often linked.
        if !entry.path().is_dir() {
            paths.push(entry.path());
        }
    }
    paths.sort();
    for path in paths {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("crt") => tls.ca.push(path),
            Some("cert") => {
                let key = path.with_extension("key");
                let key = key.try_exists().context("look for", key.display())?.then_some(key);
                tls.client.push((path, key));
            }
            _ => {}
        }
    }
    let tls = (!tls.is_default()).then_some(tls);
    Ok(vec![Configured { tls, ..Configured::default() }])
}
