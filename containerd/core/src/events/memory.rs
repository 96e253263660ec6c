//! What the exchange remembers, in memory and on disk, always the two together.

use std::{path::Path, sync::Arc};

use shim_protocol::{Id, Result};
use tracing::{debug, error, info};

use super::{
    Envelope, Timestamp,
    history::{History, Limits},
    journal::{Journal, Record},
    ledger::{self, Key, Ledger, Step, Verdict},
    translate,
};

/// What is kept in memory for subscribers that lag or come back. It has to
/// cover a client's reconnect while tasks start and end by the hundred.
const HISTORY: Limits = Limits { events: 4096, bytes: 2 << 20 };

/// The journal is compacted when it is longer than this, in bytes, and at
/// least twice as long as after the last time.
const COMPACT_AT: u64 = 8 << 20;

/// History, ledger and journal.
pub(super) struct Memory {
    pub history: History,
    ledger: Ledger,
    /// Tasks that were not deleted when the daemon before ended.
    inherited: Vec<(Key, u32)>,
    journal: Journal,
    compact_at: u64,
    /// The journal misses events that are in memory, because it failed.
    behind: bool,
}

/// The task that an event is about, and what it says of it.
pub(super) struct Subject {
    container: Id,
    step: Step,
}

/// An event that is about to be announced.
struct Announcement {
    envelope: Envelope,
    /// The sender's timestamp.
    sent: Option<Timestamp>,
    step: Option<(Key, Step)>,
}

impl Subject {
    /// The subject of an event, if it is one in the life of a task.
    pub(super) fn of(envelope: &Envelope) -> Option<Self> {
        let (container, step) = translate::step(&envelope.topic, &envelope.event)?;
        Some(Self { container, step })
    }
}

impl Memory {
    /// Reads what an earlier daemon left in `folder`, and compacts it if there
    /// is room for that.
    ///
    /// # Errors
    /// When the journal cannot be read, or one cannot be started.
    pub(super) fn open(folder: &Path) -> Result<Self> {
        let (mut history, mut ledger) = (History::new(HISTORY), Ledger::default());
        let journal = Journal::open(folder, |record| match record {
            Record::New { envelope, sent } => {
                if let Some(Subject { container, step }) = Subject::of(&envelope) {
                    ledger.apply(&ledger::key(&envelope.namespace, &container), &step, sent);
                }
                history.push(envelope);
            }
            Record::Old(envelope) => history.push(envelope),
            Record::Page(page) => ledger.restore(page),
            Record::Floor(floor) => history.set_floor(floor),
        })?;
        let inherited = ledger.live().map(|(key, pid)| (key.to_owned(), pid)).collect();
        let mut memory = Self { history, ledger, inherited, journal, compact_at: 0, behind: false };
        memory.compact_if_long();
        Ok(memory)
    }

    /// Announces an event, unless it was announced before, and what is missing
    /// before it. `sent` is the sender's timestamp.
    ///
    /// A journal that cannot be written to does not keep the event from those
    /// who listen now: it is told to them, and is written by
    /// [`Self::catch_up`]. Nor is the sender asked to keep it: shims send one
    /// event after the other, so that would hold back all that follow.
    pub(super) fn announce(
        &mut self,
        envelope: Envelope,
        subject: Option<Subject>,
        sent: Option<Timestamp>,
    ) {
        let Some(Subject { container, step }) = subject else {
            return self.commit(vec![Announcement { envelope, sent, step: None }]);
        };
        let key = ledger::key(&envelope.namespace, &container);
        let Verdict::Announce(missing) = self.ledger.judge(&key, &step, sent, Timestamp::now())
        else {
            debug!(topic = envelope.topic, key, "event was announced before, dropped");
            return;
        };
        let mut all = made_up(&envelope.namespace, &container, missing);
        all.push(Announcement { envelope, sent, step: Some((key, step)) });
        self.commit(all);
    }

