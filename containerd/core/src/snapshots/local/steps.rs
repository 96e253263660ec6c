//! The steps of a snapshot's life on disk, between which its records change.

use std::time::SystemTime;

use super::*;

/// A snapshot whose folder is there, and which is not recorded yet.
pub(in crate::snapshots) struct Made {
    stack: Stack,
    mounts: Vec<Mount>,
    _at: AtWork,
}

impl Made {
    /// Its record.
    pub(in crate::snapshots) fn row(&self, parent: &str) -> Row {
        let now = SystemTime::now();
        Row {
            id: self.stack.id,
            kind: self.stack.kind,
            parent: parent.to_owned(),
            labels: self.stack.labels.clone(),
            usage: Usage::default(),
            created_at: now,
            updated_at: now,
        }
    }
}

/// A snapshot whose folder is that of a committed one, and which is recorded as
/// active.
pub(in crate::snapshots) struct Fixed {
    fix: Fix,
    _at: AtWork,
}

impl Fixed {
    /// What is to be recorded.
    pub(in crate::snapshots) fn fix(&self) -> &Fix {
        &self.fix
    }
}

/// Somebody's work on a folder that the records do not tell of: its id is among
/// [`Inner::at_work`] until this is dropped.
struct AtWork {
    of: Arc<Inner>,
    id: u64,
}

impl Drop for AtWork {
    fn drop(&mut self) {
        self.of.at_work().remove(&self.id);
    }
}

impl Local {
    /// None when somebody else is at it.
    fn work_on(&self, id: u64) -> Option<AtWork> {
        self.0.at_work().insert(id).then(|| AtWork { of: self.0.clone(), id })
    }

    /// Makes the folder of a snapshot. [`Self::settle`] has to follow.
    ///
    /// # Errors
    /// `NotFound` when there is no such parent; `InvalidArgument` when it is not
    /// committed, or a label makes no sense; those of the disk.
    pub(in crate::snapshots) async fn make(
        &self,
        kind: Kind,
        parent: &str,
        mut labels: Labels,
    ) -> Result<Made> {
        labels::validate(&labels)?;
        labels::drop_empty(&mut labels);
        let parent = parent.to_owned();
        let parents = self.read(move |db, name| record::chain(db, name, &parent)).await?;
        let id = self.0.next.fetch_add(1, Ordering::Relaxed);
        let twice = || Error::internal(format!("folder {id} is made twice"));
        let at = self.work_on(id).ok_or_else(twice)?;
        let stack = Stack { id, kind, parents, labels };
        // What is left of a failure goes with the next cleanup.
        let made = self.blocking(move |driver| {
            driver.make(&stack)?;
            let mounts = driver.mounts(&stack)?;
            Ok(Made { stack, mounts, _at: at })
        });
        let made = made.await;
        fault::point("snapshots.prepare.made");
        made
    }

    /// Ends what [`Self::make`] began: if the snapshot was not recorded, its
    /// folder goes. Answers how it is mounted.
    ///
    /// # Errors
    /// That of `recorded`.
    pub(in crate::snapshots) async fn settle(
        &self,
        made: Made,
        recorded: Result<()>,
    ) -> Result<Vec<Mount>> {
        fault::point("snapshots.prepare.recorded");
        let (id, row) = (made.stack.id, made.row(""));
        // When the disk failed it may be recorded all the same.
        if recorded.is_err() && !self.is_recorded(id).await? {
            self.clear(vec![row]).await?;
        }
        recorded.map(|()| made.mounts)
    }

    /// Prepares the commit of an active snapshot: measures it, and moves its
    /// folder, if that has to be. [`Self::settle_fix`] has to follow.
    ///
    /// # Errors
    /// As [`record::commit`]; `FailedPrecondition` when it is being committed;
    /// `Unimplemented` when it cannot get a parent.
    pub(in crate::snapshots) async fn fix(&self, mut fix: Fix) -> Result<Fixed> {
        labels::validate(&fix.labels)?;
        labels::drop_empty(&mut fix.labels);
        let wanted = fix.clone();
        let id = self.read(move |db, name| Ok(record::fixed(db, name, &wanted)?.id)).await?;
        let busy = || Error::precondition(format!("snapshot {:?} is being committed", fix.key));
        let at = self.work_on(id).ok_or_else(busy)?;
        // Whoever was at it until then may have committed it.
        let (row, stack) = self.stack(&fix.key).await?;
        if row.id != id {
            return Err(record::absent(&fix.key));
        }
        if row.parent != fix.parent && !fix.parent.is_empty() && !self.0.driver.can_rebase() {
            let text = format!("snapshotter {:?} cannot give a snapshot a parent", self.0.name);
            return Err(Error::unimplemented(text));
        }
        let fixed = self.blocking(move |driver| {
            fix.usage = driver.usage(&stack)?;
            driver.fix(stack.id)?;
            Ok(Fixed { fix, _at: at })
        });
        let fixed = fixed.await?;
        fault::point("snapshots.commit.fixed");
        Ok(fixed)
    }

    /// Ends what [`Self::fix`] began: if the commit was not recorded, the
    /// snapshot is active again.
    ///
    /// # Errors
    /// That of `recorded`.
    pub(in crate::snapshots) async fn settle_fix(
        &self,
        fixed: Fixed,
        recorded: Result<()>,
    ) -> Result<()> {
        fault::point("snapshots.commit.recorded");
        if recorded.is_err() {
            let key = fixed.fix.key.clone();
            let row = self.read(move |db, name| record::get(db, name, &key)).await?;
            if let Some(row) = row.filter(|row| row.kind == Kind::Active) {
                self.blocking(move |driver| driver.unfix(row.id)).await?;
            }
        }
        recorded
    }

    /// Removes the folders of snapshots that are in no record any more.
    ///
    /// # Errors
    /// Those of the disk.
    pub(in crate::snapshots) async fn clear(&self, rows: Vec<Row>) -> Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        fault::point("snapshots.remove.recorded");
        let moved = self.blocking(move |driver| {
            let mut moved = Vec::new();
            for row in rows {
                moved.extend(driver.area(row.kind).move_away(row.id)?);
            }
            Ok(moved)
        });
        let moved = moved.await?;
        fault::point("snapshots.remove.moved");
        if moved.is_empty() {
            return Ok(());
        }
        let this = self.0.clone();
        let delete = move || moved.iter().try_for_each(|path| this.driver.delete(path));
        if self.0.sync_remove {
            return self.blocking(move |_| delete()).await;
        }
        drop(self.0.work.spawn_blocking(move || {
            if let Err(e) = delete() {
                tracing::warn!(error = %e.report(), "a removed snapshot was left behind");
            }
        }));
        Ok(())
    }

    /// A snapshot with all that it builds upon.
    ///
    /// # Errors
    /// `NotFound`.
    pub(super) async fn stack(&self, key: &str) -> Result<(Row, Stack)> {
        let key = key.to_owned();
        self.read(move |db, name| {
            let row = record::find(db, name, &key)?;
            let parents = record::chain(db, name, &row.parent).context("mount", &key)?;
            let (id, kind, labels) = (row.id, row.kind, row.labels.clone());
            Ok((row, Stack { id, kind, parents, labels }))
        })
        .await
    }

    async fn is_recorded(&self, id: u64) -> Result<bool> {
        self.read(move |db, name| Ok(record::list(db, name)?.iter().any(|(_, row)| row.id == id)))
            .await
    }
}
