//! The content store through its service and through `ctr`: reading, writing,
//! going on after an interruption, and what other daemons left on disk.

use std::{collections::BTreeMap, fs, path::PathBuf};

use anyhow::{Context, Result, bail, ensure};
use containerd_api::{
    LEASE_HEADER,
    services::{
        content::v1::{
            AbortRequest, DeleteContentRequest, Info, InfoRequest, ListContentRequest,
            ListStatusesRequest, ReadContentRequest, StatusRequest, UpdateRequest, WriteAction,
            WriteContentRequest, WriteContentResponse,
        },
        leases::v1::{CreateRequest, ListResourcesRequest},
    },
};
use tests::{Api, Bed, Daemon, Origin, code};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status, Streaming};

tests::pairing!(
    original,
    tests::Pairing::ORIGINAL,
    what_is_written_is_read,
    requests_that_make_no_sense,
    one_reference_has_one_writer,
    a_write_goes_on_after_a_crash,
    another_namespace_has_it_by_naming_it,
    a_lease_holds_it,
    ctr_moves_content,
);
tests::pairing!(
    ours,
    tests::Pairing::OURS,
    what_is_written_is_read,
    requests_that_make_no_sense,
    one_reference_has_one_writer,
    a_write_goes_on_after_a_crash,
    another_namespace_has_it_by_naming_it,
    a_lease_holds_it,
    ctr_moves_content,
    content_of_the_original_is_taken_over,
    other_algorithms_are_committed,
    a_wrong_digest_is_forgotten,
    a_full_disk_is_no_lasting_damage,
    an_open_write_does_not_hold_up_the_end,
);

/// printf hello | sha256sum
const HELLO: &str = "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
/// printf bye | sha256sum
const BYE: &str = "sha256:b49f425a7e1f9cff3856329ada223f2f9d368f15a00cf48df16ca95986137fe8";

type Labels = BTreeMap<String, String>;

/// An open write stream.
struct Write {
    requests: mpsc::Sender<WriteContentRequest>,
    answers: Streaming<WriteContentResponse>,
}

impl Write {
    /// Opens a stream with its first request, and waits for the answer.
    async fn open(
        api: &Api,
        first: WriteContentRequest,
    ) -> Result<(Self, WriteContentResponse), Status> {
        Self::open_with(api, first, None).await
    }

    async fn open_with(
        api: &Api,
        first: WriteContentRequest,
        lease: Option<&str>,
    ) -> Result<(Self, WriteContentResponse), Status> {
        let (requests, receiver) = mpsc::channel(1);
        let mut request = Request::new(ReceiverStream::new(receiver));
        if let Some(lease) = lease.and_then(|lease| lease.parse().ok()) {
            request.metadata_mut().insert(LEASE_HEADER, lease);
        }
        // The original answers nothing at all before the first request.
        let _ = requests.send(first).await;
        let answers = api.content().write(request).await?.into_inner();
        let mut this = Self { requests, answers };
        let answer = this.answer().await?;
        Ok((this, answer))
    }

    async fn send(&mut self, request: WriteContentRequest) -> Result<WriteContentResponse, Status> {
        // Should the stream have ended, the answer says why.
        let _ = self.requests.send(request).await;
        self.answer().await
    }

    async fn answer(&mut self) -> Result<WriteContentResponse, Status> {
        self.answers.message().await?.ok_or_else(|| Status::aborted("the stream has ended"))
    }
}

