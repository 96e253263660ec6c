//! Which tasks there are. The lock is held for single map operations only.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use shim_protocol::{Error, Id, Result};

use crate::{Task, address::Address, bundle::Bundle};

/// A task, or the place of one that is being made.
#[derive(Default)]
struct Slot {
    address: Option<Address>,
    task: Option<Arc<Task>>,
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
        slot.task = Some(task);
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
        let slots = self.slots();
        let slot = slots.get(namespace).and_then(|tasks| tasks.get(id));
        let task = slot.and_then(|slot| slot.task.clone());
        task.ok_or_else(|| Error::not_found(format!("task {id:?}")))
    }

    /// All tasks of a namespace, by id.
    pub(crate) fn list(&self, namespace: &Id) -> Vec<Arc<Task>> {
        let slots = self.slots();
        let tasks = slots.get(namespace).into_iter().flat_map(|tasks| tasks.values());
        tasks.filter_map(|slot| slot.task.clone()).collect()
    }

    /// The namespaces that have tasks.
    pub(crate) fn namespaces(&self) -> Vec<Id> {
        let slots = self.slots();
        let mut names: Vec<Id> = slots
            .iter()
            .filter(|(_, tasks)| tasks.values().any(|slot| slot.task.is_some()))
            .map(|(name, _)| name.clone())
            .collect();
        names.sort_unstable();
        names
    }

    /// Is there anything at the place of this bundle?
    pub(crate) fn contains(&self, namespace: &Id, id: &Id) -> bool {
        self.slots().get(namespace).is_some_and(|tasks| tasks.contains_key(id))
    }

    /// Does the shim at `address` hold another task than that of `bundle`? One
    /// that was deleted just now does not count: of the last two that go at
    /// once, each takes the shim for its own.
    pub(crate) fn is_shared(&self, address: &Address, bundle: &Bundle) -> bool {
        let slots = self.slots();
        slots.iter().any(|(namespace, tasks)| {
            tasks.iter().any(|(id, slot)| {
                slot.address.as_ref() == Some(address)
                    && (namespace, id) != (bundle.namespace(), bundle.id())
                    && !slot.task.as_ref().is_some_and(|task| task.is_deleted())
            })
        })
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<Id, BTreeMap<Id, Slot>>> {
        // No operation above can panic halfway through a change.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use shim_protocol::ErrorKind;

    use super::*;
    use crate::{ManagerConfig, Timeouts};

    fn bundle(id: &str) -> Bundle {
        let config = ManagerConfig {
            root: "/r".into(),
            state: "/s".into(),
            grpc_address: String::new(),
            ttrpc_address: String::new(),
            env: Vec::new(),
            debug: false,
            timeouts: Timeouts::default(),
        };
        let name = Id::new("namespace", "ns").unwrap();
        Bundle::at(&config, &name, &Id::new("id", id).unwrap())
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
}
