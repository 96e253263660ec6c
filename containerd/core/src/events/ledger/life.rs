//! One task, from its create to its delete, and the tombstones of the tasks
//! that had its id before.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::{
    Timestamp, Verdict,
    exec::Execs,
    step::{Ended, Step, same_pid, same_sending},
};

/// Timestamps of repeatable events that are remembered.
const REPEATABLE: usize = 16;

/// How far the announcements of init have come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
enum Phase {
    /// Only an exec was heard of.
    #[default]
    Unseen,
    Created,
    Started,
    Exited,
    Deleted,
}

/// A task that is not deleted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(in crate::events) struct Life {
    /// Pid of init; 0 if not known.
    pid: u32,
    phase: Phase,
    created: Option<Timestamp>,
    exit: Option<Ended>,
    repeatable: VecDeque<Timestamp>,
}

/// What is remembered of a task that was deleted.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(in crate::events) struct Tombstone {
    pub pid: u32,
    created: Option<Timestamp>,
}

/// All that is known of one container id.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Entry {
    pub life: Option<Life>,
    /// Tasks that were deleted, oldest first.
    pub dead: VecDeque<Tombstone>,
    /// Of the task that lives, and late ones of the deleted.
    pub execs: Execs,
}

impl Entry {
    /// May `step` be announced, and what must be announced before?
    pub(super) fn judge(&self, step: &Step, sent: Option<Timestamp>, now: Timestamp) -> Verdict {
        let (phase, pid) = match step {
            Step::Create { pid } => (Phase::Created, *pid),
            Step::Start { pid } => (Phase::Started, *pid),
            Step::Exit(ended) => (Phase::Exited, ended.pid),
            Step::Delete(ended) => (Phase::Deleted, ended.pid),
            _ => return self.judge_other(step, sent, now),
        };
        let known = self.life.as_ref().is_some_and(|life| life.pid == pid || pid == 0);
        if !known && self.dead.iter().any(|dead| dead.covers(step, pid, sent)) {
            return Verdict::Drop;
        }
        let Some(life) = &self.life else {
            return Verdict::Announce(self.missing(&Life::default(), step, phase, now));
        };
        // A second init under one id: the delete of the first was lost. As long
        // as the first has not ended, it is more likely that a shim does not
        // stick to one pid, and an exit must not be lost.
        let replaced = !same_pid(life.pid, pid)
            && match phase {
                Phase::Created => true,
                Phase::Started => life.phase >= Phase::Started,
                _ => life.exit.is_some_and(|exit| !same_pid(exit.pid, pid)),
            };
        if replaced {
            let mut before = self.close(now);
            before.extend(self.missing(&Life::default(), step, phase, now));
            return Verdict::Announce(before);
        }
        if life.phase >= phase {
            return Verdict::Drop;
        }
        Verdict::Announce(self.missing(life, step, phase, now))
    }

    /// Execs and repeatable events. They do not say which init they belong to,
    /// so between two tasks of one id they can only be the former's, resent.
    fn judge_other(&self, step: &Step, sent: Option<Timestamp>, now: Timestamp) -> Verdict {
        if self.life.is_none() && !self.dead.is_empty() {
            return Verdict::Drop;
        }
        match step {
            Step::ExecAdded { exec } => self.execs.judge_added(exec, sent),
            Step::ExecStarted { exec, pid } => self.execs.judge_started(exec, *pid, sent, now),
            Step::ExecExit { exec, ended } => self.execs.judge_exit(exec, *ended, now),
            Step::ExecDelete { exec, ended } => self.execs.judge_delete(exec, *ended, now),
            _ => {
                let seen = |life: &Life| sent.is_some_and(|sent| life.repeatable.contains(&sent));
                if self.life.as_ref().is_some_and(seen) {
                    return Verdict::Drop;
                }
                Verdict::Announce(Vec::new())
            }
        }
    }

