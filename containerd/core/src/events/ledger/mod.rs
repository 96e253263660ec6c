//! What was announced of each process, and what may be announced next.
//!
//! ```text
//! init of a task:  unseen → created → started → exited → deleted (tombstone)
//! exec:                      added  → started → exited (tombstone)
//! ```
//!
//! Each process goes through its states once and leaves none out: an event
//! that was announced before is dropped, and what is missing before an event
//! is announced first. So a subscriber sees the order and exactly one exit,
//! although shims resend what they believe lost (Go's out of order, ours after
//! a restart of either side), give up on events, or die.
//!
//! A container's id may be used again after a delete, and an exec's after its
//! exit. Lives under one id are told apart by pid; tombstones remember the pids
//! of the dead, so that a late event of an old life is not taken for one of
//! the new. Events without a pid are told apart by the sender's timestamp,
//! which a resend repeats.
//!
//! This module is the rules and the memory; it reads no clock and does no I/O.
//! Deciding ([`Ledger::judge`]) is apart from remembering ([`Ledger::apply`]):
//! the journal is written between the two, and replays the second.

mod exec;
mod life;
mod step;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};

use serde::{Deserialize, Serialize};
use shim_protocol::Id;

use self::{
    exec::Execs,
    life::{Entry, Life, Tombstone},
};
use super::Timestamp;

pub(super) use self::step::{Ended, Step};

/// Deleted tasks that are remembered, over all containers. Go's shims resend
/// for 15 seconds, ours what was not acknowledged when the daemon went away.
const TOMBSTONES: usize = 1024;

/// Container ids at most. Somebody who invents tasks must not use up the
/// memory.
const ENTRIES: usize = 1 << 16;

/// What to do with an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It was announced before, or belongs to a process that is long gone.
    Drop,
    /// Announce these steps, in this order, and then the event.
    Announce(Vec<Step>),
}

/// Which task: `<namespace>/<container id>`. Neither has a `/`.
pub(super) type Key = String;

/// The key of a task.
pub(super) fn key(namespace: &Id, container: &Id) -> Key {
    format!("{namespace}/{container}")
}

/// The task of a key.
pub(super) fn split(key: &str) -> Option<(Id, Id)> {
    let (namespace, container) = key.split_once('/')?;
    Some((Id::new("namespace", namespace).ok()?, Id::new("container id", container).ok()?))
}

/// The memory of what was announced.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    entries: HashMap<Key, Entry>,
    /// Whose tombstones there are, with the pid, oldest first.
    burials: VecDeque<(Key, u32)>,
}

/// One part of what the ledger remembers, to be kept on disk.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Page {
    /// A task that is not deleted.
    Life(Key, Life),
    /// One that is.
    Tombstone(Key, Tombstone),
    /// The execs of both.
    Execs(Key, Execs),
}

impl Ledger {
    /// May `step` of the task `key` be announced, and what must be announced
    /// before? `sent` is the sender's timestamp, `now` serves for the end of a
    /// process of which nobody says when it ended.
    pub(super) fn judge(
        &self,
        key: &str,
        step: &Step,
        sent: Option<Timestamp>,
        now: Timestamp,
    ) -> Verdict {
        match self.entries.get(key) {
            Some(entry) => entry.judge(step, sent, now),
            None => Entry::default().judge(step, sent, now),
        }
    }

    /// Remembers that `step` was announced.
    pub(super) fn apply(&mut self, key: &str, step: &Step, sent: Option<Timestamp>) {
        if !self.entries.contains_key(key) {
            if *step == Step::Repeatable {
                return;
            }
            self.make_room();
            self.entries.insert(key.to_owned(), Entry::default());
        }
        let Some(entry) = self.entries.get_mut(key) else { return };
        if let Some(tombstone) = entry.apply(step, sent) {
            self.burials.push_back((key.to_owned(), tombstone.pid));
        }
        self.trim();
    }

    /// The tasks that are not deleted, with the pids of their init processes.
    pub(super) fn live(&self) -> impl Iterator<Item = (&str, u32)> {
        let pid = |entry: &Entry| entry.life.as_ref().map(Life::pid);
        self.entries.iter().filter_map(move |(key, entry)| Some((key.as_str(), pid(entry)?)))
    }

    /// Is this one still not deleted?
    pub(super) fn lives(&self, key: &str, pid: u32) -> bool {
        let life = self.entries.get(key).and_then(|entry| entry.life.as_ref());
        life.is_some_and(|life| life.pid() == pid)
    }

    /// All that is missing until the task `key` is deleted, and the delete.
    pub(super) fn close(&self, key: &str, now: Timestamp) -> Vec<Step> {
        self.entries.get(key).map(|entry| entry.close(now)).unwrap_or_default()
    }

    /// All that it remembers, for [`Self::restore`].
    pub(super) fn pages(&self) -> impl Iterator<Item = Page> {
        let lives = self.entries.iter().filter_map(|(key, entry)| {
            entry.life.as_ref().map(|life| Page::Life(key.clone(), life.clone()))
        });
        let tombstones = self.burials.iter().filter_map(|(key, pid)| {
            let dead = self.entries.get(key)?.dead.iter().find(|dead| dead.pid == *pid)?;
            Some(Page::Tombstone(key.clone(), *dead))
        });
        let execs = self.entries.iter().filter(|(_, entry)| !entry.execs.is_empty());
        let execs = execs.map(|(key, entry)| Page::Execs(key.clone(), entry.execs.clone()));
        lives.chain(tombstones).chain(execs)
    }

    /// Takes back a page of what was remembered.
    pub(super) fn restore(&mut self, page: Page) {
        match page {
            Page::Life(key, life) => self.entries.entry(key).or_default().life = Some(life),
            Page::Execs(key, execs) => self.entries.entry(key).or_default().execs = execs,
            Page::Tombstone(key, tombstone) => {
                self.entries.entry(key.clone()).or_default().dead.push_back(tombstone);
                self.burials.push_back((key, tombstone.pid));
            }
        }
    }

    fn trim(&mut self) {
        while self.burials.len() > TOMBSTONES {
            let Some((key, pid)) = self.burials.pop_front() else { break };
            if let Some(entry) = self.entries.get_mut(&key) {
                entry.forget(pid);
                if entry.life.is_none() && entry.dead.is_empty() {
                    self.entries.remove(&key);
                }
            }
        }
    }

    /// Which one goes does not matter: nobody has that many tasks.
    fn make_room(&mut self) {
        if self.entries.len() >= ENTRIES
            && let Some(key) = self.entries.keys().next().cloned()
        {
            self.entries.remove(&key);
            self.burials.retain(|(buried, _)| *buried != key);
        }
    }
}
