//! The database on disks that fail, fill up and lose power.

use shim_protocol::{Error, ErrorKind, Result};
use tokio::sync::oneshot;

use super::{
    Change, Db, Key, Read,
    schema::{CONTAINERS, NAMESPACES},
    testing::{Disk, Random},
};

fn key(name: &str) -> Key {
    Key::new(&[name]).unwrap()
}

fn put(name: &'static str) -> impl FnOnce(&mut Change<'_>) -> Result<()> + Send {
    move |change| change.put_bytes(NAMESPACES, &key(name), b"")
}

async fn has(db: &Db, name: &'static str) -> bool {
    db.read(move |db| db.has(NAMESPACES, &key(name))).await.unwrap()
}

#[tokio::test]
async fn a_refused_change_leaves_no_trace_and_the_others_in_its_group_stay() {
    let disk = Disk::default();
    let db = disk.open().unwrap();
    db.write(|c| c.put_bytes(NAMESPACES, &key("old"), b"before")).await.unwrap();

    let outcomes = together(&disk, &db, || {
        vec![
            Box::new(put("first")) as Box<dyn FnOnce(&mut Change<'_>) -> Result<()> + Send>,
            Box::new(|change| {
                change.put_bytes(NAMESPACES, &key("refused"), b"")?;
                change.put_bytes(NAMESPACES, &key("old"), b"after")?;
                change.put_bytes(NAMESPACES, &key("old"), b"after that")?;
                change.remove(NAMESPACES, &key("first"))?;
                change.remove_all(NAMESPACES, &Key::new(&[])?)?;
                Err(Error::precondition("thought better of it"))
            }),
            Box::new(|change| {
                // It builds on the first, not on what was taken back.
                assert!(change.has(NAMESPACES, &key("first"))?);
                assert!(!change.has(NAMESPACES, &key("refused"))?);
                change.put_bytes(NAMESPACES, &key("last"), b"")
            }),
        ]
    })
    .await;

    let kinds: Vec<_> = outcomes.iter().map(|o| o.as_ref().err().map(Error::kind)).collect();
    assert_eq!(kinds, [None, Some(ErrorKind::FailedPrecondition), None]);
    assert!(has(&db, "first").await && has(&db, "last").await && !has(&db, "refused").await);
    let old = db.read(|db| db.get_bytes(NAMESPACES, &key("old"))).await.unwrap();
    assert_eq!(old.as_deref(), Some(b"before".as_slice()));
}

#[tokio::test]
async fn changes_that_wait_together_share_one_commit() {
    let disk = Disk::default();
    let db = disk.open().unwrap();
    let before = disk.syncs();
    db.write(put("alone")).await.unwrap();
    let syncs_of_a_commit = disk.syncs() - before;

    let before = disk.syncs();
    let outcomes = together(&disk, &db, || {
        let change = |i: usize| {
            move |c: &mut Change<'_>| c.put_bytes(NAMESPACES, &key(&format!("n{i}")), b"")
        };
        (0..100).map(change).collect()
    })
    .await;

    assert!(outcomes.iter().all(Result::is_ok) && outcomes.len() == 100);
    // One for the change that the others waited behind.
    assert_eq!(disk.syncs() - before, 2 * syncs_of_a_commit);
}

#[tokio::test]
async fn nothing_is_written_for_refused_changes() {
    let disk = Disk::default();
    let db = disk.open().unwrap();
    let before = disk.syncs();
    for _ in 0..3 {
        db.write(|_| Err::<(), _>(Error::not_found("it"))).await.unwrap_err();
        db.write(|change| change.remove(NAMESPACES, &key("absent"))).await.unwrap();
    }
    assert_eq!(disk.syncs(), before);
}

#[tokio::test]
async fn a_read_waits_for_no_commit_and_sees_none_that_is_not_durable() {
    let disk = Disk::default();
    let db = disk.open().unwrap();
    disk.hold(true);
    let (done, answered) = oneshot::channel();
    db.submit(put("slow"), |outcome| drop(done.send(outcome))).await.unwrap();
    until_held(&disk).await;
    assert!(!has(&db, "slow").await);
    disk.hold(false);
    answered.await.unwrap().unwrap();
    assert!(has(&db, "slow").await);
}

#[tokio::test]
async fn a_caller_that_leaves_does_not_take_its_change_along() {
    let disk = Disk::default();
    let db = disk.open().unwrap();
    disk.hold(true);
    let write = tokio::spawn({
        let db = db.clone();
        async move { db.write(put("kept")).await }
    });
    until_held(&disk).await;
    write.abort();
    disk.hold(false);
    db.write(put("later")).await.unwrap();
    assert!(has(&db, "kept").await);
}

#[tokio::test]
async fn a_full_disk_is_an_error_and_not_the_end() {
    let disk = Disk::default();
    let db = disk.open().unwrap();
    db.write(put("before")).await.unwrap();

    disk.set_full(true);
    let mut stored = 0;
    let error = loop {
        match db.write(put_much(stored)).await {
            Ok(()) => stored += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::ResourceExhausted, "{error:?}");
    // What is there can be read, removed and replaced.
    assert_eq!(count(&db).await, stored + 1);
    db.write(|change| change.remove(NAMESPACES, &key("before"))).await.unwrap();
    let again = db.write(put_much(stored)).await.unwrap_err();
    assert_eq!(again.kind(), ErrorKind::ResourceExhausted, "{again:?}");
    db.write(put("small")).await.unwrap();

    disk.set_full(false);
    db.write(put_much(stored)).await.unwrap();
    db.shutdown().await;
    assert_eq!(count(&disk.open().unwrap()).await, stored + 2);
}

/// A record that a small file has not much room for.
fn put_much(i: usize) -> impl FnOnce(&mut Change<'_>) -> Result<()> + Send {
    move |change| change.put_bytes(NAMESPACES, &key(&format!("much{i}")), &[b'x'; 100 << 10])
}

async fn count(db: &Db) -> usize {
    let count = db.read(|db| {
        let mut count = 0;
        db.scan(NAMESPACES, &Key::new(&[])?, |_, _| {
            count += 1;
            Ok(std::ops::ControlFlow::Continue(()))
        })?;
        Ok(count)
    });
    count.await.unwrap()
}

#[tokio::test]
async fn after_a_shutdown_everything_is_refused() {
    let disk = Disk::default();
    let db = disk.open().unwrap();
    db.write(put("before")).await.unwrap();
    db.shutdown().await;
    db.shutdown().await;
    assert_eq!(db.write(put("late")).await.unwrap_err().kind(), ErrorKind::Unavailable);
    let read = db.read(|db| db.has(NAMESPACES, &key("before"))).await;
    assert_eq!(read.unwrap_err().kind(), ErrorKind::Unavailable);
}

#[tokio::test]
async fn a_root_has_one_daemon_at_a_time() {
    let root = tempfile::tempdir().unwrap();
    let first = Db::open(root.path()).await.unwrap();
    let error = Db::open(root.path()).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
    let report = error.report().to_string();
    assert!(report.contains(&root.path().display().to_string()), "{report}");

    first.write(put("kept")).await.unwrap();
    first.shutdown().await;
    let second = Db::open(root.path()).await.unwrap();
    assert!(has(&second, "kept").await);
}

#[tokio::test]
async fn a_file_that_was_not_completed_is_made_again() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("io.containerd.metadata.v1.redb");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("meta.redb.new"), [0; 10_000]).unwrap();
    let db = Db::open(root.path()).await.unwrap();
    db.write(put("works")).await.unwrap();
    let files: Vec<_> = folder.read_dir().unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(files, ["meta.redb"]);
}

