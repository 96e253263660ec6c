//! What the labels ask for, given what the task is. Pure.

use std::collections::BTreeMap;

use runtime_v2::Status;
use shim_protocol::{Error, Result};

use super::{COUNT_LABEL, EXPLICITLY_STOPPED_LABEL, POLICY_LABEL, STATUS_LABEL};

/// When a task that should run is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Policy {
    No,
    Always,
    UnlessStopped,
    /// When it failed, and not more often than that; 0: as often as need be.
    OnFailure {
        limit: u64,
    },
}

/// What there is of a container's task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    /// `None`: it has no task.
    pub status: Option<Status>,
    /// How init ended; 0 if that is not known.
    pub exit_status: u32,
    /// A client may still be busy making it.
    pub young: bool,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Nothing,
    /// Start it, for the `count`th time.
    Start {
        count: u64,
    },
    Stop,
}

impl Policy {
    /// # Errors
    /// `InvalidArgument` for a policy that there is not.
    fn parse(text: &str) -> Result<Self> {
        let unknown = || Error::invalid(format!("restart policy {text:?} is not known"));
        match text.split_once(':') {
            None => match text {
                "no" => Ok(Self::No),
                "" | "always" => Ok(Self::Always),
                "unless-stopped" => Ok(Self::UnlessStopped),
                "on-failure" => Ok(Self::OnFailure { limit: 0 }),
                _ => Err(unknown()),
            },
            Some(("on-failure", limit)) => {
                Ok(Self::OnFailure { limit: limit.parse().map_err(|_| unknown())? })
            }
            Some(_) => Err(unknown()),
        }
    }
}

/// What the labels of a container ask for.
///
/// # Errors
/// `InvalidArgument` when they make no sense; nothing is to be done then.
pub(super) fn decide(labels: &BTreeMap<String, String>, seen: Seen) -> Result<Action> {
    match labels.get(STATUS_LABEL).map(String::as_str) {
        Some("running") => {}
        Some("stopped") => {
            return Ok(match seen.status {
                None | Some(Status::Stopped | Status::Unknown) => Action::Nothing,
                Some(_) => Action::Stop,
            });
        }
        None | Some("") => return Ok(Action::Nothing),
        Some(other) => {
            return Err(Error::invalid(format!("{STATUS_LABEL} {other:?} is not known")));
        }
    }
    match seen.status {
        Some(Status::Running | Status::Paused | Status::Pausing | Status::Unknown) => {
            return Ok(Action::Nothing);
        }
        None | Some(Status::Created) if seen.young => return Ok(Action::Nothing),
        None | Some(Status::Created | Status::Stopped) => {}
    }
    let label = |name| labels.get(name).map_or("", String::as_str);
    let count: u64 = match label(COUNT_LABEL) {
        "" => 0,
        text => text
            .parse()
            .map_err(|_| Error::invalid(format!("{COUNT_LABEL} {text:?} is not a number")))?,
    };
    let start = match Policy::parse(label(POLICY_LABEL))? {
        Policy::No => false,
        Policy::Always => true,
        Policy::UnlessStopped => !is_true(label(EXPLICITLY_STOPPED_LABEL)),
        Policy::OnFailure { limit } => seen.exit_status != 0 && (limit == 0 || count < limit),
    };
    Ok(if start { Action::Start { count: count + 1 } } else { Action::Nothing })
}

/// As Go's `strconv.ParseBool` takes it.
fn is_true(text: &str) -> bool {
    matches!(text, "1" | "t" | "T" | "true" | "TRUE" | "True")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn seen(status: Option<Status>, exit_status: u32) -> Seen {
        Seen { status, exit_status, young: false }
    }

    const ENDED: Option<Status> = Some(Status::Stopped);
    const START: Action = Action::Start { count: 1 };

    #[test]
    fn policies_by_the_way_it_ended() {
        for (policy, stopped, exit, wanted) in [
            ("", "", 0, START),
            ("always", "", 0, START),
            ("always", "true", 1, START),
            ("no", "", 1, Action::Nothing),
            ("unless-stopped", "", 0, START),
            ("unless-stopped", "false", 1, START),
            ("unless-stopped", "true", 1, Action::Nothing),
            ("on-failure", "", 0, Action::Nothing),
            ("on-failure", "", 1, START),
            ("on-failure:2", "", 137, START),
        ] {
            let labels = labels(&[
                (STATUS_LABEL, "running"),
                (POLICY_LABEL, policy),
                (EXPLICITLY_STOPPED_LABEL, stopped),
            ]);
            assert_eq!(decide(&labels, seen(ENDED, exit)).unwrap(), wanted, "{policy} {exit}");
        }
    }

    #[test]
    fn failures_are_counted() {
        for (count, wanted) in
            [("", START), ("1", Action::Start { count: 2 }), ("2", Action::Nothing)]
        {
            let labels = labels(&[
                (STATUS_LABEL, "running"),
                (POLICY_LABEL, "on-failure:2"),
                (COUNT_LABEL, count),
            ]);
            assert_eq!(decide(&labels, seen(ENDED, 1)).unwrap(), wanted);
        }
    }

    #[test]
    fn what_the_task_is() {
        use Action::{Nothing, Stop};
        use Status::{Created, Paused, Pausing, Running, Stopped, Unknown};
        for (status, running, stopped) in [
            (None, START, Nothing),
            (Some(Unknown), Nothing, Nothing),
            (Some(Created), START, Stop),
            (Some(Running), Nothing, Stop),
            (Some(Stopped), START, Nothing),
            (Some(Paused), Nothing, Stop),
            (Some(Pausing), Nothing, Stop),
        ] {
            let decide = |wanted: &str| decide(&labels(&[(STATUS_LABEL, wanted)]), seen(status, 0));
            assert_eq!(decide("running").unwrap(), running, "{status:?}");
            assert_eq!(decide("stopped").unwrap(), stopped, "{status:?}");
        }
        assert_eq!(decide(&labels(&[]), seen(None, 1)).unwrap(), Nothing);
    }

    #[test]
    fn what_a_client_is_making_is_left_to_it() {
        let labels = labels(&[(STATUS_LABEL, "running")]);
        for (status, wanted) in
            [(None, Action::Nothing), (Some(Status::Created), Action::Nothing), (ENDED, START)]
        {
            let seen = Seen { status, exit_status: 0, young: true };
            assert_eq!(decide(&labels, seen).unwrap(), wanted);
        }
    }

    #[test]
    fn nonsense_is_reported() {
        for (label, value) in [
            (STATUS_LABEL, "dancing"),
            (POLICY_LABEL, "sometimes"),
            (POLICY_LABEL, "always:3"),
            (POLICY_LABEL, "on-failure:x"),
            (COUNT_LABEL, "x"),
        ] {
            let mut labels = labels(&[(STATUS_LABEL, "running")]);
            labels.insert(label.to_owned(), value.to_owned());
            assert!(decide(&labels, seen(ENDED, 1)).is_err(), "{label}={value}");
        }
    }
}
