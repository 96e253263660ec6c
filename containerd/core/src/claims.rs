//! Things that one at a time may work on, by name.

use std::{
    collections::HashSet,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

/// Which names are taken. Cheap to clone; all clones are one.
#[derive(Debug)]
pub(crate) struct Claims<K>(Arc<Shared<K>>);

#[derive(Debug)]
struct Shared<K> {
    taken: Mutex<HashSet<K>>,
    released: Notify,
    /// How often somebody had to wait.
    #[cfg(test)]
    waits: std::sync::atomic::AtomicUsize,
}

/// A name that is ours until this is dropped.
#[derive(Debug)]
pub(crate) struct Claim<K: Eq + Hash> {
    claims: Arc<Shared<K>>,
    key: K,
}

impl<K> Default for Claims<K> {
    fn default() -> Self {
        Self(Arc::new(Shared {
            taken: Mutex::default(),
            released: Notify::new(),
            #[cfg(test)]
            waits: Default::default(),
        }))
    }
}

impl<K: Eq + Hash + Clone> Claims<K> {
    /// Takes a name, as soon as it is free.
    pub(crate) async fn take(&self, key: &K) -> Claim<K> {
        loop {
            let mut released = std::pin::pin!(self.0.released.notified());
            // From here on no release is missed.
            released.as_mut().enable();
            if lock(&self.0.taken).insert(key.clone()) {
                return Claim { claims: self.0.clone(), key: key.clone() };
            }
            #[cfg(test)]
            self.0.waits.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            released.await;
        }
    }

    /// How often somebody had to wait for a name until now.
    #[cfg(test)]
    pub(crate) fn waits(&self) -> usize {
        self.0.waits.load(std::sync::atomic::Ordering::SeqCst)
    }

    /// Takes a name, if it is free.
    pub(crate) fn try_take(&self, key: &K) -> Option<Claim<K>> {
        let free = lock(&self.0.taken).insert(key.clone());
        free.then(|| Claim { claims: self.0.clone(), key: key.clone() })
    }
}

impl<K: Eq + Hash> Drop for Claim<K> {
    fn drop(&mut self) {
        lock(&self.claims.taken).remove(&self.key);
        self.claims.released.notify_waiters();
    }
}

fn lock<K>(taken: &Mutex<HashSet<K>>) -> MutexGuard<'_, HashSet<K>> {
    // One insertion or removal cannot be left halfway.
    taken.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::{
        pin::Pin,
        task::{Context, Waker},
    };

    use super::*;

    #[tokio::test]
    async fn one_name_is_for_one_at_a_time() {
        let claims = Claims::default();
        let (a, b) = (claims.take(&"a").await, claims.take(&"b").await);
        let mut second = Box::pin(claims.take(&"a"));
        assert!(!is_ready(&mut second));
        drop(b);
        assert!(!is_ready(&mut second));
        drop(a);
        drop(second.await);
        claims.take(&"a").await;
    }

    fn is_ready(future: &mut (impl Future + Unpin)) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        Pin::new(future).poll(&mut context).is_ready()
    }
}
