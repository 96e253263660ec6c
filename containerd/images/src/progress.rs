//! How far a transfer has come.
//!
//! Whoever moves something notes it in a [`Tracker`]; whoever shows it asks now
//! and then what has changed. So a transfer never waits for a display, and one
//! that is asked rarely is not flooded.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{Descriptor, Digest, walk};

/// What happens to content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Nothing yet.
    Waiting,
    /// It is on its way.
    Moving,
    /// It has come.
    Complete,
    /// It was there before.
    Exists,
    /// It is being unpacked.
    Extracting,
    /// It is unpacked.
    Extracted,
}

/// How far content has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// What happens to it.
    pub stage: Stage,
    /// What it is called while it is moved, see [`walk::reference_key`].
    pub name: String,
    /// What it is a part of, by such a name; the image's name at the top.
    pub parents: Vec<String>,
    /// How much of it has been done, in bytes.
    pub done: u64,
    /// The content itself; how much is to be done is its size.
    pub descriptor: Descriptor,
}

/// Remembers how far a transfer has come.
#[derive(Debug)]
pub struct Tracker {
    root: String,
    jobs: Mutex<Jobs>,
}

#[derive(Debug, Default)]
struct Jobs {
    /// In the order in which they were added.
    all: Vec<Job>,
    by_digest: HashMap<Digest, usize>,
}

#[derive(Debug)]
struct Job {
    report: Report,
    /// Whether it was told that it waits.
    announced: bool,
    changed: bool,
}

impl Tracker {
    /// Nothing of the image `root` has come.
    pub fn new(root: impl Into<String>) -> Self {
        Self { root: root.into(), jobs: Mutex::default() }
    }

    /// There is more to move: a part of `parent`, or the image itself.
    pub fn add(&self, descriptor: &Descriptor, parent: Option<&Descriptor>) {
        let parent = parent.map_or_else(|| self.root.clone(), walk::reference_key);
        let mut jobs = self.lock();
        if let Some(&known) = jobs.by_digest.get(&descriptor.digest) {
            let report = &mut jobs.all[known].report;
            if !report.parents.contains(&parent) {
                report.parents.push(parent);
            }
            return;
        }
        let index = jobs.all.len();
        jobs.by_digest.insert(descriptor.digest.clone(), index);
        let report = Report {
            stage: Stage::Waiting,
            name: walk::reference_key(descriptor),
            parents: vec![parent],
            done: 0,
            descriptor: descriptor.clone(),
        };
        jobs.all.push(Job { report, announced: false, changed: true });
    }

    /// So many bytes of it have come.
    pub fn moved(&self, digest: &Digest, done: u64) {
        self.change(digest, Stage::Moving, |_| done);
    }

    /// All of it has come.
    pub fn complete(&self, digest: &Digest) {
        self.change(digest, Stage::Complete, |total| total);
    }

    /// It was there before.
    pub fn exists(&self, digest: &Digest) {
        self.change(digest, Stage::Exists, |total| total);
    }

    /// Its unpacking has begun.
    pub fn extracting(&self, digest: &Digest) {
        self.change(digest, Stage::Extracting, |_| 0);
    }

    /// It is unpacked.
    pub fn extracted(&self, digest: &Digest) {
        self.change(digest, Stage::Extracted, |total| total);
    }

    /// What has changed since the last call, parents before their children. For
    /// what is new there is first a report that it waits.
    pub fn changes(&self) -> Vec<Report> {
        let mut changes = Vec::new();
        for job in self.lock().all.iter_mut().filter(|job| job.changed) {
            if !job.announced && job.report.stage != Stage::Waiting {
                changes.push(Report { stage: Stage::Waiting, done: 0, ..job.report.clone() });
            }
            changes.push(job.report.clone());
            (job.announced, job.changed) = (true, false);
        }
        changes
    }

    fn change(&self, digest: &Digest, stage: Stage, done: impl FnOnce(u64) -> u64) {
        let mut jobs = self.lock();
        let Some(&index) = jobs.by_digest.get(digest) else { return };
        let job = &mut jobs.all[index];
        let done = done(job.report.descriptor.size);
        if (job.report.stage, job.report.done) != (stage, done) {
            (job.report.stage, job.report.done) = (stage, done);
            job.changed = true;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Jobs> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Algorithm, media_type};

    fn layer(content: &str) -> Descriptor {
        let digest = Digest::of(Algorithm::Sha256, content.as_bytes());
        Descriptor::new(media_type::OCI_LAYER, digest, 10)
    }

    fn stages(tracker: &Tracker) -> Vec<(Stage, u64)> {
        tracker.changes().into_iter().map(|report| (report.stage, report.done)).collect()
    }

    #[test]
    fn only_changes_are_told_and_waiting_always_first() {
        let (tracker, layer) = (Tracker::new("image"), layer("a"));
        tracker.add(&layer, None);
        tracker.moved(&layer.digest, 4);
        assert_eq!(stages(&tracker), [(Stage::Waiting, 0), (Stage::Moving, 4)]);
        assert_eq!(stages(&tracker), []);
        tracker.moved(&layer.digest, 4);
        assert_eq!(stages(&tracker), []);
        tracker.moved(&layer.digest, 7);
        tracker.complete(&layer.digest);
        assert_eq!(stages(&tracker), [(Stage::Complete, 10)]);
    }

    #[test]
    fn a_part_knows_all_that_it_is_a_part_of() {
        let (tracker, parent, child) = (Tracker::new("image"), layer("a"), layer("b"));
        tracker.add(&parent, None);
        tracker.add(&child, Some(&parent));
        tracker.add(&child, None);
        let reports = tracker.changes();
        assert_eq!(reports[0].parents, ["image"]);
        assert_eq!(reports[1].parents, [reports[0].name.clone(), "image".into()]);
        assert_eq!(reports.len(), 2);
    }
}
