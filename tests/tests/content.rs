//! The content store through its service and through `ctr`: reading, writing,
//! sharing, and what leases hold.

use anyhow::{Context, Result, ensure};
use containerd_api::services::{
    content::v1::{AbortRequest, Info, StatusRequest, UpdateRequest, WriteContentRequest},
    leases::v1::{CreateRequest, ListResourcesRequest},
};
use tests::{
    Bed, Origin, code,
    content::{
        BYE, HELLO, Write, commit, data, delete, get, info, labels, list, put, stat, statuses,
    },
};
use tonic::{Code, Status};

tests::every_daemon!(
    what_is_written_is_read,
    requests_that_make_no_sense,
    one_reference_has_one_writer,
    another_namespace_has_it_by_naming_it,
    a_lease_holds_it,
    ctr_moves_content,
);
tests::pairing!(
    only_ours,
    tests::Pairing::OURS,
    other_algorithms_are_committed,
    a_write_out_of_place_changes_nothing,
    what_exists_is_held_instead_of_written,
);

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

/// The original takes a negative offset for 0, and forgets what has come.
async fn a_write_out_of_place_changes_nothing(bed: &mut Bed) -> Result<()> {
    let (mut write, _) = Write::open(bed.api(), stat("a")).await?;
    write.send(data(0, "hello")).await?;
    assert_eq!(code(write.send(data(-1, "x")).await)?.0, Code::OutOfRange);
    let (mut write, answer) = Write::open(bed.api(), stat("a")).await?;
    assert_eq!(answer.offset, 5);
    // What is too long for a message is the client's fault.
    assert_eq!(code(write.send(data(5, vec![7; 17 << 20])).await)?.0, Code::OutOfRange);
    let (_write, answer) = Write::open(bed.api(), stat("a")).await?;
    assert_eq!(answer.offset, 5);
    Ok(())
}

/// Somebody else was faster, and only the commit tells what it is.
async fn what_exists_is_held_instead_of_written(bed: &mut Bed) -> Result<()> {
    let api = bed.api();
    let lease = CreateRequest { id: "l".into(), ..Default::default() };
    api.leases().create(lease).await?;
    let (mut write, _) = Write::open_with(api, stat("a"), Some("l")).await?;
    write.send(data(0, "hello")).await?;
    put(api, "b", "hello").await?;
    assert_eq!(code(write.send(commit(5, HELLO)).await)?.0, Code::AlreadyExists);
    let held = api.leases().list_resources(ListResourcesRequest { id: "l".into() }).await?;
    let held: Vec<_> = held.into_inner().resources.into_iter().map(|r| r.id).collect();
    assert_eq!(held, [HELLO]);
    assert_eq!(statuses(api).await?, []);
    delete(api, HELLO).await?;
    Ok(())
}
