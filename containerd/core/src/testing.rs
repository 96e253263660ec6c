//! What tests of several modules share.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use shim_protocol::{Error, Id, Result};

use crate::{
    Any,
    announce::{Announcer, ObjectEvent, ObjectEvents},
    containers::{Container, Containers, Runtime},
    images::Images,
    leases::Leases,
    metadata::{Db, testing::Disk},
    namespaces::Namespaces,
    sandboxes::Sandboxes,
};

/// All stores, on one disk.
pub(crate) struct World {
    pub(crate) disk: Disk,
    pub(crate) db: Db,
    pub(crate) announcer: Announcer,
    pub(crate) namespaces: Namespaces,
    pub(crate) containers: Containers,
    pub(crate) leases: Leases,
    pub(crate) images: Images,
    pub(crate) sandboxes: Sandboxes,
    pub(crate) events: Arc<Recorder>,
}

impl World {
    /// An empty world. Needs a tokio runtime.
    pub(crate) fn new() -> Self {
        let (disk, events) = (Disk::default(), Arc::new(Recorder::default()));
        let db = disk.open().unwrap();
        let announcer = Announcer::start(events.clone());
        Self {
            namespaces: Namespaces::new(db.clone(), announcer.clone()),
            containers: Containers::new(db.clone(), announcer.clone()),
            leases: Leases::new(db.clone()),
            images: Images::new(db.clone(), announcer.clone()),
            sandboxes: Sandboxes::new(db.clone()),
            disk,
            db,
            announcer,
            events,
        }
    }
}

/// Remembers what was announced.
#[derive(Default)]
pub(crate) struct Recorder {
    events: Mutex<Vec<(Id, ObjectEvent)>>,
    refuses: Mutex<bool>,
}

impl Recorder {
    /// What was announced since the last call.
    pub(crate) fn take(&self) -> Vec<(Id, ObjectEvent)> {
        std::mem::take(&mut self.events.lock().unwrap())
    }

    /// From now on nothing can be published.
    pub(crate) fn refuse(&self) {
        *self.refuses.lock().unwrap() = true;
    }
}

#[async_trait]
impl ObjectEvents for Recorder {
    async fn publish_object(&self, namespace: &Id, event: ObjectEvent) -> Result<()> {
        if *self.refuses.lock().unwrap() {
            return Err(Error::unavailable("nobody listens"));
        }
        self.events.lock().unwrap().push((namespace.clone(), event));
        Ok(())
    }
}

/// A good identifier.
pub(crate) fn id(text: &str) -> Id {
    Id::new("id", text).unwrap()
}

/// Labels from pairs.
pub(crate) fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

/// A message whose content does not matter.
pub(crate) fn any(value: &str) -> Any {
    Any { type_url: "test".into(), value: value.into() }
}

/// A container with all that it must have.
pub(crate) fn container(name: &str) -> Container {
    Container {
        id: id(name),
        labels: BTreeMap::new(),
        image: String::new(),
        runtime: Runtime { name: "io.containerd.runc.v2".into(), options: None },
        spec: Some(any("{}")),
        snapshotter: String::new(),
        snapshot_key: String::new(),
        created_at: std::time::SystemTime::UNIX_EPOCH,
        updated_at: std::time::SystemTime::UNIX_EPOCH,
        extensions: BTreeMap::new(),
        sandbox: String::new(),
    }
}
