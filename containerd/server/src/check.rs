//! `containerd check`: what the core finds wrong, for people.

use std::{cmp::Reverse, sync::Arc};

use containerd_core::{
    announce::{Announcer, ObjectEvent, ObjectEvents},
    check::{self, Report, Severity},
    metadata::Db,
};
use shim_protocol::{Error, ErrorKind, Id, Result};

use crate::{assembly, cli::CheckArgs, config::Config, snapshotters};

/// Checks the root that the configuration names, and prints what is found.
///
/// # Errors
/// - `NotFound` when no daemon has used the root;
/// - `FailedPrecondition` when one does;
/// - `DataLoss` when something is damaged, or, if that counts, left over;
/// - those of the disk.
pub(crate) async fn run(config: &Config, how: CheckArgs) -> Result<()> {
    if !Db::is_below(&config.root)? {
        let text = format!("metadata database of a daemon below {}", config.root.display());
        return Err(Error::not_found(text));
    }
    // Locks the root: nothing changes until the end.
    let db = Db::open(&config.root).await?;
    let announcer = Announcer::start(Arc::new(Nobody));
    let report = look(config, &db, &announcer, how).await;
    db.shutdown().await;
    announcer.shutdown().await;
    let report = report?;
    print(&report, how);
    let bad = report.count(Severity::Damage);
    let left = report.count(Severity::Leftover);
    match (bad, left) {
        (0, left) if left > 0 && how.strict => {
            Err(Error::new(ErrorKind::DataLoss, format!("{left} left over")))
        }
        (0, _) => Ok(()),
        (bad, _) => Err(Error::new(ErrorKind::DataLoss, format!("{bad} damaged"))),
    }
}

async fn look(config: &Config, db: &Db, announcer: &Announcer, how: CheckArgs) -> Result<Report> {
    let foreign = assembly::has_foreign_metadata(config)?;
    let content = assembly::open_content(config, foreign, db).await?;
    let mut report = check::records(db, &content, !how.quick).await?;
    let snapshots = snapshotters::look(config, db, announcer).await?;
    report.findings.extend(check::snapshots(&snapshots, foreign).await?);
    report.findings.sort_by_key(|finding| Reverse(finding.severity()));
    snapshots.shutdown().await;
    content.shutdown().await;
    Ok(report)
}

/// Nothing is changed, and nobody has to hear of it.
struct Nobody;

#[tonic::async_trait]
impl ObjectEvents for Nobody {
    async fn publish_object(&self, _: &Id, _: ObjectEvent) -> Result<()> {
        Ok(())
    }
}

fn print(report: &Report, how: CheckArgs) {
    for finding in &report.findings {
        let word = match finding.severity() {
            Severity::Damage => "damaged",
            Severity::Leftover => "left over",
            Severity::Note => "note",
        };
        println!("{word}: {finding}");
    }
    let read = if how.quick { "looked at" } else { "read" };
    let Report { blobs, bytes, ingests, images, .. } = report;
    println!("{read} {blobs} blobs of {bytes} bytes, {ingests} ingests, {images} images");
}
