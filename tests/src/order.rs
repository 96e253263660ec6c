//! The order of events as an invariant: create before start before exit before
//! delete for each process, exactly one exit, exits of execs before the exit of
//! their init.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};

use crate::{Event, Topic};

/// Where a process is, by what was announced about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Created,
    Started,
    Exited,
    Deleted,
}

type Key<'a> = (&'a str, &'a str, &'a str);

/// Checks every process that `events` tell of. Processes need not be complete:
/// what was published before the subscription is not held against them.
///
/// # Errors
/// The first event that is out of order, with everything about its container.
pub fn check(events: &[Event]) -> Result<()> {
    let mut stages: BTreeMap<Key<'_>, Stage> = BTreeMap::new();
    for event in events {
        let key = (event.namespace.as_str(), event.container.as_str(), event.process.as_str());
        let before = stages.get(&key).copied();
        let next = match event.topic {
            Topic::Create | Topic::ExecAdded => Stage::Created,
            Topic::Start | Topic::ExecStarted => Stage::Started,
            Topic::Exit => Stage::Exited,
            Topic::Delete => Stage::Deleted,
            Topic::Paused | Topic::Resumed | Topic::Oom | Topic::Other => continue,
        };
        let fits = match next {
            // An id may be used again once its process is gone. Deleting an
            // exec is not announced, so for it an exit is enough.
            Stage::Created => matches!(before, None | Some(Stage::Deleted | Stage::Exited)),
            Stage::Started => matches!(before, None | Some(Stage::Created)),
            Stage::Exited => matches!(before, None | Some(Stage::Started)),
            // A task that was never started has no exit.
            Stage::Deleted => !matches!(before, Some(Stage::Started | Stage::Deleted)),
        };
        ensure!(
            fits,
            "{next:?} after {before:?}: {event:?}, of\n{}",
            history(events, &event.container)
        );
        if next == Stage::Exited && event.process == event.container {
            let alive = stages.iter().find(|((namespace, container, process), stage)| {
                (*namespace, *container) == (key.0, key.1)
                    && *process != key.2
                    && **stage == Stage::Started
            });
            ensure!(
                alive.is_none(),
                "init's exit before that of {alive:?}, of\n{}",
                history(events, &event.container)
            );
        }
        stages.insert(key, next);
    }
    Ok(())
}

/// Checks that each of `processes` (container, process) has exactly one exit.
///
/// # Errors
/// The first that has none or several.
pub fn exactly_one_exit<'a>(
    events: &[Event],
    processes: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Result<()> {
    for (container, process) in processes {
        let count = events
            .iter()
            .filter(|event| {
                event.topic == Topic::Exit
                    && event.container == container
                    && event.process == process
            })
            .count();
        ensure!(
            count == 1,
            "{count} exits of {container} {process}:\n{}",
            history(events, container)
        );
    }
    Ok(())
}

/// What is known about one container, a line per event.
fn history(events: &[Event], container: &str) -> String {
    events
        .iter()
        .filter(|event| event.container == container)
        .map(|event| {
            let Event { at, name, process, pid, status, .. } = event;
            format!(
                "  {}.{:09} {name} {process} pid {pid} status {status:?}\n",
                at.seconds, at.nanos
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use prost_types::Timestamp;

    use super::*;

    fn event(topic: Topic, process: &str) -> Event {
        Event {
            at: Timestamp::default(),
            namespace: "n".into(),
            topic,
            name: String::new(),
            container: "c".into(),
            process: process.into(),
            pid: 1,
            status: None,
            exited_at: None,
        }
    }

    #[test]
    fn a_whole_life_is_in_order() {
        use Topic::*;
        let life = [
            event(Create, "c"),
            event(Start, "c"),
            event(ExecAdded, "e"),
            event(ExecStarted, "e"),
            event(Exit, "e"),
            event(Exit, "c"),
            event(Delete, "c"),
            event(Create, "c"),
            event(Delete, "c"),
        ];
        check(&life).unwrap();
        exactly_one_exit(&life, [("c", "c"), ("c", "e")]).unwrap();
    }

    #[test]
    fn what_is_wrong_is_found() {
        use Topic::*;
        for wrong in [
            &[event(Create, "c"), event(Exit, "c")][..],
            &[event(Start, "c"), event(Create, "c")],
            &[event(Exit, "c"), event(Start, "c")],
            &[event(Exit, "c"), event(Exit, "c")],
            &[event(Start, "c"), event(Delete, "c")],
            &[event(Delete, "c"), event(Exit, "c")],
            &[event(ExecStarted, "e"), event(Start, "c"), event(Exit, "c")],
            &[event(ExecStarted, "a"), event(Start, "c"), event(Exit, "c"), event(Exit, "a")],
        ] {
            check(wrong).unwrap_err();
        }
    }

    #[test]
    fn exits_are_counted() {
        let two = [event(Topic::Exit, "c"), event(Topic::Exit, "c")];
        exactly_one_exit(&two, [("c", "c")]).unwrap_err();
        exactly_one_exit(&two[..1], [("c", "c")]).unwrap();
        exactly_one_exit(&[], [("c", "c")]).unwrap_err();
    }
}
