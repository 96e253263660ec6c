//! Between event messages and the ledger's steps.

use containerd_api::events::{
    TaskCheckpointed, TaskCreate, TaskDelete, TaskExecAdded, TaskExecStarted, TaskExit, TaskOom,
    TaskPaused, TaskResumed, TaskStart,
};
use prost_types::Timestamp as ProtoTime;
use runtime_v2::Any;
use shim_protocol::Id;

use super::{
    Timestamp, content,
    ledger::{Ended, Step},
};

/// The container and the step that an event is about, if it is one in the life
/// of a task. A message under another topic than its own is none, nor is one
/// with malformed ids.
pub(super) fn step(topic: &str, event: &Any) -> Option<(Id, Step)> {
    let (container, step) = match topic {
        "/tasks/create" => {
            let m: TaskCreate = content::unpack(event)?;
            (m.container_id, Step::Create { pid: m.pid })
        }
        "/tasks/start" => {
            let m: TaskStart = content::unpack(event)?;
            (m.container_id, Step::Start { pid: m.pid })
        }
        "/tasks/exit" => {
            let m: TaskExit = content::unpack(event)?;
            let ended = ended(m.pid, m.exit_status, m.exited_at);
            match exec_id(m.id, &m.container_id)? {
                None => (m.container_id, Step::Exit(ended)),
                Some(exec) => (m.container_id, Step::ExecExit { exec, ended }),
            }
        }
        "/tasks/delete" => {
            let m: TaskDelete = content::unpack(event)?;
            let ended = ended(m.pid, m.exit_status, m.exited_at);
            match exec_id(m.id, &m.container_id)? {
                None => (m.container_id, Step::Delete(ended)),
                Some(exec) => (m.container_id, Step::ExecDelete { exec, ended }),
            }
        }
        "/tasks/exec-added" => {
            let m: TaskExecAdded = content::unpack(event)?;
            (m.container_id, Step::ExecAdded { exec: checked(m.exec_id)? })
        }
        "/tasks/exec-started" => {
            let m: TaskExecStarted = content::unpack(event)?;
            (m.container_id, Step::ExecStarted { exec: checked(m.exec_id)?, pid: m.pid })
        }
        "/tasks/oom" => (content::unpack::<TaskOom>(event)?.container_id, Step::Repeatable),
        "/tasks/paused" => (content::unpack::<TaskPaused>(event)?.container_id, Step::Repeatable),
        "/tasks/resumed" => (content::unpack::<TaskResumed>(event)?.container_id, Step::Repeatable),
        "/tasks/checkpointed" => {
            (content::unpack::<TaskCheckpointed>(event)?.container_id, Step::Repeatable)
        }
        _ => return None,
    };
    Some((Id::new("container id", &container).ok()?, step))
}

/// Topic and message of a step that no shim has sent; `None` for a repeatable
/// one, which is never missing. It says what is known: an announced create
/// has neither mounts nor streams.
pub(super) fn message(container: &str, step: &Step) -> Option<(&'static str, Any)> {
    let container_id = container.to_owned();
    Some(match step {
        Step::Create { pid } => {
            let message = TaskCreate { container_id, pid: *pid, ..Default::default() };
            ("/tasks/create", content::pack(&message))
        }
        Step::Start { pid } => {
            ("/tasks/start", content::pack(&TaskStart { container_id, pid: *pid }))
        }
        Step::Exit(ended) => ("/tasks/exit", exit(container_id, container, ended)),
        Step::ExecExit { exec, ended } => ("/tasks/exit", exit(container_id, exec, ended)),
        // Go's shim leaves the id of init empty here, and not in the exit.
        Step::Delete(ended) => ("/tasks/delete", delete(container_id, "", ended)),
        Step::ExecDelete { exec, ended } => ("/tasks/delete", delete(container_id, exec, ended)),
        Step::ExecAdded { exec } => {
            let message = TaskExecAdded { container_id, exec_id: exec.clone() };
            ("/tasks/exec-added", content::pack(&message))
        }
        Step::ExecStarted { exec, pid } => {
            let message = TaskExecStarted { container_id, exec_id: exec.clone(), pid: *pid };
            ("/tasks/exec-started", content::pack(&message))
        }
        Step::Repeatable => return None,
    })
}

/// Which exec an exit or delete is of. Init is named by the container's id or,
/// in deletes, by none.
fn exec_id(id: String, container: &str) -> Option<Option<String>> {
    if id.is_empty() || id == container { Some(None) } else { checked(id).map(Some) }
}

fn checked(exec: String) -> Option<String> {
    Id::new("exec id", &exec).is_ok().then_some(exec)
}

fn ended(pid: u32, status: u32, at: Option<ProtoTime>) -> Ended {
    let at = at.map_or(Timestamp::ZERO, |at| Timestamp::from_parts(at.seconds, at.nanos));
    Ended { pid, status, at }
}

fn exit(container_id: String, id: &str, ended: &Ended) -> Any {
    content::pack(&TaskExit {
        container_id,
        id: id.to_owned(),
        pid: ended.pid,
        exit_status: ended.status,
        exited_at: proto_time(ended.at),
    })
}

fn delete(container_id: String, id: &str, ended: &Ended) -> Any {
    content::pack(&TaskDelete {
        container_id,
        id: id.to_owned(),
        pid: ended.pid,
        exit_status: ended.status,
        exited_at: proto_time(ended.at),
    })
}

fn proto_time(at: Timestamp) -> Option<ProtoTime> {
    Some(ProtoTime {
        seconds: i64::try_from(at.seconds()).ok()?,
        nanos: i32::try_from(at.subsec_nanos()).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_up_messages_are_understood_as_the_step_they_stand_for() {
        let ended = Ended { pid: 7, status: 3, at: Timestamp::from_nanos(5_000_000_001) };
        let exec = || "e".to_owned();
        let steps = [
            Step::Create { pid: 7 },
            Step::Start { pid: 7 },
            Step::Exit(ended),
            Step::Delete(ended),
            Step::ExecAdded { exec: exec() },
            Step::ExecStarted { exec: exec(), pid: 7 },
            Step::ExecExit { exec: exec(), ended },
            Step::ExecDelete { exec: exec(), ended },
        ];
        for wanted in steps {
            let (topic, event) = message("c", &wanted).unwrap();
            let (container, step) = step(topic, &event).unwrap();
            assert_eq!((container.as_str(), step), ("c", wanted), "{topic}");
        }
    }

    #[test]
    fn other_topics_messages_and_broken_bytes_are_no_steps() {
        let (topic, event) = message("c", &Step::Start { pid: 7 }).unwrap();
        assert_eq!(step("/tasks/exit", &event), None);
        assert_eq!(step("/containers/create", &event), None);
        let broken = Any { value: vec![0xff], ..event };
        assert_eq!(step(topic, &broken), None);
        let (topic, event) = message("c/d", &Step::Start { pid: 7 }).unwrap();
        assert_eq!(step(topic, &event), None);
    }
}
