//! What the daemon has seen of the processes of a task. Should the shim die,
//! this is what can still be told.

use std::collections::HashMap;

use shim_protocol::{Id, exits::ExitRecord};

use crate::{Deleted, Exit};

/// All processes of a task.
#[derive(Clone, Default)]
pub(crate) struct Seen {
    pub(crate) init: SeenProcess,
    pub(crate) execs: HashMap<Id, SeenProcess>,
}

/// Pid (0 is none yet) and end of one process.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct SeenProcess {
    pub(crate) pid: u32,
    pub(crate) exit: Option<Exit>,
}

impl Seen {
    /// Only init, with its pid.
    pub(crate) fn init(pid: u32) -> Self {
        Self { init: SeenProcess { pid, exit: None }, execs: HashMap::new() }
    }

    /// Adds what a shim has told a while ago: what was seen since then counts.
    pub(crate) fn add(&mut self, told: Self) {
        self.init.add(told.init);
        for (exec, process) in told.execs {
            self.execs.entry(exec).or_default().add(process);
        }
    }

    /// Adds what is on record, which counts whatever was seen.
    pub(crate) fn add_records(&mut self, records: Vec<ExitRecord>) {
        for ExitRecord { exec_id, pid, status, at } in records {
            let ended = SeenProcess { pid, exit: Some(Exit { status, at }) };
            match exec_id {
                Some(exec) => {
                    self.execs.insert(exec, ended);
                }
                None => self.init = ended,
            }
        }
    }

    /// The execs of which it is known how they ended, in the order of their ends.
    pub(crate) fn ended_execs(&self) -> Vec<(&Id, Deleted)> {
        let ended = |(exec, process): (_, &SeenProcess)| Some((exec, process.ended()?));
        let mut execs: Vec<_> = self.execs.iter().filter_map(ended).collect();
        execs.sort_by_key(|(_, gone)| gone.exit.at);
        execs
    }
}

impl SeenProcess {
    fn add(&mut self, told: Self) {
        if told.pid != 0 {
            self.pid = told.pid;
        }
        self.exit = self.exit.or(told.exit);
    }

    /// Its end, if it is known.
    pub(crate) fn ended(&self) -> Option<Deleted> {
        Some(Deleted { pid: self.pid, exit: self.exit? })
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    fn ended(pid: u32, status: u32) -> SeenProcess {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(status.into());
        SeenProcess { pid, exit: Some(Exit { status, at }) }
    }

    /// A wait may be answered between the answer of a shim and our note of it.
    #[test]
    fn what_is_told_late_hides_nothing_that_was_seen() {
        let exec = Id::new("id", "e").unwrap();
        let mut seen = Seen { init: ended(7, 3), execs: [(exec.clone(), ended(8, 4))].into() };
        let runs = SeenProcess { pid: 8, exit: None };
        seen.add(Seen { execs: [(exec.clone(), runs)].into(), ..Seen::init(0) });
        assert_eq!((seen.init, seen.execs[&exec]), (ended(7, 3), ended(8, 4)));
        // Of a restore, the pid is known once it was started.
        let mut seen = Seen::init(9);
        seen.add(Seen::init(0));
        assert_eq!(seen.init.pid, 9);
        seen.add(Seen { init: ended(9, 1), ..Seen::default() });
        assert_eq!(seen.init, ended(9, 1));
    }

    #[test]
    fn records_count_and_ends_have_an_order() {
        let id = |name| Id::new("id", name).unwrap();
        let mut seen = Seen::init(7);
        for (exec, process) in [
            ("late", ended(8, 9)),
            ("early", ended(9, 2)),
            ("runs", SeenProcess { pid: 10, exit: None }),
        ] {
            seen.execs.insert(id(exec), process);
        }
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(5);
        let record = ExitRecord { exec_id: Some(id("runs")), pid: 10, status: 5, at };
        seen.add_records(vec![record.clone(), ExitRecord { exec_id: None, pid: 7, ..record }]);
        let order: Vec<_> = seen.ended_execs().into_iter().map(|(exec, _)| exec.clone()).collect();
        assert_eq!(order, [id("early"), id("runs"), id("late")]);
        assert_eq!(seen.init, ended(7, 5));
    }
}