#[tokio::test]
async fn a_file_of_something_else_is_named() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("io.containerd.metadata.v1.redb");
    std::fs::create_dir(&folder).unwrap();
    let file = folder.join("meta.redb");
    std::fs::write(&file, "not a database".repeat(1000)).unwrap();
    let error = Db::open(root.path()).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::DataLoss, "{error:?}");
    assert!(error.report().to_string().contains(&file.display().to_string()), "{error:?}");
}

#[tokio::test]
async fn a_database_of_a_newer_program_is_left_alone() {
    let disk = Disk::default();
    let db = disk.open().unwrap();
    let newer = (super::schema::VERSION + 1).to_le_bytes();
    db.write(move |c| c.put_bytes(super::schema::META, &key("version"), &newer)).await.unwrap();
    db.shutdown().await;
    assert_eq!(disk.open().err().unwrap().kind(), ErrorKind::FailedPrecondition);
}

#[tokio::test]
async fn a_database_of_an_older_program_is_brought_up_to_date() {
    let disk = Disk::default();
    let db = disk.open().unwrap();
    let old = 1_u64.to_le_bytes();
    db.write(move |c| c.put_bytes(super::schema::META, &key("version"), &old)).await.unwrap();
    db.shutdown().await;
    let db = disk.open().unwrap();
    let version = db.read(|db| db.get_bytes(super::schema::META, &key("version"))).await.unwrap();
    assert_eq!(version.unwrap(), super::schema::VERSION.to_le_bytes());
}

