//! Tells a client how far a transfer has come.

use std::{pin::pin, sync::Arc, time::Duration};

use containerd_api::{to_any, types::transfer as wire};
use containerd_core::transfer::{Note, Report, Stage};
use containerd_images::progress::Tracker;
use shim_protocol::Result;
use tokio::{sync::mpsc, time};

use crate::services::{convert::descriptor_out, streaming::Stream};

/// How often (containerd, `core/transfer/local/progress.go`).
const EVERY: Duration = Duration::from_millis(300);

/// How long a client may take to read the last of it.
const LAST: Duration = Duration::from_secs(5);

/// Tells what changes.
pub(super) struct Teller {
    pub(super) stream: Stream,
    pub(super) tracker: Arc<Tracker>,
    pub(super) notes: mpsc::UnboundedReceiver<Note>,
    /// What it is called when content moves.
    pub(super) moving: &'static str,
}

impl Teller {
    /// Tells how far `transfer` has come, until it is over. The transfer never
    /// waits for the client to read that.
    pub(super) async fn during(self, transfer: impl Future<Output = Result<()>>) -> Result<()> {
        let (mut transfer, mut telling) = (pin!(transfer), pin!(self.tell()));
        let outcome = tokio::select! {
            outcome = &mut transfer => outcome,
            // The client does not want to know more.
            _ = &mut telling => return transfer.await,
        };
        let _ = time::timeout(LAST, telling).await;
        outcome
    }

    /// Tells all that happens until nothing more will.
    async fn tell(mut self) -> Result<()> {
        let mut ticks = time::interval(EVERY);
        ticks.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                note = self.notes.recv() => {
                    // What happened before comes before.
                    self.changes().await?;
                    match note {
                        Some(note) => self.send(from_note(note)).await?,
                        None => return Ok(()),
                    }
                }
                _ = ticks.tick() => self.changes().await?,
            }
        }
    }

    async fn changes(&self) -> Result<()> {
        for report in self.tracker.changes() {
            self.send(self.progress(report)).await?;
        }
        Ok(())
    }

    async fn send(&self, progress: wire::Progress) -> Result<()> {
        self.stream.send(to_any(&progress)).await
    }

    fn progress(&self, report: Report) -> wire::Progress {
        let event = match report.stage {
            Stage::Waiting => "waiting",
            Stage::Moving => self.moving,
            Stage::Complete => "complete",
            Stage::Exists => "already exists",
            Stage::Extracting => "extracting",
            Stage::Extracted => "extracted",
        };
        wire::Progress {
            event: event.into(),
            name: report.name,
            parents: report.parents,
            progress: signed(report.done),
            total: signed(report.descriptor.size),
            desc: Some(descriptor_out(report.descriptor)),
        }
    }
}

fn from_note(note: Note) -> wire::Progress {
    let (name, desc) = note.image.unzip();
    wire::Progress {
        event: note.event,
        name: name.unwrap_or_default(),
        desc: desc.map(descriptor_out),
        ..Default::default()
    }
}

fn signed(size: u64) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}
