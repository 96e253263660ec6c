//! The events in the life of a task, reduced to what the rules need.

use serde::{Deserialize, Serialize};

use super::Timestamp;

/// Status of a process whose own is not known: as if killed by SIGKILL
/// (128 + 9), which is what containerd says of one whose shim is gone.
pub(in crate::events) const STATUS_UNKNOWN: u32 = 137;

/// One step in the life of a task or of one of its execs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::events) enum Step {
    /// `/tasks/create`.
    Create { pid: u32 },
    /// `/tasks/start`.
    Start { pid: u32 },
    /// `/tasks/exit` of init.
    Exit(Ended),
    /// `/tasks/delete` of init.
    Delete(Ended),
    /// `/tasks/exec-added`.
    ExecAdded { exec: String },
    /// `/tasks/exec-started`.
    ExecStarted { exec: String, pid: u32 },
    /// `/tasks/exit` of an exec.
    ExecExit { exec: String, ended: Ended },
    /// `/tasks/delete` of an exec.
    ExecDelete { exec: String, ended: Ended },
    /// What may happen many times: out of memory, paused, resumed, checkpointed.
    Repeatable,
}

/// A process that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::events) struct Ended {
    /// Its pid; 0 if not known.
    pub pid: u32,
    /// Exit code, or 128 plus the number of the signal that ended it.
    pub status: u32,
    /// When it ended; [`Timestamp::ZERO`] if not known.
    pub at: Timestamp,
}

impl Ended {
    /// A process that must have ended by `now`, nobody knows how.
    pub(super) fn unknown(pid: u32, now: Timestamp) -> Self {
        Self { pid, status: STATUS_UNKNOWN, at: now }
    }

    /// Itself, if it says when; otherwise the shim never saw the end.
    pub(super) fn or_unknown(self, now: Timestamp) -> Self {
        if self.at == Timestamp::ZERO { Self::unknown(self.pid, now) } else { self }
    }
}

/// Could both be the same process? A pid of 0 is one that is not known.
pub(super) fn same_pid(one: u32, other: u32) -> bool {
    one == other || one == 0 || other == 0
}

/// Could both be the same event, sent twice? A resend repeats the sender's
/// timestamp; an event that the exchange made up has none.
pub(super) fn same_sending(one: Option<Timestamp>, other: Option<Timestamp>) -> bool {
    one.zip(other).is_none_or(|(one, other)| one == other)
}
