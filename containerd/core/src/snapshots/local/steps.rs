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
    /// What is recorded until then.
    row: Row,
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
        let made = made.await.inspect_err(|_| self.set_unswept());
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
        if recorded.is_err() {
            self.clear_unrecorded(made.row("")).await;
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
        let at = self.work_on(id).ok_or_else(|| busy(&fix.key))?;
        // Whoever was at it until then may have committed it.
        let (row, stack) = self.stack(&fix.key).await?;
        if row.id != id {
            return Err(record::absent(&fix.key));
        }
        if row.parent != fix.parent && !fix.parent.is_empty() && !self.0.driver.can_rebase() {
            let text = format!("snapshotter {:?} cannot give a snapshot a parent", self.0.name);
            return Err(Error::unimplemented(text));
        }
        let of = row.clone();
        let fixed = self.blocking(move |driver| {
            fix.usage = driver.usage(&stack)?;
            driver.fix(stack.id)?;
            Ok(Fixed { fix, row: of, _at: at })
        });
        let fixed = fixed.await;
        if fixed.is_err() {
            // Whoever has removed it meanwhile may not have found the folder.
            self.clear_unrecorded(row).await;
        }
        fault::point("snapshots.commit.fixed");
        fixed
    }

    /// Ends what [`Self::fix`] began: if the commit was not recorded, the
    /// snapshot is active again, or gone if it was removed meanwhile.
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
            let Fixed { fix, row, _at: at } = fixed;
            if let Err(e) = self.unfix(&fix.key, row.id).await {
                let name = &fix.key;
                tracing::warn!(name, error = %e.report(), "a snapshot is not writable again");
            }
            // Whoever removes it from now on finds it.
            self.clear_unrecorded(row).await;
            drop(at);
        }
        recorded
    }

    /// Moves the folder of a snapshot back, if it is still recorded as active.
    async fn unfix(&self, key: &str, id: u64) -> Result<()> {
        let key = key.to_owned();
        let found = self.read(move |db, name| record::get(db, name, &key)).await?;
        match found.filter(|row| row.kind == Kind::Active && row.id == id) {
            Some(_) => self.blocking(move |driver| driver.unfix(id)).await,
            None => Ok(()),
        }
    }

    /// Removes the folder of what could not be recorded; unless it is recorded
    /// all the same, as it may be when the disk failed.
    async fn clear_unrecorded(&self, row: Row) {
        let cleared = match self.is_recorded(row.id).await {
            Ok(true) => return,
            Ok(false) => self.clear(vec![row]).await,
            Err(e) => Err(e),
        };
        if let Err(e) = cleared {
            self.leave(&e);
        }
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
                let mut found = driver.area(row.kind).move_away(row.id)?;
                if found.is_none() && row.kind == Kind::Active {
                    // A commit may have moved it.
                    found = driver.area(Kind::Committed).move_away(row.id)?;
                }
                moved.extend(found);
            }
            Ok(moved)
        });
        let moved = moved.await.inspect_err(|_| self.set_unswept())?;
        fault::point("snapshots.remove.moved");
        if moved.is_empty() {
            return Ok(());
        }
        let this = self.clone();
        let delete = move || moved.iter().try_for_each(|path| this.0.driver.delete(path));
        if self.0.sync_remove {
            let deleted = self.blocking(move |_| delete()).await;
            return deleted.inspect_err(|_| self.set_unswept());
        }
        let this = self.clone();
        drop(self.0.work.spawn_blocking(move || {
            if let Err(e) = delete() {
                this.leave(&e);
            }
        }));
        Ok(())
    }

    /// What cannot be removed now is left to the next cleanup.
    pub(super) fn leave(&self, why: &Error) {
        tracing::warn!(error = %why.report(), "a removed snapshot was left behind");
        self.set_unswept();
    }

    fn set_unswept(&self) {
        self.0.unswept.store(true, Ordering::Relaxed);
    }

    /// Whether there may be something for a cleanup, since this was last asked.
    pub(in crate::snapshots) fn take_unswept(&self) -> bool {
        self.0.unswept.swap(false, Ordering::Relaxed)
    }

    /// What `told` says of a record, else what `look` finds where it says that
    /// the folder is.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` when it is being committed; those of
    /// `told` and `look`.
    pub(super) async fn look<T: Send + 'static>(
        &self,
        key: &str,
        told: impl Fn(&Row) -> Result<Option<T>> + Send,
        look: impl Fn(&dyn Driver, &Stack) -> Result<T> + Clone + Send + 'static,
    ) -> Result<T> {
        let mut tries = 0..2;
        loop {
            let (row, stack) = self.stack(key).await?;
            if let Some(told) = told(&row)? {
                return Ok(told);
            }
            let (look, id) = (look.clone(), row.id);
            let looked = self.blocking(move |driver| {
                let found = look(driver, &stack);
                let area = driver.area(stack.kind);
                let is_away = found.is_err() && !area.path(stack.id).is_dir();
                Ok((found, is_away))
            });
            let (found, is_away) = looked.await?;
            if is_away && self.0.at_work().contains(&id) {
                return Err(busy(key));
            }
            // A commit that has ended since then has moved the folder to where
            // its record says now, or back.
            if found.is_ok() || tries.next().is_none() {
                return found;
            }
        }
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

/// Somebody is committing it.
fn busy(key: &str) -> Error {
    Error::precondition(format!("snapshot {key:?} is being committed"))
}