    /// Announces the end of each task that the daemon before has left and for
    /// which `exists` says no; answers how many there were.
    pub(super) fn close_inherited(&mut self, exists: impl Fn(&Id, &Id) -> bool) -> usize {
        let mut closed = 0;
        for (key, pid) in std::mem::take(&mut self.inherited) {
            let Some((namespace, container)) = ledger::split(&key) else { continue };
            if self.ledger.lives(&key, pid) && !exists(&namespace, &container) {
                self.close(&namespace, &container);
                closed += 1;
            }
        }
        closed
    }

    /// Announces the end of a task, unless it was, or its beginning was not.
    pub(super) fn close(&mut self, namespace: &Id, container: &Id) {
        let steps = self.ledger.close(&ledger::key(namespace, container), Timestamp::now());
        if !steps.is_empty() {
            self.commit(made_up(namespace, container, steps));
        }
    }

    fn commit(&mut self, mut all: Vec<Announcement>) {
        let mut timestamp = Timestamp::now().max(self.history.last().next());
        for announcement in &mut all {
            announcement.envelope.timestamp = timestamp;
            timestamp = timestamp.next();
        }
        let (mut records, mut steps) = (Vec::with_capacity(all.len()), Vec::new());
        for Announcement { envelope, sent, step } in all {
            records.push(Record::New { envelope: Arc::new(envelope), sent });
            steps.extend(step.map(|(key, step)| (key, step, sent)));
        }
        if !self.behind
            && let Err(e) = self.journal.append(&records)
        {
            error!(error = %e.report(), "events are not kept across a restart now");
            self.behind = true;
        }
        for (key, step, sent) in steps {
            self.ledger.apply(&key, &step, sent);
        }
        for record in records {
            if let Record::New { envelope, .. } = record {
                self.history.push(envelope);
            }
        }
        if !self.behind {
            self.compact_if_long();
        }
    }

    /// Does the journal miss events?
    pub(super) fn is_behind(&self) -> bool {
        self.behind
    }

    /// Writes the events that the journal misses, if that can be done now, and
    /// with them all that is in memory: nothing newer comes before them.
    pub(super) fn catch_up(&mut self) {
        if !self.behind {
            return;
        }
        match self.compact() {
            Ok(()) => {
                info!("events are kept across a restart again");
                self.behind = false;
            }
            Err(e) => debug!(error = %e.report(), "the event journal still fails"),
        }
    }

    #[cfg(test)]
    pub(super) fn break_journal(&mut self) {
        self.journal.break_file();
    }

    /// The journal stays good if it fails, only long.
    fn compact_if_long(&mut self) {
        if self.journal.length() > self.compact_at
            && let Err(e) = self.compact()
        {
            error!(error = %e.report(), "the event journal cannot be compacted");
            self.compact_at = self.journal.length() + COMPACT_AT;
        }
    }

    /// Writes all that is in memory, and nothing else, into the journal.
    fn compact(&mut self) -> Result<()> {
        let floor = Record::Floor(self.history.floor());
        let events = self.history.iter().map(|envelope| Record::Old(envelope.clone()));
        let pages = self.ledger.pages().map(Record::Page);
        self.journal.replace([floor].into_iter().chain(events).chain(pages))?;
        self.compact_at = COMPACT_AT.max(2 * self.journal.length());
        Ok(())
    }
}

/// Events that no shim has sent.
fn made_up(namespace: &Id, container: &Id, steps: Vec<Step>) -> Vec<Announcement> {
    let announce = |step: Step| {
        let (topic, event) = translate::message(container, &step)?;
        let envelope = Envelope {
            timestamp: Timestamp::ZERO,
            namespace: namespace.clone(),
            topic: topic.to_owned(),
            event,
        };
        let step = Some((ledger::key(namespace, container), step));
        Some(Announcement { envelope, sent: None, step })
    };
    steps.into_iter().filter_map(announce).collect()
}
