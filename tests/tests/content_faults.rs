//! The content store when something goes wrong: crashes, full disks, wrong and
//! lost bytes; and what another daemon left on disk.

use std::fs;

use anyhow::{Context, Result, bail, ensure};
use containerd_api::services::content::v1::{AbortRequest, WriteContentRequest};
use tests::{
    Bed, Origin, code,
    content::{BYE, HELLO, Write, blob_of, commit, data, delete, get, put, stat, statuses},
};
use tonic::Code;

tests::every_daemon!(a_write_goes_on_after_a_crash);
tests::pairing!(
    only_ours,
    tests::Pairing::OURS,
    content_of_the_original_is_taken_over,
    a_wrong_digest_is_forgotten,
    lost_content_is_mended,
    a_full_disk_is_no_lasting_damage,
    an_open_write_does_not_hold_up_the_end,
);

/// What had come before the daemon was killed need not be sent again.
async fn a_write_goes_on_after_a_crash(bed: &mut Bed) -> Result<()> {
    let piece = "hello".repeat(100_000);
    let length = i64::try_from(piece.len())?;
    let (mut write, _) = Write::open(bed.api(), stat("a")).await?;
    for number in 0..3 {
        write.send(data(number * length, piece.as_str())).await?;
    }
    bed.crash().await?;
    let (mut write, answer) = Write::open(bed.api(), stat("a")).await?;
    assert_eq!(answer.offset, 3 * length);
    write.send(data(3 * length, piece.as_str())).await?;
    let digest = write.send(commit(4 * length, "")).await?.digest;
    bed.crash().await?;
    ensure!(get(bed.api(), &digest, 0, 0).await? == piece.repeat(4), "other bytes");
    delete(bed.api(), &digest).await?;
    Ok(())
}

/// A root that the original has used: nothing in it is lost, nobody has to
/// fetch again what it has, and a write that it began is ended.
async fn content_of_the_original_is_taken_over(bed: &mut Bed) -> Result<()> {
    bed.daemon.stop().await?;
    bed.daemon.switch_to(Origin::Debian);
    bed.daemon.start(&bed.sandbox).await?;
    put(bed.api(), "a", "hello").await?;
    let (mut write, _) = Write::open(bed.api(), stat("b")).await?;
    write.send(data(0, "by")).await?;
    drop(write);
    bed.daemon.stop().await?;

    bed.daemon.switch_to(Origin::Ours);
    bed.daemon.start(&bed.sandbox).await?;
    let api = bed.api();
    assert_eq!(fs::read_to_string(blob_of(&bed.daemon, HELLO))?, "hello");
    let first = WriteContentRequest { expected: HELLO.into(), ..stat("c") };
    let (mut write, answer) = Write::open(api, first).await?;
    assert_eq!(answer.offset, 5);
    write.send(commit(5, HELLO)).await?;
    assert_eq!(get(api, HELLO, 0, 0).await?, "hello");
    assert_eq!(statuses(api).await?, [("b".to_owned(), 2)]);
    let (mut write, answer) = Write::open(api, stat("b")).await?;
    assert_eq!(answer.offset, 2);
    write.send(data(2, "e")).await?;
    assert_eq!(write.send(commit(3, BYE)).await?.digest, BYE);

    // What we delete, the original may still have.
    delete(api, HELLO).await?;
    assert_eq!(code(get(api, HELLO, 0, 0).await)?.0, Code::NotFound);
    bed.daemon.stop().await?;
    bed.daemon.switch_to(Origin::Debian);
    bed.daemon.start(&bed.sandbox).await?;
    assert_eq!(get(bed.api(), HELLO, 0, 0).await?, "hello");
    Ok(())
}

/// What the disk has lost comes back with the next write, whenever that says
/// what it writes.
async fn lost_content_is_mended(bed: &mut Bed) -> Result<()> {
    put(bed.api(), "a", "hello").await?;
    let blob = blob_of(&bed.daemon, HELLO);
    let ctr = bed.ctr(Origin::Ours);
    let api = bed.api();
    let lose = async || {
        fs::remove_file(&blob)?;
        assert_eq!(code(get(api, HELLO, 0, 0).await)?.0, Code::NotFound);
        anyhow::Ok(())
    };
    lose().await?;
    let (mut write, _) = Write::open(api, stat("a")).await?;
    write.send(data(0, "hello")).await?;
    assert_eq!(write.send(commit(5, HELLO)).await?.digest, HELLO);
    assert_eq!(get(api, HELLO, 0, 0).await?, "hello");
    lose().await?;
    let words = ["content", "ingest", "--expected-digest", HELLO, "a"];
    ctr.run_with_input(&words, "hello").await?.ok()?;
    assert_eq!(get(api, HELLO, 0, 0).await?, "hello");
    delete(api, HELLO).await?;
    Ok(())
}

/// The same write again succeeds: the original would go on with the wrong bytes
/// for ever.
async fn a_wrong_digest_is_forgotten(bed: &mut Bed) -> Result<()> {
    let write = async |text: &str| {
        let (mut write, answer) = Write::open(bed.api(), stat("a")).await?;
        write.send(data(answer.offset, text)).await?;
        write.send(commit(answer.offset + 5, HELLO)).await
    };
    assert_eq!(code(write("hallo").await)?.0, Code::FailedPrecondition);
    assert_eq!(write("hello").await?.digest, HELLO);
    delete(bed.api(), HELLO).await?;
    Ok(())
}

async fn a_full_disk_is_no_lasting_damage(bed: &mut Bed) -> Result<()> {
    const DISK: usize = 24 << 20;
    bed.daemon.stop().await?;
    bed.sandbox.mount_tmpfs(bed.daemon.root(), DISK)?;
    bed.daemon.start(&bed.sandbox).await?;
    let api = bed.api();
    put(api, "small", "hello").await?;
    let (mut write, _) = Write::open(api, stat("large")).await?;
    let piece = vec![7; 1 << 20];
    let mut offset = 0;
    let full = loop {
        match write.send(data(offset, piece.as_slice())).await {
            Ok(answer) => offset = answer.offset,
            Err(status) => break status,
        }
        ensure!(offset <= DISK as i64, "the disk is never full");
    };
    ensure!(full.code() == Code::ResourceExhausted, "{full:?}");
    assert_eq!(get(api, HELLO, 0, 0).await?, "hello");
    // What has come is still whole, and can be given up.
    let (write, answer) = Write::open(api, stat("large")).await?;
    assert_eq!(answer.offset, offset);
    drop(write);
    tests::eventually(async || {
        match api.content().abort(AbortRequest { r#ref: "large".into() }).await {
            Err(status) if status.code() == Code::Unavailable => bail!(status),
            aborted => Ok(aborted?),
        }
    })
    .await?;
    let digest = put(api, "other", "bye").await?;
    delete(api, &digest).await?;
    delete(api, HELLO).await?;
    bed.daemon.stop().await?;
    bed.daemon.start(&bed.sandbox).await
}

/// A client that never ends its stream.
async fn an_open_write_does_not_hold_up_the_end(bed: &mut Bed) -> Result<()> {
    let (mut write, _) = Write::open(bed.api(), stat("a")).await?;
    write.send(data(0, "hel")).await?;
    let ended = bed.daemon.stop().await?;
    ensure!(ended.success(), "{ended}");
    let status = write.answers.message().await.err().context("an answer")?;
    ensure!(status.code() == Code::Unavailable, "{status:?}");
    bed.daemon.start(&bed.sandbox).await?;
    let (_write, answer) = Write::open(bed.api(), stat("a")).await?;
    assert_eq!(answer.offset, 3);
    Ok(())
}