fn stat(reference: &str) -> WriteContentRequest {
    WriteContentRequest { r#ref: reference.into(), ..Default::default() }
}

fn data(offset: i64, data: impl Into<Vec<u8>>) -> WriteContentRequest {
    let action = WriteAction::Write.into();
    WriteContentRequest { action, offset, data: data.into(), ..Default::default() }
}

fn commit(offset: i64, expected: &str) -> WriteContentRequest {
    WriteContentRequest {
        action: WriteAction::Commit.into(),
        offset,
        total: offset,
        expected: expected.into(),
        ..Default::default()
    }
}

/// Writes and commits `text`.
async fn put(api: &Api, reference: &str, text: &str) -> Result<String, Status> {
    let (mut write, _) = Write::open(api, stat(reference)).await?;
    write.send(data(0, text)).await?;
    let length = i64::try_from(text.len()).unwrap_or_default();
    Ok(write.send(commit(length, "")).await?.digest)
}

async fn get(api: &Api, digest: &str, offset: i64, size: i64) -> Result<String, Status> {
    let request = ReadContentRequest { digest: digest.into(), offset, size };
    let mut answers = api.content().read(request).await?.into_inner();
    let mut text = Vec::new();
    while let Some(answer) = answers.message().await? {
        assert_eq!(answer.offset, i64::try_from(text.len()).unwrap_or_default());
        text.extend(answer.data);
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

async fn info(api: &Api, digest: &str) -> Result<Info, Status> {
    let answer = api.content().info(InfoRequest { digest: digest.into() }).await?;
    answer.into_inner().info.ok_or_else(|| Status::internal("no info"))
}

/// Digests, sizes and labels. (The original lists no times of updates.)
async fn list(api: &Api, filters: &[&str]) -> Result<Vec<(String, i64, Labels)>> {
    let filters = filters.iter().map(|filter| (*filter).to_owned()).collect();
    let mut answers = api.content().list(ListContentRequest { filters }).await?.into_inner();
    let mut found = Vec::new();
    while let Some(answer) = answers.message().await? {
        found.extend(answer.info.into_iter().map(|info| (info.digest, info.size, info.labels)));
    }
    Ok(found)
}

async fn statuses(api: &Api) -> Result<Vec<(String, i64)>> {
    let answer = api.content().list_statuses(ListStatusesRequest::default()).await?;
    Ok(answer.into_inner().statuses.into_iter().map(|s| (s.r#ref, s.offset)).collect())
}

async fn delete(api: &Api, digest: &str) -> Result<(), Status> {
    let request = DeleteContentRequest { digest: digest.into() };
    api.content().delete(request).await.map(drop)
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn blob_of(daemon: &Daemon, digest: &str) -> PathBuf {
    let hex = digest.split_once(':').map_or(digest, |(_, hex)| hex);
    daemon.root().join("io.containerd.content.v1.content/blobs/sha256").join(hex)
}

async fn what_is_written_is_read(bed: &mut Bed) -> Result<()> {
    let api = bed.api();
    let first = WriteContentRequest { total: 5, expected: HELLO.into(), ..stat("a") };
    let (mut write, answer) = Write::open(api, first).await?;
    ensure!((answer.offset, answer.total) == (0, 5) && answer.started_at.is_some(), "{answer:?}");
    assert_eq!(write.send(data(0, "hel")).await?.offset, 3);
    // An offset of 0 begins anew.
    assert_eq!(write.send(data(0, "he")).await?.offset, 2);
    assert_eq!(write.send(data(2, "ll")).await?.offset, 4);
    assert_eq!(statuses(api).await?, [("a".to_owned(), 4)]);
    let last = WriteContentRequest {
        data: "o".into(),
        total: 5,
        labels: labels(&[("kind", "greeting")]),
        ..commit(4, HELLO)
    };
    let answer = write.send(last).await?;
    assert_eq!((answer.offset, answer.digest.as_str()), (5, HELLO));
    // (The original sends the last answer twice.)
    if bed.daemon.pairing().daemon == Origin::Ours {
        ensure!(write.answers.message().await?.is_none(), "more answers after the commit");
    }
    assert_eq!(statuses(api).await?, []);

    let found = info(api, HELLO).await?;
    assert_eq!((found.size, &found.labels), (5, &labels(&[("kind", "greeting")])));
    for (offset, size, expected) in
        [(0, 0, "hello"), (1, 3, "ell"), (3, 100, "lo"), (5, 0, ""), (-1, -1, "hello")]
    {
        assert_eq!(get(api, HELLO, offset, size).await?, expected, "{offset} {size}");
    }
    assert_eq!(code(get(api, HELLO, 6, 0).await)?.0, Code::OutOfRange);
    let only = [(HELLO.to_owned(), 5, found.labels.clone())];
    assert_eq!(list(api, &[]).await?, only);
    assert_eq!(list(api, &["labels.kind==greeting"]).await?, only);
    assert_eq!(list(api, &["labels.kind==other"]).await?, []);
    assert_eq!(code(put(api, "b", "hello").await)?.0, Code::AlreadyExists);

    let new = Info { labels: labels(&[("kind", "word")]), ..found };
    let mask = prost_types::FieldMask { paths: vec!["labels.kind".into()] };
    let request = UpdateRequest { info: Some(new), update_mask: Some(mask) };
    api.content().update(request).await?;
    assert_eq!(info(api, HELLO).await?.labels, labels(&[("kind", "word")]));

    // More than one message of any size.
    let large = "0123456789abcdef".repeat(300_000);
    let digest = put(api, "large", &large).await?;
    ensure!(get(api, &digest, 0, 0).await? == large, "other bytes");
    ensure!(get(api, &digest, 4_000_001, 17).await? == large[4_000_001..][..17], "other part");
    for digest in [HELLO, &digest] {
        delete(api, digest).await?;
        assert_eq!(code(info(api, digest).await)?.0, Code::NotFound);
    }
    Ok(())
}

async fn requests_that_make_no_sense(bed: &mut Bed) -> Result<()> {
    let api = bed.api();
    let missing = HELLO;
    assert_eq!(code(info(api, missing).await)?.0, Code::NotFound);
    assert_eq!(code(get(api, missing, 0, 0).await)?.0, Code::NotFound);
    assert_eq!(code(delete(api, missing).await)?.0, Code::NotFound);
    for digest in ["", "hello", "sha256:short", "md5:d41d8cd98f00b204e9800998ecf8427e"] {
        assert_eq!(code(info(api, digest).await)?.0, Code::InvalidArgument, "{digest}");
        assert_eq!(code(get(api, digest, 0, 0).await)?.0, Code::InvalidArgument, "{digest}");
        assert_eq!(code(delete(api, digest).await)?.0, Code::InvalidArgument, "{digest}");
    }
    let status = StatusRequest { r#ref: "nobody".into() };
    assert_eq!(code(api.content().status(status).await)?.0, Code::NotFound);
    let abort = AbortRequest { r#ref: "nobody".into() };
    assert_eq!(code(api.content().abort(abort).await)?.0, Code::NotFound);
    assert_eq!(code(Write::open(api, stat("")).await)?.0, Code::InvalidArgument);
    let plain = api.without_namespace();
    assert_eq!(code(info(&plain, missing).await)?.0, Code::FailedPrecondition);

    let (mut write, _) = Write::open(api, stat("a")).await?;
    write.send(data(0, "hel")).await?;
    assert_eq!(code(write.send(data(7, "lo")).await)?.0, Code::OutOfRange);
    for refused in [commit(4, ""), commit(3, HELLO)] {
        let (mut write, answer) = Write::open(api, stat("a")).await?;
        let offset = answer.offset;
        if offset == 0 {
            write.send(data(0, "hel")).await?;
        }
        let refused = WriteContentRequest { offset: 3, ..refused };
        assert_eq!(code(write.send(refused).await)?.0, Code::FailedPrecondition);
    }
    assert_eq!(list(api, &[]).await?, []);
    // What is left of it is forgotten; ours has done so.
    let _ = api.content().abort(AbortRequest { r#ref: "a".into() }).await;
    assert_eq!(statuses(api).await?, []);
    Ok(())
}

async fn one_reference_has_one_writer(bed: &mut Bed) -> Result<()> {
    let api = bed.api();
    let (first, _) = Write::open(api, stat("a")).await?;
    assert_eq!(code(Write::open(api, stat("a")).await)?.0, Code::Unavailable);
    let elsewhere = api.in_namespace("elsewhere")?;
    drop(Write::open(&elsewhere, stat("a")).await?);
    drop(first);
    let mut second = Err(Status::unavailable("not tried"));
    // The daemon hears of the end of a stream a moment later.
    while matches!(&second, Err(status) if status.code() == Code::Unavailable) {
        second = Write::open(api, stat("a")).await;
    }
    drop(second?);
    Ok(())
}

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

async fn another_namespace_has_it_by_naming_it(bed: &mut Bed) -> Result<()> {
    let (api, other) = (bed.api(), bed.api().in_namespace("other")?);
    put(&other, "a", "hello").await?;
    assert_eq!(code(info(api, HELLO).await)?.0, Code::NotFound);
    let first = WriteContentRequest { total: 5, expected: HELLO.into(), ..stat("a") };
    let (mut write, answer) = Write::open(api, first).await?;
    assert_eq!(answer.offset, 5);
    write.send(commit(5, HELLO)).await?;
    delete(&other, HELLO).await?;
    assert_eq!(get(api, HELLO, 0, 0).await?, "hello");
    delete(api, HELLO).await?;
    Ok(())
}

async fn a_lease_holds_it(bed: &mut Bed) -> Result<()> {
    let api = bed.api();
    let lease = CreateRequest { id: "l".into(), ..Default::default() };
    api.leases().create(lease).await?;
    let held = async || -> Result<Vec<(String, String)>> {
        let answer = api.leases().list_resources(ListResourcesRequest { id: "l".into() }).await?;
        Ok(answer.into_inner().resources.into_iter().map(|r| (r.r#type, r.id)).collect())
    };
    let (mut write, _) = Write::open_with(api, stat("a"), Some("l")).await?;
    assert_eq!(held().await?, [("ingests".to_owned(), "a".to_owned())]);
    write.send(data(0, "hello")).await?;
    write.send(commit(5, "")).await?;
    assert_eq!(held().await?, [("content".to_owned(), HELLO.to_owned())]);
    let nobody = Write::open_with(api, stat("b"), Some("nobody")).await;
    assert_eq!(code(nobody)?.0, Code::NotFound);
    Ok(())
}

/// Both clients.
async fn ctr_moves_content(bed: &mut Bed) -> Result<()> {
    for origin in [Origin::Debian, Origin::Ours] {
        let ctr = bed.ctr(origin);
        let ingest = async |key: &str, digest: &str, text: &str| {
            let words = ["content", "ingest", "--expected-digest", digest, key];
            ctr.run_with_input(&words, text).await
        };
        ingest("a", HELLO, "hello").await?.ok()?;
        let listed = ctr.run(&["content", "ls"]).await?.ok()?;
        let line = listed.lines().find(|line| line.starts_with(HELLO)).context("no line")?;
        ensure!(line.contains("5B") && line.ends_with('-'), "{listed}");
        assert_eq!(ctr.run(&["content", "get", HELLO]).await?.ok()?, "hello");
        let labelled = ctr.run(&["content", "label", HELLO, "kind=greeting"]).await?.ok()?;
        ensure!(labelled.contains("kind=greeting"), "{labelled}");
        let filtered = ctr.run(&["content", "ls", "-q", "labels.kind==greeting"]).await?.ok()?;
        assert_eq!(filtered.trim(), HELLO);
        // What is there is success, what is something else is none.
        ingest("a", HELLO, "hello").await?.ok()?;
        let other = ingest("b", BYE, "good-bye").await?;
        ensure!(other.code == Some(1) && other.stderr.contains(BYE), "{other:?}");
        let edited = ctr.run(&["content", "edit", "--editor", "printf bye >", HELLO]).await?;
        assert_eq!(edited.ok()?.trim(), BYE);
        assert_eq!(ctr.run(&["content", "get", BYE]).await?.ok()?, "bye");
        let removed = ctr.run(&["content", "rm", HELLO, BYE, HELLO]).await?.ok()?;
        assert_eq!(removed.lines().collect::<Vec<_>>(), [HELLO, BYE]);
        assert_eq!(ctr.run(&["content", "ls", "-q"]).await?.ok()?, "");
        let gone = ctr.run(&["content", "get", HELLO]).await?;
        ensure!(gone.code == Some(1) && gone.stderr.contains("not found"), "{gone:?}");

        let (mut write, _) = Write::open(bed.api(), stat("layer")).await?;
        write.send(data(0, "x".repeat(1500))).await?;
        drop(write);
        let active = ctr.run(&["content", "active"]).await?.ok()?;
        let line = active.lines().find(|line| line.starts_with("layer")).context("no line")?;
        ensure!(line.contains("1.5kB"), "{active}");
        tests::eventually(async || {
            Ok(bed.api().content().abort(AbortRequest { r#ref: "layer".into() }).await?)
        })
        .await?;
        // The original keeps what is of no use to anybody.
        let _ = bed.api().content().abort(AbortRequest { r#ref: "b".into() }).await;
    }
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
    Ok(())
}

/// The original computes sha256 only, and refuses these.
async fn other_algorithms_are_committed(bed: &mut Bed) -> Result<()> {
    // printf hello | sha512sum
    let digest = "sha512:9b71d224bd62f3785d96d46ad3ea3d73319bfbc2890caadae2dff72519673ca7\
                  2323c3d99ba5c11d7c7acc6e14b8c5da0c4663475c2e5c3adef46f73bcdec043";
    let (mut write, _) = Write::open(bed.api(), stat("a")).await?;
    write.send(data(0, "hello")).await?;
    assert_eq!(write.send(commit(5, digest)).await?.digest, digest);
    assert_eq!(get(bed.api(), digest, 0, 0).await?, "hello");
    delete(bed.api(), digest).await?;
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
