//! The execs of one container id.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::{
    Timestamp, Verdict,
    step::{Ended, Step, same_pid, same_sending},
};

/// Exited execs that are remembered while their task lives. Health checks run
/// execs for as long as that.
const TOMBSTONES: usize = 512;

/// Exited execs that are remembered of a task that was deleted.
const LATE: usize = 32;

/// Execs that live, and the latest ones that have exited.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(in crate::events) struct Execs {
    live: Vec<Exec>,
    dead: VecDeque<Tombstone>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Exec {
    id: String,
    /// Once it was announced as started.
    pid: Option<u32>,
    /// When the events were sent.
    added: Option<Timestamp>,
    started: Option<Timestamp>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Tombstone {
    id: String,
    pid: u32,
    /// When it ended.
    at: Timestamp,
    added: Option<Timestamp>,
    started: Option<Timestamp>,
    deleted: bool,
}

impl Execs {
    /// `/tasks/exec-added`. After the exit of one with this id it is either
    /// late or of a new one.
    pub(super) fn judge_added(&self, id: &str, sent: Option<Timestamp>) -> Verdict {
        let mut dead = self.dead.iter().rev().filter(|dead| dead.id == id);
        let late = match dead.next() {
            Some(last) if same_sending(last.added, sent) => true,
            _ => dead.any(|dead| dead.added.is_some() && dead.added == sent),
        };
        if late || self.find(id).is_some() {
            return Verdict::Drop;
        }
        Verdict::Announce(Vec::new())
    }

    /// `/tasks/exec-started`.
    pub(super) fn judge_started(
        &self,
        id: &str,
        pid: u32,
        sent: Option<Timestamp>,
        now: Timestamp,
    ) -> Verdict {
        let mut dead = self.dead.iter().filter(|dead| dead.is(id, pid));
        match self.find(id).map(|exec| exec.pid) {
            // The id is in use again, and the kernel may give a pid again.
            Some(None) if dead.any(|dead| same_sending(dead.started, sent)) => Verdict::Drop,
            Some(None) => Verdict::Announce(Vec::new()),
            Some(Some(known)) if same_pid(known, pid) => Verdict::Drop,
            _ if dead.next().is_some() => Verdict::Drop,
            known => Verdict::Announce(replace(id, known.flatten(), now)),
        }
    }

    /// `/tasks/exit` of an exec.
    pub(super) fn judge_exit(&self, id: &str, ended: Ended, now: Timestamp) -> Verdict {
        let mut dead = self.dead.iter().filter(|dead| dead.is(id, ended.pid));
        let mut before = match self.find(id).map(|exec| exec.pid) {
            Some(Some(known)) if same_pid(known, ended.pid) => {
                return Verdict::Announce(Vec::new());
            }
            // As above; but it did not end at the same time.
            Some(None) if dead.any(|dead| dead.at == ended.at) => return Verdict::Drop,
            Some(None) => Vec::new(),
            _ if dead.next().is_some() => return Verdict::Drop,
            known => replace(id, known.flatten(), now),
        };
        before.push(Step::ExecStarted { exec: id.to_owned(), pid: ended.pid });
        Verdict::Announce(before)
    }

    /// `/tasks/delete` of an exec.
    pub(super) fn judge_delete(&self, id: &str, ended: Ended, now: Timestamp) -> Verdict {
        match self.find(id).map(|exec| exec.pid) {
            Some(Some(pid)) => {
                let ended = Ended { pid, ..ended.or_unknown(now) };
                Verdict::Announce(vec![Step::ExecExit { exec: id.to_owned(), ended }])
            }
            Some(None) => Verdict::Announce(Vec::new()),
            None if self.dead.iter().any(|dead| dead.is(id, ended.pid) && !dead.deleted) => {
                Verdict::Announce(Vec::new())
            }
            None => Verdict::Drop,
        }
    }

    /// Exits of all that run, for a task that is gone.
    pub(super) fn exits(&self, now: Timestamp) -> impl Iterator<Item = Step> {
        self.live.iter().filter_map(move |exec| {
            let ended = Ended::unknown(exec.pid?, now);
            Some(Step::ExecExit { exec: exec.id.clone(), ended })
        })
    }

    pub(super) fn add(&mut self, id: &str, sent: Option<Timestamp>) {
        self.live.push(Exec { id: id.to_owned(), pid: None, added: sent, started: None });
    }

    pub(super) fn start(&mut self, id: &str, pid: u32, sent: Option<Timestamp>) {
        if self.find(id).is_none() {
            self.add(id, None);
        }
        if let Some(exec) = self.live.iter_mut().find(|exec| exec.id == id) {
            (exec.pid, exec.started) = (Some(pid), sent);
        }
    }

    pub(super) fn end(&mut self, id: &str, ended: Ended) {
        let place = self.live.iter().position(|exec| exec.id == id);
        let exec = place.map(|place| self.live.swap_remove(place));
        let (added, started) = exec.map_or((None, None), |exec| (exec.added, exec.started));
        let Ended { pid, at, .. } = ended;
        self.dead.push_back(Tombstone {
            id: id.to_owned(),
            pid,
            at,
            added,
            started,
            deleted: false,
        });
        if self.dead.len() > TOMBSTONES {
            self.dead.pop_front();
        }
    }

    pub(super) fn delete(&mut self, id: &str, ended: Ended) {
        if let Some(dead) = self.dead.iter_mut().rev().find(|dead| dead.is(id, ended.pid)) {
            dead.deleted = true;
        }
        // One that was never started has no exit.
        self.live.retain(|exec| exec.id != id);
    }

    /// The task was deleted: none lives, and few late events can come.
    pub(super) fn end_all(&mut self) {
        self.live.clear();
        self.dead.drain(..self.dead.len().saturating_sub(LATE));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.live.is_empty() && self.dead.is_empty()
    }

    fn find(&self, id: &str) -> Option<&Exec> {
        self.live.iter().find(|exec| exec.id == id)
    }
}

/// An exec's id is used again: ends the process before, whose exit was lost if
/// it is still `known`, and adds the new one.
fn replace(id: &str, known: Option<u32>, now: Timestamp) -> Vec<Step> {
    let exit = |pid| Step::ExecExit { exec: id.to_owned(), ended: Ended::unknown(pid, now) };
    let added = Step::ExecAdded { exec: id.to_owned() };
    known.map(exit).into_iter().chain([added]).collect()
}

impl Tombstone {
    fn is(&self, id: &str, pid: u32) -> bool {
        // A tombstone without a pid would cover every exec to come.
        self.id == id && (self.pid == pid || pid == 0)
    }
}
