//! The only place where our own types meet those of the wire.

use std::{
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use protobuf::{
    EnumOrUnknown, Message, MessageField,
    well_known_types::{any::Any as WireAny, timestamp::Timestamp},
};
use shim_protocol::{
    Context, Error, ErrorKind, Id, Result, any,
    event::TaskEvent,
    proto::{
        bootstrap::Extension,
        task_events::{TaskDelete, TaskExit},
        task_types, task_v2,
        types::{Mount as WireMount, RuntimeInfo as WireInfo},
    },
};

use crate::{
    Any, Checkpoint, CreateTask, Deleted, ExecProcess, Exit, Mount, Process, ProcessInfo,
    RuntimeInfo, Status, Stdio,
};

pub(crate) fn any_to_wire(any: Any) -> WireAny {
    WireAny { type_url: any.type_url, value: any.value, ..Default::default() }
}

pub(crate) fn any_from_wire(any: WireAny) -> Any {
    Any { type_url: any.type_url, value: any.value }
}

/// The runtime options as `shim start` and `-info` read them.
pub(crate) fn options_to_stdin(options: Option<&Any>) -> Result<Vec<u8>> {
    let Some(options) = options else { return Ok(Vec::new()) };
    any_to_wire(options.clone()).write_to_bytes().map_err(|e| {
        Error::caused(ErrorKind::Internal, format!("encode options {:?}", options.type_url), e)
    })
}

/// One of the values that travel with the bootstrap parameters.
pub(crate) fn extension(any: Any) -> Extension {
    Extension { value: MessageField::some(any_to_wire(any)), ..Default::default() }
}

pub(crate) fn create_to_wire(
    request: CreateTask,
    bundle: &Path,
) -> Result<task_v2::CreateTaskRequest> {
    Ok(task_v2::CreateTaskRequest {
        id: request.id.to_string(),
        bundle: utf8(bundle)?,
        rootfs: request.rootfs.into_iter().map(mount_to_wire).collect(),
        terminal: request.stdio.terminal,
        stdin: request.stdio.stdin,
        stdout: request.stdio.stdout,
        stderr: request.stdio.stderr,
        checkpoint: match &request.checkpoint {
            None => String::new(),
            Some(Checkpoint::Folder(path)) => utf8(path)?,
            Some(Checkpoint::Images(_)) => {
                return Err(Error::internal("a checkpoint that was not brought"));
            }
        },
        options: request.options.map(any_to_wire).into(),
        ..Default::default()
    })
}

fn mount_to_wire(mount: Mount) -> WireMount {
    WireMount {
        type_: mount.kind,
        source: mount.source,
        target: mount.target,
        options: mount.options,
        ..Default::default()
    }
}

pub(crate) fn exec_to_wire(id: &Id, request: ExecProcess) -> task_v2::ExecProcessRequest {
    task_v2::ExecProcessRequest {
        id: id.to_string(),
        exec_id: request.exec_id.to_string(),
        terminal: request.stdio.terminal,
        stdin: request.stdio.stdin,
        stdout: request.stdio.stdout,
        stderr: request.stdio.stderr,
        spec: MessageField::some(any_to_wire(request.spec)),
        ..Default::default()
    }
}

pub(crate) fn process_from_wire(
    container_id: &Id,
    exec_id: Option<&Id>,
    bundle: &Path,
    state: task_v2::StateResponse,
) -> Process {
    let status = status_from_wire(state.status);
    let exit = Exit { status: state.exit_status, at: time_from_wire(&state.exited_at) };
    Process {
        container_id: container_id.clone(),
        exec_id: exec_id.cloned(),
        pid: state.pid,
        status,
        stdio: Stdio {
            stdin: state.stdin,
            stdout: state.stdout,
            stderr: state.stderr,
            terminal: state.terminal,
        },
        exit: (status == Status::Stopped).then_some(exit),
        bundle: bundle.to_owned(),
    }
}

fn status_from_wire(status: EnumOrUnknown<task_types::Status>) -> Status {
    use task_types::Status as Wire;
    match status.enum_value_or(Wire::UNKNOWN) {
        Wire::UNKNOWN => Status::Unknown,
        Wire::CREATED => Status::Created,
        Wire::RUNNING => Status::Running,
        Wire::STOPPED => Status::Stopped,
        Wire::PAUSED => Status::Paused,
        Wire::PAUSING => Status::Pausing,
    }
}

pub(crate) fn deleted_from_wire(answer: &task_v2::DeleteResponse) -> Deleted {
    Deleted {
        pid: answer.pid,
        exit: Exit { status: answer.exit_status, at: time_from_wire(&answer.exited_at) },
    }
}

/// What `shim delete` prints.
///
/// # Errors
/// `DataLoss` when it is no `DeleteResponse`.
pub(crate) fn deleted_from_stdout(printed: &[u8]) -> Result<Deleted> {
    let answer = task_v2::DeleteResponse::parse_from_bytes(printed)
        .map_err(|e| Error::caused(ErrorKind::DataLoss, "output of shim delete", e))?;
    Ok(deleted_from_wire(&answer))
}

pub(crate) fn exit_from_wire(answer: &task_v2::WaitResponse) -> Exit {
    Exit { status: answer.exit_status, at: time_from_wire(&answer.exited_at) }
}

pub(crate) fn pids_from_wire(answer: task_v2::PidsResponse) -> Vec<ProcessInfo> {
    let info = |p: task_types::ProcessInfo| ProcessInfo {
        pid: p.pid,
        info: p.info.into_option().map(any_from_wire),
    };
    answer.processes.into_iter().map(info).collect()
}

/// What `shim -info` prints.
///
/// # Errors
/// `FailedPrecondition` when it is no `RuntimeInfo`.
pub(crate) fn info_from_stdout(printed: &[u8]) -> Result<RuntimeInfo> {
    let info = WireInfo::parse_from_bytes(printed)
        .map_err(|e| Error::caused(ErrorKind::FailedPrecondition, "output of shim -info", e))?;
    let version = info.version.unwrap_or_default();
    Ok(RuntimeInfo {
        name: info.name,
        version: version.version,
        revision: version.revision,
        options: info.options.into_option().map(any_from_wire),
        features: info.features.into_option().map(any_from_wire),
        annotations: info.annotations.into_iter().collect(),
    })
}

/// Topic and message that announce the end of init or of an exec.
pub(crate) fn exit_event(
    container: &Id,
    exec: Option<&Id>,
    gone: Deleted,
) -> Result<(&'static str, Any)> {
    let event = TaskExit {
        container_id: container.to_string(),
        id: exec.unwrap_or(container).to_string(),
        pid: gone.pid,
        exit_status: gone.exit.status,
        exited_at: MessageField::some(time_to_wire(gone.exit.at)),
        ..Default::default()
    };
    Ok((TaskExit::TOPIC, any_from_wire(any::pack(&event)?)))
}

/// Topic and message that announce that a task was deleted.
pub(crate) fn delete_event(container: &Id, gone: Deleted) -> Result<(&'static str, Any)> {
    let event = TaskDelete {
        container_id: container.to_string(),
        id: container.to_string(),
        pid: gone.pid,
        exit_status: gone.exit.status,
        exited_at: MessageField::some(time_to_wire(gone.exit.at)),
        ..Default::default()
    };
    Ok((TaskDelete::TOPIC, any_from_wire(any::pack(&event)?)))
}

fn time_to_wire(time: SystemTime) -> Timestamp {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(since.subsec_nanos()).unwrap_or(0),
        ..Default::default()
    }
}

