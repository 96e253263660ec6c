//! The processes of one container, and the order in which their events are
//! announced. Pure: no I/O, no clock, no tasks.
//!
//! What holds for every order of calls:
//! - for each process: created or added, then started, then exited, then
//!   deleted, and exactly one exit;
//! - a process that ends before its start was announced is announced started
//!   first, also while its start is still under way;
//! - the exits of all execs come before the exit of init, so an init that
//!   ended is kept back until no exec runs or is being started;
//! - once init has ended, announced or not, no exec is added or started.

use std::{collections::BTreeMap, time::SystemTime};

use shim_protocol::{Error, Id, Result};
use tokio::sync::watch;

use super::state::State;

#[cfg(test)]
mod tests;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Exit code, or 128 plus the number of the signal that ended it.
    pub status: u32,
    /// When it was reaped.
    pub at: SystemTime,
}

/// Something the daemon has to hear of now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Announcement {
    /// A process runs; `None` is init.
    Started(Option<Id>, u32),
    /// A process ended.
    Exited(Option<Id>, u32, Exit),
    /// An exec was described.
    ExecAdded(Id),
    /// The container is frozen.
    Paused,
    /// The container runs again.
    Resumed,
    /// The container is gone: init's pid and exit, if it ever ran.
    Deleted(u32, Option<Exit>),
}

/// What is known of one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Where it is in its life.
    pub state: State,
    /// Its pid on the host; 0 before there is one.
    pub pid: u32,
    /// How it ended, once that was announced.
    pub exit: Option<Exit>,
}

/// The processes of one container.
pub struct Lifecycle {
    init: Process,
    execs: BTreeMap<Id, Process>,
}

struct Process {
    state: State,
    pid: u32,
    start_announced: bool,
    /// Set when it was reaped; its announcement may have to wait.
    reaped: Option<Exit>,
    /// Its exit must not be announced yet.
    held: bool,
    /// Set when the exit was announced. Dropped with the process, so that
    /// nobody waits for one that is gone.
    ended: watch::Sender<Option<Exit>>,
}

impl Process {
    fn new(state: State, pid: u32) -> Self {
        let (ended, _) = watch::channel(None);
        Self { state, pid, start_announced: false, reaped: None, held: false, ended }
    }

    /// Runs, or may do so any moment.
    fn is_alive(&self) -> bool {
        matches!(self.state, State::Starting(_)) || (self.pid != 0 && self.exit().is_none())
    }

    fn exit(&self) -> Option<Exit> {
        *self.ended.borrow()
    }

    /// Announces what can be: nothing while a start is under way.
    fn settle(&mut self, exec: Option<&Id>, out: &mut Vec<Announcement>) {
        if self.held || self.exit().is_some() {
            return;
        }
        let Some(exit) = self.reaped else { return };
        let Ok(stopped) = self.state.exited() else { return };
        self.announce_start(exec, out);
        self.state = stopped;
        self.ended.send_replace(Some(exit));
        out.push(Announcement::Exited(exec.cloned(), self.pid, exit));
    }

    fn announce_start(&mut self, exec: Option<&Id>, out: &mut Vec<Announcement>) {
        if !std::mem::replace(&mut self.start_announced, true) {
            out.push(Announcement::Started(exec.cloned(), self.pid));
        }
    }
}

impl Lifecycle {
    /// A container whose init was created as `pid`, or, without one, is to be
    /// restored when it is started.
    pub fn new(pid: Option<u32>) -> Self {
        let init = match pid {
            Some(pid) => Process::new(State::Created, pid),
            None => Process::new(State::Prepared, 0),
        };
        Self { init, execs: BTreeMap::new() }
    }

    /// What is known of a process; a frozen container's execs are frozen too.
    ///
    /// # Errors
    /// `NotFound` when there is no such exec.
    pub fn snapshot(&self, exec: Option<&Id>) -> Result<Snapshot> {
        let process = self.process(exec)?;
        let state = match (process.state, self.init.state) {
            (State::Running, frozen @ (State::Pausing | State::Paused | State::Resuming)) => frozen,
            (state, _) => state,
        };
        Ok(Snapshot { state, pid: process.pid, exit: process.exit() })
    }

    /// The execs that run, with their pids.
    pub fn running_execs(&self) -> impl Iterator<Item = (&Id, u32)> {
        let running = self.execs.iter().filter(|(_, p)| p.pid != 0 && p.reaped.is_none());
        running.map(|(id, process)| (id, process.pid))
    }

    /// Tells of the announced exit of a process; closed when it is deleted.
    ///
    /// # Errors
    /// `NotFound` when there is no such exec.
    pub fn subscribe(&self, exec: Option<&Id>) -> Result<watch::Receiver<Option<Exit>>> {
        Ok(self.process(exec)?.ended.subscribe())
    }

    /// Describes an exec.
    ///
    /// # Errors
    /// `AlreadyExists` for a taken id, `FailedPrecondition` when init does not run.
    pub fn add_exec(&mut self, id: &Id) -> Result<Vec<Announcement>> {
        if self.execs.contains_key(id) {
            return Err(Error::already_exists(format!("exec {id}")));
        }
        self.expect_exec_allowed()?;
        self.execs.insert(id.clone(), Process::new(State::Prepared, 0));
        Ok(vec![Announcement::ExecAdded(id.clone())])
    }

