//! Topics of the events in the life of a task.
//!
//! For one process the order is create, start, exit, delete, and there is
//! exactly one exit. A process that dies before its start was announced is
//! announced started first. Exits of execs come before the exit of init.

use crate::{any::Named, proto::task_events as events};

/// An event message and the topic it is published under.
pub trait TaskEvent: Named {
    /// The topic, such as `/tasks/exit`.
    const TOPIC: &'static str;
}

macro_rules! topics {
    ($($message:ident => $topic:literal),+ $(,)?) => {
        $(impl TaskEvent for events::$message {
            const TOPIC: &'static str = $topic;
        })+
    };
}

topics! {
    TaskCreate => "/tasks/create",
    TaskStart => "/tasks/start",
    TaskOOM => "/tasks/oom",
    TaskExit => "/tasks/exit",
    TaskDelete => "/tasks/delete",
    TaskExecAdded => "/tasks/exec-added",
    TaskExecStarted => "/tasks/exec-started",
    TaskPaused => "/tasks/paused",
    TaskResumed => "/tasks/resumed",
    TaskCheckpointed => "/tasks/checkpointed",
}
