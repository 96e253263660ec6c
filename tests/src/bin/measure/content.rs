//! One large blob into the content store, and out again.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use containerd_api::services::content::v1::{ReadContentRequest, WriteContentRequest};
use nix::unistd::sync;
use tests::{
    Bed,
    content::{Write, commit, data, delete, stat},
    images::noise,
    proc,
};

use super::figures::{Figures, ORIGINAL, OURS, Row, peak, pid, row, table};

/// How long one command may take on a slow machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(600);

const PIECES: i64 = 1024;
const PIECE_BYTES: usize = 1 << 20;
const ROUNDS: usize = 3;

const INGEST: &str = "ingest a blob of 1 GB";
const READ: &str = "read it";
const INGEST_MEMORY: &str = "memory of the daemon at that (peak RSS): ingest";
const READ_MEMORY: &str = "memory of the daemon at that (peak RSS): read";
const ROWS: [Row; 4] = [
    row(INGEST, "s", 2),
    row(READ, "s", 2),
    row(INGEST_MEMORY, "MB", 0),
    row(READ_MEMORY, "MB", 0),
];

pub(crate) async fn measure(beds: &mut [Bed; 2]) -> Result<String> {
    let mut figures: [Figures; 2] = Default::default();
    // The digest is the same whoever computes it, and so is the piece.
    let piece = noise(1, PIECE_BYTES);
    for round in 0..=ROUNDS {
        for (bed, figures) in beds.iter().zip(&mut figures) {
            let mut measured = Figures::default();
            once(bed, &piece, &mut measured).await?;
            if round > 0 {
                figures.take(measured);
            }
        }
    }
    Ok(table(&[(OURS, &figures[0]), (ORIGINAL, &figures[1])], &ROWS))
}

async fn once(bed: &Bed, piece: &[u8], figures: &mut Figures) -> Result<()> {
    let (api, pid) = (bed.api(), pid(bed)?);
    sync();
    proc::reset_peak(pid)?;
    let begin = Instant::now();
    let length = PIECE_BYTES as i64;
    let first = WriteContentRequest { total: PIECES * length, ..stat("large") };
    let (mut write, _) = Write::open(api, first).await?;
    for number in 0..PIECES {
        write.send(data(number * length, piece)).await?;
    }
    let digest = write.send(commit(PIECES * length, "")).await?.digest;
    figures.note(INGEST, begin.elapsed().as_secs_f64());
    figures.note(INGEST_MEMORY, peak(bed)?);

    proc::reset_peak(pid)?;
    let begin = Instant::now();
    let request = ReadContentRequest { digest: digest.clone(), ..Default::default() };
    let mut answers = api.content().read(request).await?.into_inner();
    let mut read = 0;
    while let Some(answer) = answers.message().await? {
        read += answer.data.len();
    }
    ensure!(read == PIECE_BYTES * PIECES as usize, "{read} bytes");
    figures.note(READ, begin.elapsed().as_secs_f64());
    figures.note(READ_MEMORY, peak(bed)?);
    Ok(delete(api, &digest).await?)
}
