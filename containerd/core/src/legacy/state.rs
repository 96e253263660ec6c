//! All containers, as they are now.

use std::{collections::HashMap, path::PathBuf};

use futures::future::join_all;
use runtime_v2::Status as TaskStatus;
use shim_protocol::{Id, Result};

use super::{Container, Legacy, Process, Status, record::Record};
use crate::tasks;

impl Legacy {
    /// All containers that have processes, or whose end nobody has seen; by id.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn state(&self) -> Result<Vec<Container>> {
        let namespace = &self.config.namespace;
        let containers = self.containers.list::<&str>(namespace, &[]).await?;
        let tasks = self.tasks.list(namespace).await.into_iter();
        let mut tasks: HashMap<Id, tasks::Process> =
            tasks.map(|task| (task.container_id.clone(), task)).collect();
        let records = containers.iter().filter_map(Record::read_or_warn);
        let described = records.map(|record| {
            let task = tasks.remove(&record.id);
            self.describe_one(record, task)
        });
        Ok(join_all(described).await.into_iter().flatten().collect())
    }

    /// None if it never ran, as far as clients can know.
    async fn describe_one(
        &self,
        record: Record,
        task: Option<tasks::Process>,
    ) -> Option<Container> {
        let (pid, status, folder) =
            match (&task, record.exit.or_else(|| self.unseen.of(&record.id, None))) {
                (None, Some(exit)) => (exit.pid, Status::Stopped(exit.status), PathBuf::new()),
                (None, None) => return None,
                (Some(task), _) => {
                    let status = match (task.status, task.exit) {
                        (TaskStatus::Running, _) => Status::Running,
                        (TaskStatus::Paused | TaskStatus::Pausing, _) => Status::Paused,
                        (TaskStatus::Stopped, exit) => {
                            Status::Stopped(exit.map_or(0, |exit| exit.status))
                        }
                        (TaskStatus::Unknown, _) => Status::Unknown,
                        // It is being made.
                        (TaskStatus::Created, _) => return None,
                    };
                    (task.pid, status, task.bundle.clone())
                }
            };
        let mut processes = vec![Process { pid, spec: record.init.clone() }];
        if matches!(status, Status::Running | Status::Paused) {
            let added = record.processes.iter().map(|(exec, spec)| async {
                let target = self.target(&record.id, Some(exec.clone()));
                let process = self.tasks.get(&target).await.ok()?;
                let runs = process.pid != 0 && process.status != TaskStatus::Stopped;
                runs.then(|| Process { pid: process.pid, spec: spec.clone() })
            });
            let mut added: Vec<_> = join_all(added).await.into_iter().flatten().collect();
            added.sort_by_key(|process| process.pid);
            processes.extend(added);
        }
        Some(Container {
            id: record.id,
            bundle: record.bundle.unwrap_or(folder),
            status,
            processes,
        })
    }
}
