//! Where one process is in its life, and which steps are allowed from there.

use shim_protocol::{Error, Result};

/// The states of a process and the way between them.
///
/// ```text
///  exec, restore: Prepared ─begin_start─▶ Starting ─started─▶ Running
///  init:          Created  ─begin_start─▶    │                │    ▲
///                    ▲ ▲                     │                │    │
///                    │ └────start_failed─────┘        begin_pause  resumed,
///                    └ (or back to Prepared)                  │    pause_failed
///                                                             ▼    │
///                                   Resuming ◀─begin_resume─ Paused ◀─paused─ Pausing
///                                        └────resume_failed────▲
///
///  Created, Running, Pausing, Paused, Resuming ──exited──▶ Stopped
///  Prepared, Stopped ──begin_delete──▶ Deleting ──delete_failed──▶ back
/// ```
///
/// There is no state after the deletion: the process is forgotten. A process
/// that ends while it is `Starting` is `Running` first, so that its start is
/// announced before its exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Described, but there is no process yet: an exec that was added, or the
    /// init of a container that is to be restored.
    Prepared,
    /// Init exists and waits to be started.
    Created,
    /// The OCI runtime has been asked to start it.
    Starting(Unstarted),
    /// It runs the user's program.
    Running,
    /// The OCI runtime has been asked to freeze the container.
    Pausing,
    /// The container is frozen.
    Paused,
    /// The OCI runtime has been asked to thaw the container.
    Resuming,
    /// It has ended, and its exit was announced.
    Stopped,
    /// What it leaves behind is being removed.
    Deleting(Lifeless),
}

/// Where a start comes from, should it have to be taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unstarted {
    /// [`State::Prepared`].
    Prepared,
    /// [`State::Created`].
    Created,
}

/// Where a deletion comes from, should it have to be taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifeless {
    /// [`State::Prepared`].
    Prepared,
    /// [`State::Stopped`].
    Stopped,
}

impl State {
    /// Starting begins.
    pub fn begin_start(self) -> Result<Self> {
        match self {
            Self::Prepared => Ok(Self::Starting(Unstarted::Prepared)),
            Self::Created => Ok(Self::Starting(Unstarted::Created)),
            _ => Err(self.refuse("start")),
        }
    }

    /// The user's program runs.
    pub fn started(self) -> Result<Self> {
        match self {
            Self::Starting(_) => Ok(Self::Running),
            _ => Err(self.refuse("finish the start of")),
        }
    }

    /// It could not be started, and may be tried again.
    pub fn start_failed(self) -> Result<Self> {
        match self {
            Self::Starting(Unstarted::Prepared) => Ok(Self::Prepared),
            Self::Starting(Unstarted::Created) => Ok(Self::Created),
            _ => Err(self.refuse("take back the start of")),
        }
    }

    /// Freezing begins.
    pub fn begin_pause(self) -> Result<Self> {
        match self {
            Self::Running => Ok(Self::Pausing),
            _ => Err(self.refuse("pause")),
        }
    }

    /// The container is frozen.
    pub fn paused(self) -> Result<Self> {
        match self {
            Self::Pausing => Ok(Self::Paused),
            _ => Err(self.refuse("finish the pause of")),
        }
    }

    /// It could not be frozen.
    pub fn pause_failed(self) -> Result<Self> {
        match self {
            Self::Pausing => Ok(Self::Running),
            _ => Err(self.refuse("take back the pause of")),
        }
    }

    /// Thawing begins.
    pub fn begin_resume(self) -> Result<Self> {
        match self {
            Self::Paused => Ok(Self::Resuming),
            _ => Err(self.refuse("resume")),
        }
    }

    /// The container runs again.
    pub fn resumed(self) -> Result<Self> {
        match self {
            Self::Resuming => Ok(Self::Running),
            _ => Err(self.refuse("finish the resumption of")),
        }
    }

    /// It could not be thawed.
    pub fn resume_failed(self) -> Result<Self> {
        match self {
            Self::Resuming => Ok(Self::Paused),
            _ => Err(self.refuse("take back the resumption of")),
        }
    }

    /// It has ended.
    pub fn exited(self) -> Result<Self> {
        match self {
            Self::Created | Self::Running | Self::Pausing | Self::Paused | Self::Resuming => {
                Ok(Self::Stopped)
            }
            Self::Prepared | Self::Starting(_) | Self::Stopped | Self::Deleting(_) => {
                Err(self.refuse("end"))
            }
        }
    }

    /// Removal begins.
    pub fn begin_delete(self) -> Result<Self> {
        match self {
            Self::Prepared => Ok(Self::Deleting(Lifeless::Prepared)),
            Self::Stopped => Ok(Self::Deleting(Lifeless::Stopped)),
            _ => Err(self.refuse("delete")),
        }
    }

    /// Removal failed, and may be tried again.
    pub fn delete_failed(self) -> Result<Self> {
        match self {
            Self::Deleting(Lifeless::Prepared) => Ok(Self::Prepared),
            Self::Deleting(Lifeless::Stopped) => Ok(Self::Stopped),
            _ => Err(self.refuse("take back the deletion of")),
        }
    }

    /// May be signalled.
    pub fn may_kill(self) -> Result<()> {
        match self {
            Self::Stopped | Self::Deleting(Lifeless::Stopped) => {
                Err(Error::not_found("process already finished"))
            }
            Self::Prepared | Self::Starting(Unstarted::Prepared) | Self::Deleting(_) => {
                Err(self.refuse("kill"))
            }
            _ => Ok(()),
        }
    }

