//! Which tasks there are. The lock is held for single map operations only.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use shim_protocol::{Error, Id, Result};
use tokio::sync::watch;

use crate::{Task, address::Address, bundle::Bundle};

/// The place of a task.
#[derive(Default)]
struct Slot {
    address: Option<Address>,
    holds: Holds,
}

/// What is in a place.
enum Holds {
    /// A task that is being made. Dropped when it is made, or is not.
    Reserved(watch::Sender<()>),
    /// A bundle of which it could not be told what became.
    Left,
    Task(Arc<Task>),
}

/// What is found in a place.
pub(crate) enum Found {
    /// Nothing.
    Free,
    /// A task that is being made, and an end that closes when that is over.
    Reserved(watch::Receiver<()>),
    /// A bundle of which it could not be told what became.
    Left,
    /// A task.
    Task(Arc<Task>),
}

/// All tasks, by namespace and id.
#[derive(Default)]
pub(crate) struct Registry {
    slots: Mutex<HashMap<Id, BTreeMap<Id, Slot>>>,
}

impl Registry {
    /// Keeps the place of a task that is being made.
    ///
    /// # Errors
    /// `AlreadyExists` when it is taken.
    pub(crate) fn reserve(&self, bundle: &Bundle) -> Result<()> {
        let mut slots = self.slots();
        let namespace = slots.entry(bundle.namespace().clone()).or_default();
        if namespace.contains_key(bundle.id()) {
            return Err(Error::already_exists(format!("task {:?}", bundle.id())));
        }
        namespace.insert(bundle.id().clone(), Slot::default());
        Ok(())
    }

    /// Keeps the place of a bundle of which it could not be told what became,
    /// unless it is taken. `address` is where its shim listens, if that is known.
    pub(crate) fn leave(&self, bundle: &Bundle, address: Option<Address>) {
        let mut slots = self.slots();
        let namespace = slots.entry(bundle.namespace().clone()).or_default();
        let left = || Slot { address, holds: Holds::Left };
        namespace.entry(bundle.id().clone()).or_insert_with(left);
    }

    /// Notes where the shim of a reserved task listens.
    pub(crate) fn note_address(&self, bundle: &Bundle, address: Address) {
        let mut slots = self.slots();
        let namespace = slots.entry(bundle.namespace().clone()).or_default();
        namespace.entry(bundle.id().clone()).or_default().address = Some(address);
    }

    /// Puts a task into its place.
    pub(crate) fn insert(&self, task: Arc<Task>) {
        let mut slots = self.slots();
        let namespace = slots.entry(task.namespace().clone()).or_default();
        let slot = namespace.entry(task.id().clone()).or_default();
        slot.holds = Holds::Task(task);
    }

    /// Forgets a task, or frees its place.
    pub(crate) fn remove(&self, bundle: &Bundle) {
        let mut slots = self.slots();
        if let Some(namespace) = slots.get_mut(bundle.namespace()) {
            namespace.remove(bundle.id());
            if namespace.is_empty() {
                slots.remove(bundle.namespace());
            }
        }
    }

    /// Forgets all.
    pub(crate) fn clear(&self) {
        self.slots().clear();
    }

    /// The task of a container.
    ///
    /// # Errors
    /// `NotFound` when there is none, or it is not ready.
    pub(crate) fn get(&self, namespace: &Id, id: &Id) -> Result<Arc<Task>> {
        match self.find(namespace, id) {
            Found::Task(task) => Ok(task),
            _ => Err(Error::not_found(format!("task {id:?}"))),
        }
    }

    /// What is at the place of a container.
    pub(crate) fn find(&self, namespace: &Id, id: &Id) -> Found {
        let slots = self.slots();
        match slots.get(namespace).and_then(|tasks| tasks.get(id)).map(|slot| &slot.holds) {
            None => Found::Free,
            Some(Holds::Reserved(made)) => Found::Reserved(made.subscribe()),
            Some(Holds::Left) => Found::Left,
            Some(Holds::Task(task)) => Found::Task(task.clone()),
        }
    }

    /// All tasks of a namespace, by id.
    pub(crate) fn list(&self, namespace: &Id) -> Vec<Arc<Task>> {
        let slots = self.slots();
        let tasks = slots.get(namespace).into_iter().flat_map(|tasks| tasks.values());
        tasks.filter_map(|slot| slot.task().cloned()).collect()
    }

    /// The namespaces that have tasks.
    pub(crate) fn namespaces(&self) -> Vec<Id> {
        let slots = self.slots();
        let mut names: Vec<Id> = slots
            .iter()
            .filter(|(_, tasks)| tasks.values().any(|slot| slot.task().is_some()))
            .map(|(name, _)| name.clone())
            .collect();
        names.sort_unstable();
        names
    }