/// Writers race, and the disk loses power after each number of operations in
/// turn. Whatever was answered must be there afterwards, and changes of two
/// records must be whole.
#[tokio::test]
async fn answered_writes_survive_a_loss_of_power_at_any_operation() {
    let total = {
        let disk = Disk::default();
        race(&disk.open().unwrap()).await;
        disk.operations()
    };
    for operations in 0..total {
        let disk = Disk::default();
        disk.open().unwrap().shutdown().await;
        disk.power_off_after(operations);
        let answered = match disk.open() {
            Ok(db) => race(&db).await,
            Err(_) => Vec::new(),
        };
        for seed in 0..2 {
            let mut random = Random::new(operations * 2 + seed);
            let survivor = disk.after_power_loss(&mut random);
            check_survivor(&survivor, &answered).await.unwrap_or_else(|e| {
                panic!("power off after {operations} operations, seed {seed}: {e:?}")
            });
        }
    }
}

/// Three writers make pairs of records; answers the names of those that were
/// reported durable.
async fn race(db: &Db) -> Vec<String> {
    let writers = (0..3).map(|writer| {
        let db = db.clone();
        tokio::spawn(async move {
            let mut answered = Vec::new();
            for i in 0..3 {
                let name = format!("w{writer}-{i}");
                let pair = key(&name);
                let made = db.write(move |change| {
                    change.put_bytes(NAMESPACES, &pair, &[b'x'; 700])?;
                    change.put_bytes(CONTAINERS, &pair, &[b'y'; 3000])
                });
                if made.await.is_ok() {
                    answered.push(name);
                }
            }
            answered
        })
    });
    let mut answered = Vec::new();
    for writer in writers.collect::<Vec<_>>() {
        answered.extend(writer.await.unwrap());
    }
    answered
}

async fn check_survivor(disk: &Disk, answered: &[String]) -> Result<()> {
    let db = disk.open()?;
    let (namespaces, containers) = db
        .read(|db| {
            let (mut namespaces, mut containers) = (Vec::new(), Vec::new());
            for (table, found) in [(NAMESPACES, &mut namespaces), (CONTAINERS, &mut containers)] {
                db.scan(table, &Key::new(&[])?, |key, _| {
                    found.push(super::last_part(key)?.to_owned());
                    Ok(std::ops::ControlFlow::Continue(()))
                })?;
            }
            Ok((namespaces, containers))
        })
        .await?;
    assert_eq!(namespaces, containers);
    for name in answered {
        assert!(namespaces.contains(name), "{name} was answered and is lost");
    }
    db.write(put("it goes on")).await?;
    db.shutdown().await;
    Ok(())
}

/// Queues `changes` while a commit is on its way, so that they are one group,
/// and answers what became of them.
async fn together<F>(disk: &Disk, db: &Db, changes: impl FnOnce() -> Vec<F>) -> Vec<Result<()>>
where
    F: FnOnce(&mut Change<'_>) -> Result<()> + Send + 'static,
{
    disk.hold(true);
    db.submit(put("ahead"), |outcome| outcome.unwrap()).await.unwrap();
    until_held(disk).await;
    let mut answers = Vec::new();
    for change in changes() {
        let (done, answered) = oneshot::channel();
        db.submit(change, |outcome| drop(done.send(outcome))).await.unwrap();
        answers.push(answered);
    }
    disk.hold(false);
    let mut outcomes = Vec::new();
    for answer in answers {
        outcomes.push(answer.await.unwrap());
    }
    outcomes
}

async fn until_held(disk: &Disk) {
    let disk = disk.clone();
    tokio::task::spawn_blocking(move || disk.until_held()).await.unwrap();
}
