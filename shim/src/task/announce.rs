//! Announcements in the words of the protocol.

use std::time::SystemTime;

use protobuf::{MessageField, well_known_types::timestamp::Timestamp};
use shim_protocol::{
    event::TaskEvent,
    proto::{
        task_events::{
            TaskCheckpointed, TaskCreate, TaskDelete, TaskExecAdded, TaskExecStarted, TaskExit,
            TaskIO, TaskOOM, TaskPaused, TaskResumed, TaskStart,
        },
        types,
    },
};
use tracing::error;

use super::{Container, Create, Exit, lifecycle::Announcement};

/// The mounts of a create event are left out above this: the event may have to
/// wait in memory for a daemon that is away.
const MAX_MOUNTS_BYTES: usize = 16 * 1024;

/// A time as messages carry it.
pub(crate) fn timestamp(time: SystemTime) -> MessageField<Timestamp> {
    MessageField::some(Timestamp::from(time))
}

impl Container {
    /// Publishes one announcement. To be called under the lifecycle's lock.
    pub(super) fn publish(&self, announcement: Announcement) {
        let container_id = self.id.to_string();
        match announcement {
            Announcement::Started(None, pid) => {
                self.send(&TaskStart { container_id, pid, ..Default::default() });
            }
            Announcement::Started(Some(exec), pid) => self.send(&TaskExecStarted {
                container_id,
                exec_id: exec.to_string(),
                pid,
                ..Default::default()
            }),
            Announcement::Exited(exec, pid, exit) => self.send(&TaskExit {
                id: exec.as_deref().unwrap_or(&self.id).to_owned(),
                container_id,
                pid,
                exit_status: exit.status,
                exited_at: timestamp(exit.at),
                ..Default::default()
            }),
            Announcement::ExecAdded(exec) => self.send(&TaskExecAdded {
                container_id,
                exec_id: exec.to_string(),
                ..Default::default()
            }),
            Announcement::Paused => self.send(&TaskPaused { container_id, ..Default::default() }),
            Announcement::Resumed => {
                self.send(&TaskResumed { container_id, ..Default::default() });
            }
            Announcement::Deleted(pid, exit) => self.send(&TaskDelete {
                id: container_id.clone(),
                container_id,
                pid,
                exit_status: exit.map_or(0, |Exit { status, .. }| status),
                exited_at: exit.map_or_else(MessageField::none, |exit| timestamp(exit.at)),
                ..Default::default()
            }),
        }
    }

    pub(super) fn publish_create(&self, request: &Create) {
        let size: usize = request.rootfs.iter().flat_map(|m| &m.options).map(String::len).sum();
        let mounts = if size > MAX_MOUNTS_BYTES { &[][..] } else { &request.rootfs };
        let restore = request.restore.as_ref();
        self.send(&TaskCreate {
            container_id: self.id.to_string(),
            bundle: self.bundle.path().to_string_lossy().into_owned(),
            rootfs: mounts
                .iter()
                .map(|mount| types::Mount {
                    type_: mount.kind.clone(),
                    source: mount.source.clone(),
                    target: mount.target.clone(),
                    options: mount.options.clone(),
                    ..Default::default()
                })
                .collect(),
            io: MessageField::some(TaskIO {
                stdin: self.stdio.stdin.clone(),
                stdout: self.stdio.stdout.clone(),
                stderr: self.stdio.stderr.clone(),
                terminal: self.stdio.terminal,
                ..Default::default()
            }),
            checkpoint: restore.map(|image| image.display().to_string()).unwrap_or_default(),
            pid: self.pid(),
            ..Default::default()
        });
    }

    pub(super) fn publish_oom(&self) {
        self.send(&TaskOOM { container_id: self.id.to_string(), ..Default::default() });
    }

    pub(super) fn publish_checkpoint(&self, path: &str) {
        self.send(&TaskCheckpointed {
            container_id: self.id.to_string(),
            checkpoint: path.to_owned(),
            ..Default::default()
        });
    }

    fn send<E: TaskEvent>(&self, event: &E) {
        if let Err(e) = self.context.outbox.publish(event) {
            error!("publish {} of {}: {}", E::TOPIC, self.id, e.report());
        }
    }
}
