//! Measures our daemon and shim beside Debian's, in one run, and prints the
//! tables of the README. `hack/measure` builds what it needs.
//!
//! All contenders take turns in each measurement, so that whatever else the
//! machine does meets each of them. Figures are medians.

mod containers;
mod content;
mod figures;
mod images;

use anyhow::{Context, Result, ensure};
use tests::{Bed, Pairing};

/// What can be named on the command line; without a name it is all of them.
const SECTIONS: [&str; 3] = ["containers", "images", "content"];

#[tokio::main]
async fn main() -> Result<()> {
    let named: Vec<String> = std::env::args().skip(1).collect();
    for name in &named {
        ensure!(SECTIONS.contains(&name.as_str()), "no section {name:?}, but {SECTIONS:?}");
    }
    let wanted = |section: &str| named.is_empty() || named.iter().any(|name| name == section);
    let mut tables = Vec::new();
    // With daemons of its own each, so that they do not depend on each other.
    if wanted("containers") {
        tables.push(containers::measure(&mut start_both().await?).await?);
    }
    if wanted("images") {
        tables.push(images::measure(&mut start_both().await?).await?);
    }
    if wanted("content") {
        tables.push(content::measure(&mut start_both().await?).await?);
    }
    print!("{}", tables.join("\n"));
    Ok(())
}

/// Ours and Debian's, in this order.
async fn start_both() -> Result<[Bed; 2]> {
    let ours = Bed::start(Pairing::OURS).await.context("start ours")?;
    let original = Bed::start(Pairing::ORIGINAL).await.context("start Debian's")?;
    Ok([ours, original])
}
