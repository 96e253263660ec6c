//! Images from a registry on this machine into snapshots.

use std::time::Instant;

use anyhow::{Context, Result};
use nix::unistd::sync;
use tests::{
    Bed, Origin, Store,
    images::{self, Image, Layout},
    proc,
    registry::Registry,
};

use super::figures::{Figures, Row, peak, pid, row, table};

/// What is pulled: name, rows of time and of memory, how often, and what it is.
struct Case {
    name: &'static str,
    time: &'static str,
    memory: &'static str,
    rounds: usize,
    make: fn() -> Result<Image>,
}

const CASES: [Case; 3] = [
    Case {
        name: "mixed",
        time: "pull and unpack 10 layers with 400 MB",
        memory: "memory of the daemon at that (peak RSS): 10 layers",
        rounds: 3,
        make: || images::mixed(10, 40 << 20),
    },
    Case {
        name: "layers",
        time: "pull and unpack 40 small layers",
        memory: "memory of the daemon at that (peak RSS): 40 layers",
        rounds: 5,
        make: || images::many_layers(40),
    },
    Case {
        name: "files",
        time: "pull and unpack 100,000 small files",
        memory: "memory of the daemon at that (peak RSS): small files",
        rounds: 3,
        make: || images::small_files(4, 25_000),
    },
];

const ROWS: [Row; 6] = [
    row(CASES[0].time, "s", 2),
    row(CASES[1].time, "s", 2),
    row(CASES[2].time, "s", 2),
    row(CASES[0].memory, "MB", 0),
    row(CASES[1].memory, "MB", 0),
    row(CASES[2].memory, "MB", 0),
];

/// Which daemon of the two, whose client, and the column.
const CONTENDERS: [(usize, Origin, &str); 3] = [
    (0, Origin::Ours, "this"),
    (0, Origin::Debian, "this, by Debian's ctr"),
    (1, Origin::Debian, "Debian's containerd 1.6"),
];

pub(crate) async fn measure(beds: &mut [Bed; 2]) -> Result<String> {
    let registry = Registry::start()?;
    let mut figures: [Figures; 3] = Default::default();
    for case in &CASES {
        let reference = registry.image(&format!("{}:1", case.name));
        offer(&beds[0], case, &reference).await?;
        for round in 0..=case.rounds {
            for ((bed, client, _), figures) in CONTENDERS.iter().zip(&mut figures) {
                let bed = &beds[*bed];
                let (time, memory) = pull(bed, *client, &reference).await?;
                // The first one reads programs and the registry's files from disk.
                if round > 0 {
                    figures.note(case.time, time);
                    figures.note(case.memory, memory);
                }
            }
        }
    }
    let columns: Vec<_> = CONTENDERS.iter().map(|(_, _, name)| *name).zip(figures.iter()).collect();
    Ok(table(&columns, &ROWS))
}

async fn offer(bed: &Bed, case: &Case, reference: &str) -> Result<()> {
    let folder = tempfile::tempdir_in(bed.sandbox.folder())?;
    let image = (case.make)().context(case.name)?;
    let (layout, _) = Layout::of(folder.path().join("layout"), "1", &image)?;
    drop(image);
    layout.push(&bed.sandbox, "1", reference).await
}

/// Seconds, and megabytes of the daemon.
async fn pull(bed: &Bed, client: Origin, reference: &str) -> Result<(f64, f64)> {
    let ctr = bed.ctr(client);
    // What the last one has left to be written is not this one's.
    sync();
    proc::reset_peak(pid(bed)?)?;
    let begin = Instant::now();
    let words = ["images", "pull", "--plain-http", reference];
    ctr.run_for(super::content::LIMIT, &words, "").await?.ok()?;
    let taken = begin.elapsed().as_secs_f64();
    let memory = peak(bed)?;
    let words = ["images", "rm", "--sync", reference];
    ctr.run_for(super::content::LIMIT, &words, "").await?.ok()?;
    let left = Store::of(bed.api()).await?;
    anyhow::ensure!(left.content.is_empty() && left.snapshots.is_empty(), "left: {left:?}");
    Ok((taken, memory))
}
