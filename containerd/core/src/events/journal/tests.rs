use std::{sync::Arc, thread};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};
use runtime_v2::Any;
use shim_protocol::Id;

use super::*;
use crate::events::{
    Envelope, Timestamp,
    ledger::{Ledger, Step},
};

fn event(number: u64) -> Record {
    let envelope = Envelope {
        timestamp: Timestamp::from_nanos(number),
        namespace: Id::new("namespace", "default").unwrap(),
        topic: "/tasks/exit".into(),
        event: Any { type_url: "x.Y".into(), value: vec![7; usize::try_from(number).unwrap() * 3] },
    };
    Record::New { envelope: Arc::new(envelope), sent: Some(Timestamp::from_nanos(number + 1)) }
}

fn read(folder: &Path) -> (Journal, Vec<Record>) {
    let mut records = Vec::new();
    let journal = Journal::open(folder, |record| records.push(record)).unwrap();
    (journal, records)
}

#[test]
fn what_was_appended_is_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let (mut journal, records) = read(folder.path());
    assert_eq!(records, []);
    journal.append(&[event(1), event(2)]).unwrap();
    journal.append(&[event(3)]).unwrap();
    let (mut journal, records) = read(folder.path());
    assert_eq!(records, [event(1), event(2), event(3)]);
    journal.append(&[event(4)]).unwrap();
    assert_eq!(read(folder.path()).1, [event(1), event(2), event(3), event(4)]);
}

#[test]
fn a_compacted_journal_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let (mut journal, _) = read(folder.path());
    journal.append(&[event(1), event(2)]).unwrap();
    let Record::New { envelope, .. } = event(2) else { unreachable!() };
    let mut ledger = Ledger::default();
    ledger.apply("n/c", &Step::Create { pid: 1 }, None);
    let compacted = || {
        let pages = ledger.pages().map(Record::Page);
        [Record::Old(envelope.clone())].into_iter().chain(pages)
    };
    journal.replace(compacted()).unwrap();
    journal.append(&[event(3)]).unwrap();
    let length = journal.length();
    let (journal, records) = read(folder.path());
    assert_eq!(journal.length(), length);
    assert_eq!(records, compacted().chain([event(3)]).collect::<Vec<_>>());
    assert!(!folder.path().join("aside").exists());
}

/// Cut at every byte of three records, the journal has the whole ones and
/// goes on from there.
#[test]
fn a_torn_end_is_cut_off_wherever_it_is_torn() {
    let folder = tempfile::tempdir().unwrap();
    let mut ends = vec![read(folder.path()).0.length()];
    let mut journal = read(folder.path()).0;
    for number in 1..=3 {
        journal.append(&[event(number)]).unwrap();
        ends.push(journal.length());
    }
    drop(journal);
    let path = folder.path().join("journal");
    let whole = fs::read(&path).unwrap();
    for cut in 0..=whole.len() {
        fs::write(&path, &whole[..cut]).unwrap();
        let kept = ends.iter().filter(|end| **end <= cut as u64).count().saturating_sub(1);
        let (mut journal, records) = read(folder.path());
        assert_eq!(records.len(), kept, "cut at {cut}");
        journal.append(&[event(9)]).unwrap();
        let (_, records) = read(folder.path());
        assert_eq!(records.len(), kept + 1, "cut at {cut}, then appended");
        assert_eq!(records.last(), Some(&event(9)));
    }
}

/// The same for a flipped bit anywhere in the last record.
#[test]
fn a_corrupt_end_is_cut_off_wherever_it_is_corrupt() {
    let folder = tempfile::tempdir().unwrap();
    let (mut journal, _) = read(folder.path());
    journal.append(&[event(1)]).unwrap();
    let good = usize::try_from(journal.length()).unwrap();
    journal.append(&[event(2)]).unwrap();
    drop(journal);
    let path = folder.path().join("journal");
    let whole = fs::read(&path).unwrap();
    for place in good..whole.len() {
        for bit in [1, 128] {
            let mut corrupt = whole.clone();
            corrupt[place] ^= bit;
            fs::write(&path, &corrupt).unwrap();
            let (mut journal, records) = read(folder.path());
            assert_eq!(records, [event(1)], "bit {bit} at {place}");
            journal.append(&[event(3)]).unwrap();
            assert_eq!(read(folder.path()).1, [event(1), event(3)]);
        }
    }
}

#[test]
fn garbage_is_replaced_by_an_empty_journal() {
    let folder = tempfile::tempdir().unwrap();
    for garbage in [&b"x"[..], b"not a journal at all", &[0; 4096], &MAGIC[..7]] {
        fs::write(folder.path().join("journal"), garbage).unwrap();
        let (mut journal, records) = read(folder.path());
        assert_eq!(records, []);
        journal.append(&[event(1)]).unwrap();
        assert_eq!(read(folder.path()).1, [event(1)]);
    }
}

#[test]
fn an_event_that_is_too_big_leaves_the_journal_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let (mut journal, _) = read(folder.path());
    let Record::New { envelope, sent } = event(1) else { unreachable!() };
    let value = vec![0; record::MAX_BODY];
    let event_ = Any { type_url: String::new(), value };
    let big =
        Record::New { envelope: Arc::new(Envelope { event: event_, ..(*envelope).clone() }), sent };
    assert!(journal.append(&[event(1), big]).is_err());
    journal.append(&[event(2)]).unwrap();
    assert_eq!(read(folder.path()).1, [event(2)]);
}

/// Needs root, for a disk that is small.
#[test]
fn a_full_disk_has_room_for_the_next_events() {
    if !nix::unistd::geteuid().is_root() {
        return println!("skipped: not root");
    }
    // A thread can have mounts of its own, which end with it.
    thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        let folder = tempfile::tempdir().unwrap();
        mount(none, folder.path(), Some("tmpfs"), MsFlags::empty(), Some("size=1m")).unwrap();
        let (mut journal, _) = read(folder.path());
        let filler = folder.path().join("filler");
        fs::write(&filler, vec![1; 1 << 20]).unwrap_err();

        let mut written = 0;
        while journal.append(&[event(100)]).is_ok() {
            written += 1;
        }
        assert!(written > 500, "{written} events");
        assert_eq!(read(folder.path()).1.len(), written, "and nothing of the last");
        assert!(journal.replace([event(1)]).is_err());
        fs::remove_file(filler).unwrap();
        journal.append(&[event(2)]).unwrap();
        assert_eq!(read(folder.path()).1.last(), Some(&event(2)));
        journal.replace([event(1)]).unwrap();
        assert_eq!(read(folder.path()).1, [event(1)]);
        nix::mount::umount2(folder.path(), nix::mount::MntFlags::MNT_DETACH).unwrap();
    })
    .join()
    .unwrap();
}
