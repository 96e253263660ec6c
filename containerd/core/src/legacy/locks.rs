//! Locks of what there are any number of, made when they are needed.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::OwnedMutexGuard;

type Lock = Arc<tokio::sync::Mutex<()>>;

/// Locks by what they are for. One that nobody holds or waits for takes no memory.
pub(super) struct Locks<K>(Arc<Mutex<HashMap<K, Lock>>>);

/// The lock is held.
pub(super) struct Held<K: Eq + Hash> {
    all: Arc<Mutex<HashMap<K, Lock>>>,
    key: K,
    guard: Option<OwnedMutexGuard<()>>,
}

impl<K> Default for Locks<K> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K: Clone + Eq + Hash> Locks<K> {
    /// Waits until nobody else has the lock of `key`.
    pub(super) async fn hold(&self, key: &K) -> Held<K> {
        let lock = {
            let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            all.entry(key.clone()).or_default().clone()
        };
        // Made first, so that a caller that gives up waiting cleans up, too.
        let mut held = Held { all: self.0.clone(), key: key.clone(), guard: None };
        held.guard = Some(lock.lock_owned().await);
        held
    }
}

impl<K: Eq + Hash> Drop for Held<K> {
    fn drop(&mut self) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.guard.take());
        // Whoever waits has a handle as well, taken under the lock we have.
        if all.get(&self.key).is_some_and(|lock| Arc::strong_count(lock) == 1) {
            all.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use shim_protocol::Id;

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