    /// A start begins. From here to `started` or `start_failed` the exit of
    /// this process is kept back, and with an exec's that of init.
    ///
    /// # Errors
    /// `NotFound`, or `FailedPrecondition` when it cannot be started (any more).
    pub fn begin_start(&mut self, exec: Option<&Id>) -> Result<()> {
        if exec.is_some() {
            self.process(exec)?;
            self.expect_exec_allowed()?;
        }
        let process = self.process_mut(exec)?;
        process.state = process.state.begin_start()?;
        Ok(())
    }

    /// The start succeeded; `pid` is the process that runs.
    ///
    /// # Errors
    /// `FailedPrecondition` when no start was under way.
    pub fn started(&mut self, exec: Option<&Id>, pid: u32) -> Result<Vec<Announcement>> {
        let mut out = Vec::new();
        let process = self.process_mut(exec)?;
        process.state = process.state.started()?;
        process.pid = pid;
        process.announce_start(exec, &mut out);
        self.settle(&mut out);
        Ok(out)
    }

    /// The start failed. It may be tried again unless the process has ended.
    ///
    /// # Errors
    /// `FailedPrecondition` when no start was under way.
    pub fn start_failed(&mut self, exec: Option<&Id>) -> Result<Vec<Announcement>> {
        let mut out = Vec::new();
        let process = self.process_mut(exec)?;
        process.state = process.state.start_failed()?;
        self.settle(&mut out);
        Ok(out)
    }

    /// Init was reaped, but its exit is to be announced only with the call of
    /// [`Lifecycle::reaped`] that follows: what it left behind is being ended.
    pub fn init_ending(&mut self, exit: Exit) {
        self.init.reaped.get_or_insert(exit);
        self.init.held = true;
    }

    /// A process was reaped. A second report of the same process is ignored,
    /// and so is one of a process that is gone.
    pub fn reaped(&mut self, exec: Option<&Id>, exit: Exit) -> Vec<Announcement> {
        let mut out = Vec::new();
        if let Ok(process) = self.process_mut(exec) {
            process.reaped.get_or_insert(exit);
            process.held = false;
            self.settle(&mut out);
        }
        out
    }

    /// True once init was reaped, announced or not.
    pub fn is_init_gone(&self) -> bool {
        self.init.reaped.is_some()
    }

    /// Takes one of init's steps that announce nothing, such as
    /// [`State::begin_pause`].
    ///
    /// # Errors
    /// `FailedPrecondition` as the step has it.
    pub fn step(&mut self, step: fn(State) -> Result<State>) -> Result<()> {
        self.init.state = step(self.init.state)?;
        Ok(())
    }

    /// The container is frozen.
    ///
    /// # Errors
    /// `FailedPrecondition` when init ended meanwhile.
    pub fn paused(&mut self) -> Result<Vec<Announcement>> {
        self.step(State::paused)?;
        Ok(vec![Announcement::Paused])
    }

    /// The container runs again.
    ///
    /// # Errors
    /// `FailedPrecondition` when init ended meanwhile.
    pub fn resumed(&mut self) -> Result<Vec<Announcement>> {
        self.step(State::resumed)?;
        Ok(vec![Announcement::Resumed])
    }

    /// A deletion begins.
    ///
    /// # Errors
    /// `NotFound`, or `FailedPrecondition` when the process has not ended.
    pub fn begin_delete(&mut self, exec: Option<&Id>) -> Result<Snapshot> {
        let process = self.process_mut(exec)?;
        process.state = process.state.begin_delete()?;
        self.snapshot(exec)
    }

    /// The deletion failed, and may be tried again.
    pub fn delete_failed(&mut self, exec: Option<&Id>) {
        if let Ok(process) = self.process_mut(exec) {
            process.state = process.state.delete_failed().unwrap_or(process.state);
        }
    }

    /// An exec is gone.
    pub fn forget_exec(&mut self, id: &Id) {
        self.execs.remove(id);
    }

    /// Init is gone, and the container with it.
    pub fn deleted(&mut self) -> Vec<Announcement> {
        self.execs.clear();
        // Who waits for an init that never ran waits for nothing.
        (self.init.ended, _) = watch::channel(self.init.exit());
        vec![Announcement::Deleted(self.init.pid, self.init.exit())]
    }

    fn expect_exec_allowed(&self) -> Result<()> {
        self.init.state.may_exec()?;
        match self.is_init_gone() {
            false => Ok(()),
            true => Err(Error::precondition("the container's init process has ended")),
        }
    }

    fn settle(&mut self, out: &mut Vec<Announcement>) {
        for (id, process) in &mut self.execs {
            process.settle(Some(id), out);
        }
        if !self.execs.values().any(Process::is_alive) {
            self.init.settle(None, out);
        }
    }

    fn process(&self, exec: Option<&Id>) -> Result<&Process> {
        match exec {
            None => Ok(&self.init),
            Some(id) => self.execs.get(id).ok_or_else(|| no_exec(id)),
        }
    }

    fn process_mut(&mut self, exec: Option<&Id>) -> Result<&mut Process> {
        match exec {
            None => Ok(&mut self.init),
            Some(id) => self.execs.get_mut(id).ok_or_else(|| no_exec(id)),
        }
    }
}

fn no_exec(id: &Id) -> Error {
    Error::not_found(format!("exec {id}"))
}