/// A time before 1970 is Go's zero time, and means "none"; so does its absence.
fn time_from_wire(time: &MessageField<Timestamp>) -> SystemTime {
    let Some(time) = time.as_ref() else { return UNIX_EPOCH };
    let since = Duration::new(
        u64::try_from(time.seconds).unwrap_or(0),
        u32::try_from(time.nanos).unwrap_or(0).min(999_999_999),
    );
    UNIX_EPOCH.checked_add(since).unwrap_or(UNIX_EPOCH)
}

/// Paths travel as text.
pub(crate) fn utf8(path: &Path) -> Result<String> {
    let text = path.to_str().map(str::to_owned);
    text.ok_or_else(|| Error::invalid("not UTF-8")).context("path", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> Id {
        Id::new("id", text).unwrap()
    }

    #[test]
    fn only_a_stopped_process_has_an_exit() {
        let state = |status: task_types::Status| task_v2::StateResponse {
            status: status.into(),
            exit_status: 3,
            exited_at: MessageField::some(Timestamp { seconds: 7, nanos: 8, ..Default::default() }),
            ..Default::default()
        };
        let bundle = Path::new("/b");
        let running = process_from_wire(&id("c"), None, bundle, state(task_types::Status::RUNNING));
        assert_eq!((running.status, running.exit), (Status::Running, None));
        let stopped = process_from_wire(&id("c"), None, bundle, state(task_types::Status::STOPPED));
        let at = UNIX_EPOCH + Duration::new(7, 8);
        assert_eq!(stopped.exit, Some(Exit { status: 3, at }));
    }

    #[test]
    fn times_come_back_and_go_s_zero_is_none() {
        let time = UNIX_EPOCH + Duration::new(1_700_000_000, 123_456_789);
        assert_eq!(time_from_wire(&MessageField::some(time_to_wire(time))), time);
        let zero = Timestamp { seconds: -62_135_596_800, ..Default::default() };
        assert_eq!(time_from_wire(&MessageField::some(zero)), UNIX_EPOCH);
        assert_eq!(time_from_wire(&MessageField::none()), UNIX_EPOCH);
    }

    #[test]
    fn an_event_names_init_by_the_container_s_id() {
        let gone = Deleted { pid: 5, exit: Exit { status: 137, at: UNIX_EPOCH } };
        let read = |(topic, any)| -> (String, TaskExit) {
            (String::from(topic), any::unpack(&any_to_wire(any)).unwrap())
        };
        let (topic, init) = read(exit_event(&id("c"), None, gone).unwrap());
        assert_eq!((topic.as_str(), init.id.as_str()), ("/tasks/exit", "c"));
        let (_, exec) = read(exit_event(&id("c"), Some(&id("e")), gone).unwrap());
        assert_eq!((exec.container_id.as_str(), exec.id.as_str(), exec.pid), ("c", "e", 5));
    }

    #[test]
    fn garbage_of_shim_delete_is_data_loss() {
        assert_eq!(deleted_from_stdout(&[0xff]).unwrap_err().kind(), ErrorKind::DataLoss);
    }
}