    /// Is there anything at the place of this bundle?
    pub(crate) fn contains(&self, namespace: &Id, id: &Id) -> bool {
        self.slots().get(namespace).is_some_and(|tasks| tasks.contains_key(id))
    }

    /// Does the shim at `address` hold another task than that of `bundle`, or may
    /// it do so? One that was deleted just now does not count: of the last two
    /// that go at once, each takes the shim for its own.
    pub(crate) fn is_shared(&self, address: &Address, bundle: &Bundle) -> bool {
        let slots = self.slots();
        slots.iter().any(|(namespace, tasks)| {
            tasks.iter().any(|(id, slot)| {
                let is_there = match (&slot.address, &slot.holds) {
                    // A group is of one namespace.
                    (None, Holds::Left) => namespace == bundle.namespace(),
                    (at, _) => at.as_ref() == Some(address),
                };
                is_there
                    && (namespace, id) != (bundle.namespace(), bundle.id())
                    && !slot.task().is_some_and(|task| task.is_deleted())
            })
        })
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<Id, BTreeMap<Id, Slot>>> {
        // No operation above can panic halfway through a change.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    fn task(&self) -> Option<&Arc<Task>> {
        match &self.holds {
            Holds::Task(task) => Some(task),
            Holds::Reserved(_) | Holds::Left => None,
        }
    }
}

impl Default for Holds {
    fn default() -> Self {
        Self::Reserved(watch::Sender::default())
    }
}

#[cfg(test)]
mod tests {
    use shim_protocol::ErrorKind;

    use super::*;
    use crate::{ManagerConfig, Timeouts};

    fn config() -> ManagerConfig {
        ManagerConfig {
            root: "/r".into(),
            state: "/s".into(),
            grpc_address: String::new(),
            ttrpc_address: String::new(),
            env: Vec::new(),
            debug: false,
            timeouts: Timeouts::default(),
        }
    }

    fn bundle(id: &str) -> Bundle {
        let name = Id::new("namespace", "ns").unwrap();
        Bundle::at(&config(), &name, &Id::new("id", id).unwrap())
    }

    #[test]
    fn a_place_is_taken_once_and_not_yet_a_task() {
        let registry = Registry::default();
        let a = bundle("a");
        registry.reserve(&a).unwrap();
        assert_eq!(registry.reserve(&a).unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert!(registry.get(a.namespace(), a.id()).is_err_and(|e| e.is_not_found()));
        assert!(registry.list(a.namespace()).is_empty());
        assert!(registry.namespaces().is_empty());
        registry.remove(&a);
        registry.reserve(&a).unwrap();
    }

    #[test]
    fn a_shim_is_shared_while_another_task_is_there_or_on_its_way() {
        let registry = Registry::default();
        let (a, b) = (bundle("a"), bundle("b"));
        let address = Address::Abstract("/x".into());
        for bundle in [&a, &b] {
            registry.reserve(bundle).unwrap();
            assert!(!registry.is_shared(&address, &a));
            registry.note_address(bundle, address.clone());
        }
        assert!(registry.is_shared(&address, &a));
        registry.remove(&b);
        assert!(!registry.is_shared(&address, &a));
    }

    /// Its container may live, in a shim of which nobody knows.
    #[test]
    fn a_shim_may_be_that_of_a_bundle_that_is_left() {
        let registry = Registry::default();
        let (a, b, c) = (bundle("a"), bundle("b"), bundle("c"));
        let at = |name: &str| Address::Abstract(name.into());
        registry.leave(&b, Some(at("/x")));
        assert!(registry.is_shared(&at("/x"), &a) && !registry.is_shared(&at("/y"), &a));
        registry.leave(&c, None);
        assert!(registry.is_shared(&at("/y"), &a));
        assert!(registry.contains(c.namespace(), c.id()));
        assert_eq!(registry.reserve(&c).unwrap_err().kind(), ErrorKind::AlreadyExists);
        let elsewhere = Id::new("namespace", "elsewhere").unwrap();
        assert!(!registry.is_shared(&at("/y"), &Bundle::at(&config(), &elsewhere, a.id())));
        // Whoever has the place keeps it.
        registry.reserve(&a).unwrap();
        registry.leave(&a, None);
        assert!(matches!(registry.find(a.namespace(), a.id()), Found::Reserved(_)));
    }

    #[tokio::test]
    async fn who_waits_for_a_place_hears_what_becomes_of_it() {
        let registry = Registry::default();
        let a = bundle("a");
        registry.reserve(&a).unwrap();
        let Found::Reserved(mut made) = registry.find(a.namespace(), a.id()) else {
            panic!("it is reserved");
        };
        registry.note_address(&a, Address::Abstract("/x".into()));
        assert!(made.has_changed().is_ok_and(|changed| !changed));
        registry.remove(&a);
        assert!(made.changed().await.is_err());
        assert!(matches!(registry.find(a.namespace(), a.id()), Found::Free));
    }
}