    /// As init: may get further processes.
    pub fn may_exec(self) -> Result<()> {
        match self {
            Self::Created | Self::Starting(Unstarted::Created) | Self::Running => Ok(()),
            _ => Err(self.refuse("exec in")),
        }
    }

    /// As init: may get other limits.
    pub fn may_update(self) -> Result<()> {
        match self {
            Self::Prepared | Self::Starting(Unstarted::Prepared) => Err(self.refuse("update")),
            Self::Stopped | Self::Deleting(_) => Err(self.refuse("update")),
            _ => Ok(()),
        }
    }

    /// As init: may be checkpointed.
    pub fn may_checkpoint(self) -> Result<()> {
        match self {
            Self::Running | Self::Paused => Ok(()),
            _ => Err(self.refuse("checkpoint")),
        }
    }

    /// The state in a word, for messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Prepared => "prepared",
            Self::Created => "created",
            Self::Starting(_) => "starting",
            Self::Running => "running",
            Self::Pausing => "pausing",
            Self::Paused => "paused",
            Self::Resuming => "resuming",
            Self::Stopped => "stopped",
            Self::Deleting(_) => "deleting",
        }
    }

    fn refuse(self, verb: &str) -> Error {
        Error::precondition(format!("cannot {verb} a {} process", self.name()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shim_protocol::ErrorKind;

    const ALL: [State; 11] = [
        State::Prepared,
        State::Created,
        State::Starting(Unstarted::Prepared),
        State::Starting(Unstarted::Created),
        State::Running,
        State::Pausing,
        State::Paused,
        State::Resuming,
        State::Stopped,
        State::Deleting(Lifeless::Prepared),
        State::Deleting(Lifeless::Stopped),
    ];

    /// A step, with every state it is allowed from and where it leads.
    type Row = (&'static str, fn(State) -> Result<State>, &'static [(State, State)]);

    const STEPS: [Row; 12] = [
        (
            "begin_start",
            State::begin_start,
            &[
                (State::Prepared, State::Starting(Unstarted::Prepared)),
                (State::Created, State::Starting(Unstarted::Created)),
            ],
        ),
        (
            "started",
            State::started,
            &[
                (State::Starting(Unstarted::Prepared), State::Running),
                (State::Starting(Unstarted::Created), State::Running),
            ],
        ),
        (
            "start_failed",
            State::start_failed,
            &[
                (State::Starting(Unstarted::Prepared), State::Prepared),
                (State::Starting(Unstarted::Created), State::Created),
            ],
        ),
        ("begin_pause", State::begin_pause, &[(State::Running, State::Pausing)]),
        ("paused", State::paused, &[(State::Pausing, State::Paused)]),
        ("pause_failed", State::pause_failed, &[(State::Pausing, State::Running)]),
        ("begin_resume", State::begin_resume, &[(State::Paused, State::Resuming)]),
        ("resumed", State::resumed, &[(State::Resuming, State::Running)]),
        ("resume_failed", State::resume_failed, &[(State::Resuming, State::Paused)]),
        (
            "exited",
            State::exited,
            &[
                (State::Created, State::Stopped),
                (State::Running, State::Stopped),
                (State::Pausing, State::Stopped),
                (State::Paused, State::Stopped),
                (State::Resuming, State::Stopped),
            ],
        ),
        (
            "begin_delete",
            State::begin_delete,
            &[
                (State::Prepared, State::Deleting(Lifeless::Prepared)),
                (State::Stopped, State::Deleting(Lifeless::Stopped)),
            ],
        ),
        (
            "delete_failed",
            State::delete_failed,
            &[
                (State::Deleting(Lifeless::Prepared), State::Prepared),
                (State::Deleting(Lifeless::Stopped), State::Stopped),
            ],
        ),
    ];

    #[test]
    fn each_step_from_each_state() {
        for (name, step, allowed) in STEPS {
            for from in ALL {
                match allowed.iter().find(|(state, _)| *state == from) {
                    Some((_, to)) => assert_eq!(step(from).unwrap(), *to, "{name} from {from:?}"),
                    None => {
                        let error = step(from).unwrap_err();
                        assert_eq!(
                            error.kind(),
                            ErrorKind::FailedPrecondition,
                            "{name} from {from:?}"
                        );
                        assert!(error.to_string().contains(from.name()), "{error}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_finished_process_is_not_found_by_kill() {
        for (state, kind) in [
            (State::Stopped, Some(ErrorKind::NotFound)),
            (State::Deleting(Lifeless::Stopped), Some(ErrorKind::NotFound)),
            (State::Prepared, Some(ErrorKind::FailedPrecondition)),
            (State::Created, None),
            (State::Starting(Unstarted::Created), None),
            (State::Running, None),
            (State::Paused, None),
        ] {
            assert_eq!(state.may_kill().err().map(|e| e.kind()), kind, "{state:?}");
        }
    }

    #[test]
    fn what_init_allows() {
        for (state, exec, update, checkpoint) in [
            (State::Prepared, false, false, false),
            (State::Created, true, true, false),
            (State::Running, true, true, true),
            (State::Pausing, false, true, false),
            (State::Paused, false, true, true),
            (State::Stopped, false, false, false),
            (State::Deleting(Lifeless::Stopped), false, false, false),
        ] {
            assert_eq!(state.may_exec().is_ok(), exec, "exec in {state:?}");
            assert_eq!(state.may_update().is_ok(), update, "update of {state:?}");
            assert_eq!(state.may_checkpoint().is_ok(), checkpoint, "checkpoint of {state:?}");
        }
    }
}
