//! One lock for each container, made when it is needed.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use shim_protocol::Id;
use tokio::sync::OwnedMutexGuard;

type Lock = Arc<tokio::sync::Mutex<()>>;

/// Locks by the name of what they are for. One that nobody holds or waits for
/// takes no memory.
#[derive(Default)]
pub(super) struct Locks(Arc<Mutex<HashMap<Id, Lock>>>);

/// The lock is held.
pub(super) struct Held {
    all: Arc<Mutex<HashMap<Id, Lock>>>,
    id: Id,
    guard: Option<OwnedMutexGuard<()>>,
}

impl Locks {
    /// Waits until nobody else has the lock of `id`.
    pub(super) async fn hold(&self, id: &Id) -> Held {
        let lock = {
            let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            all.entry(id.clone()).or_default().clone()
        };
        // Made first, so that a caller that gives up waiting cleans up, too.
        let mut held = Held { all: self.0.clone(), id: id.clone(), guard: None };
        held.guard = Some(lock.lock_owned().await);
        held
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.guard.take());
        // Whoever waits has a handle as well, taken under the lock we have.
        if all.get(&self.id).is_some_and(|lock| Arc::strong_count(lock) == 1) {
            all.remove(&self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn one_after_the_other_and_nothing_left() {
        let (locks, a) = (Locks::default(), Id::new("id", "a").unwrap());
        let first = locks.hold(&a).await;
        let mut second = Box::pin(locks.hold(&a));
        assert!(second.as_mut().now_or_never().is_none());
        let other = locks.hold(&Id::new("id", "b").unwrap()).await;
        drop(first);
        let second = second.await;
        drop((second, other));
        assert!(locks.0.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn one_who_gives_up_leaves_nothing() {
        let (locks, a) = (Locks::default(), Id::new("id", "a").unwrap());
        let first = locks.hold(&a).await;
        let mut second = Box::pin(locks.hold(&a));
        assert!(second.as_mut().now_or_never().is_none());
        drop(first);
        drop(second);
        assert!(locks.0.lock().unwrap().is_empty());
    }
}
