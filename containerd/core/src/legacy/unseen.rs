//! Ends of which nobody could hear when they happened.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard},
};

use shim_protocol::Id;

use super::lock;
use crate::events::{Ending, Happening};

/// How processes ended before clients were served.
#[derive(Default)]
pub(super) struct Unseen(Mutex<Known>);

#[derive(Default)]
struct Known {
    /// What ends from now on can be heard.
    are_served: bool,
    /// By container and exec; `None` is the first process.
    ended: BTreeMap<(Id, Option<Id>), Ending>,
}

impl Unseen {
    /// Notes what was published before clients were served. Says whether the
    /// container is to be looked at.
    pub(super) fn hear(&self, id: &Id, happening: Happening) -> bool {
        let (exec, ending) = match happening {
            Happening::Ended(ending) => (None, ending),
            Happening::ExecEnded { exec, ending } => (Some(exec), ending),
            Happening::Started { .. } => {
                // It was another of that name that had ended.
                self.forget(id);
                return false;
            }
            _ => return false,
        };
        self.known().ended.insert((id.clone(), exec), ending);
        true
    }

    /// From now on clients hear what ends.
    pub(super) fn serve(&self) {
        self.known().are_served = true;
    }

    /// Whether they do.
    pub(super) fn are_served(&self) -> bool {
        self.known().are_served
    }

    /// A process was found that has ended; says whether that was unseen.
    pub(super) fn found(&self, id: &Id, exec: Option<&Id>, ending: Ending) -> bool {
        let mut known = self.known();
        let key = (id.clone(), exec.cloned());
        if known.are_served {
            // Clients have heard it, or will, although it may not have come to us.
            return known.ended.get(&key).is_some_and(|known| known.pid == ending.pid);
        }
        known.ended.insert(key, ending);
        true
    }

    /// How a process ended, if that was unseen.
    pub(super) fn of(&self, id: &Id, exec: Option<&Id>) -> Option<Ending> {
        self.known().ended.get(&(id.clone(), exec.cloned())).copied()
    }

    /// A container is no more.
    pub(super) fn forget(&self, id: &Id) {
        self.known().ended.retain(|(container, _), _| container != id);
    }

    /// A process of a container is no more.
    pub(super) fn forget_process(&self, id: &Id, exec: Option<&Id>) {
        self.known().ended.remove(&(id.clone(), exec.cloned()));
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        lock(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    fn ending(pid: u32) -> Ending {
        Ending { pid, status: 0, at: UNIX_EPOCH }
    }

    #[test]
    fn what_ends_while_clients_are_served_is_seen() {
        let (unseen, a) = (Unseen::default(), Id::new("id", "a").unwrap());
        let exec = Id::new("id", "x").unwrap();
        assert!(unseen.hear(&a, Happening::Ended(ending(1))));
        assert!(unseen.found(&a, Some(&exec), ending(2)));
        unseen.serve();
        let other = Id::new("id", "b").unwrap();
        assert!(!unseen.found(&other, None, ending(3)) && !unseen.found(&a, None, ending(3)));
        assert!(unseen.found(&a, None, ending(1)) && unseen.found(&a, Some(&exec), ending(2)));
        assert_eq!(unseen.of(&other, None), None);
        unseen.forget_process(&a, Some(&exec));
        assert_eq!((unseen.of(&a, Some(&exec)), unseen.of(&a, None)), (None, Some(ending(1))));
        unseen.forget(&a);
        assert_eq!(unseen.of(&a, None), None);
    }

    #[test]
    fn one_that_was_started_again_has_not_ended() {
        let (unseen, a) = (Unseen::default(), Id::new("id", "a").unwrap());
        assert!(unseen.hear(&a, Happening::Ended(ending(1))));
        assert!(!unseen.hear(&a, Happening::Started { pid: 2 }));
        assert_eq!(unseen.of(&a, None), None);
    }
}