    /// Remembers that `step` was announced. A delete leaves a tombstone, which
    /// is returned too.
    pub(super) fn apply(&mut self, step: &Step, sent: Option<Timestamp>) -> Option<Tombstone> {
        if let Step::Delete(ended) = step {
            let life = self.life.take().unwrap_or_default();
            self.execs.end_all();
            let pid = if life.pid == 0 { ended.pid } else { life.pid };
            let tombstone = Tombstone { pid, created: life.created };
            self.dead.push_back(tombstone);
            return Some(tombstone);
        }
        let life = self.life.get_or_insert_default();
        match step {
            Step::ExecAdded { exec } => self.execs.add(exec, sent),
            Step::ExecStarted { exec, pid } => self.execs.start(exec, *pid, sent),
            Step::ExecExit { exec, ended } => self.execs.end(exec, *ended),
            Step::ExecDelete { exec, ended } => self.execs.delete(exec, *ended),
            _ => life.apply(step, sent),
        }
        None
    }

    /// What has to be announced before `step`, which leads `life` to `target`.
    fn missing(&self, life: &Life, step: &Step, target: Phase, now: Timestamp) -> Vec<Step> {
        let pid = match step {
            Step::Create { pid } | Step::Start { pid } if *pid != 0 => *pid,
            Step::Exit(ended) | Step::Delete(ended) if ended.pid != 0 => ended.pid,
            _ => life.pid,
        };
        let between = |phase| life.phase < phase && phase < target;
        let mut steps = Vec::new();
        if between(Phase::Created) {
            steps.push(Step::Create { pid });
        }
        if between(Phase::Started) {
            steps.push(Step::Start { pid });
        }
        if target == Phase::Deleted {
            steps.extend(self.execs.exits(now));
        }
        if let Step::Delete(ended) = step
            && between(Phase::Exited)
        {
            steps.push(Step::Exit(Ended { pid, ..ended.or_unknown(now) }));
        }
        steps
    }

    /// All that is missing until the task that lives is deleted, and that.
    pub(super) fn close(&self, now: Timestamp) -> Vec<Step> {
        let Some(life) = &self.life else { return Vec::new() };
        let ended = life.exit.unwrap_or(Ended::unknown(life.pid, now));
        let delete = Step::Delete(ended);
        let mut steps = self.missing(life, &delete, Phase::Deleted, now);
        steps.push(delete);
        steps
    }

    /// Forgets the oldest tombstone with this pid.
    pub(super) fn forget(&mut self, pid: u32) {
        if let Some(place) = self.dead.iter().position(|dead| dead.pid == pid) {
            self.dead.remove(place);
        }
    }
}

impl Life {
    /// Pid of init; 0 if not known.
    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    fn apply(&mut self, step: &Step, sent: Option<Timestamp>) {
        match step {
            Step::Create { pid } => {
                (self.pid, self.phase, self.created) = (*pid, Phase::Created, sent);
            }
            Step::Start { pid } => {
                self.pid = if *pid == 0 { self.pid } else { *pid };
                self.phase = Phase::Started;
            }
            Step::Exit(ended) => {
                self.exit = Some(*ended);
                self.phase = Phase::Exited;
            }
            Step::Repeatable => {
                self.repeatable.extend(sent);
                if self.repeatable.len() > REPEATABLE {
                    self.repeatable.pop_front();
                }
            }
            // Those are the entry's; see `Entry::apply`.
            Step::Delete(_)
            | Step::ExecAdded { .. }
            | Step::ExecStarted { .. }
            | Step::ExecExit { .. }
            | Step::ExecDelete { .. } => {}
        }
    }
}

impl Tombstone {
    /// Is `step` a late one of this task? A create that was sent at another
    /// time is of a new task, to which the kernel gave the same pid.
    fn covers(&self, step: &Step, pid: u32, sent: Option<Timestamp>) -> bool {
        let again = matches!(step, Step::Create { .. }) && !same_sending(self.created, sent);
        // A tombstone without a pid would cover every task to come.
        (self.pid == pid || pid == 0) && !again
    }
}
