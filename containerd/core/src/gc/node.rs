//! What can be referred to.

use shim_protocol::{Id, Result};

use crate::{
    leases::Resource,
    metadata::{
        Key,
        schema::{CONTAINERS, CONTENT, IMAGES, LEASES, SNAPSHOTS, Table},
    },
};

/// A sort of record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Kind {
    Container,
    Content,
    Image,
    Lease,
    Snapshot,
}

impl Kind {
    pub(super) fn table(self) -> Table {
        match self {
            Self::Container => CONTAINERS,
            Self::Content => CONTENT,
            Self::Image => IMAGES,
            Self::Lease => LEASES,
            Self::Snapshot => SNAPSHOTS,
        }
    }
}

/// A record of a namespace, whether it is there or not: clients may refer to
/// what was never made.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Node {
    pub(super) kind: Kind,
    /// Its key below the namespace, without the last byte: for snapshots the
    /// name of the snapshotter, a NUL byte and their own key.
    pub(super) name: String,
}

impl Node {
    pub(super) fn new(kind: Kind, name: impl Into<String>) -> Self {
        Self { kind, name: name.into() }
    }

    pub(super) fn snapshot(snapshotter: &str, key: &str) -> Self {
        Self::new(Kind::Snapshot, format!("{snapshotter}\0{key}"))
    }

    /// What a lease holds; none for what is no record.
    pub(super) fn held(resource: &Resource) -> Option<Self> {
        match (resource.kind.as_str(), resource.kind.strip_prefix("snapshots/")) {
            ("content", _) => Some(Self::new(Kind::Content, &resource.id)),
            ("images", _) => Some(Self::new(Kind::Image, &resource.id)),
            (_, Some(snapshotter)) => Some(Self::snapshot(snapshotter, &resource.id)),
            _ => None,
        }
    }

    /// Snapshotter and key, if it is a snapshot.
    pub(super) fn parts(&self) -> Option<(&str, &str)> {
        match self.kind {
            Kind::Snapshot => self.name.split_once('\0'),
            _ => None,
        }
    }

    /// Its key in the table of its kind; none if no record can have that name.
    pub(super) fn key(&self, namespace: &Id) -> Result<Option<Key>> {
        let (first, second) = match self.kind {
            Kind::Snapshot => match self.name.split_once('\0') {
                Some((snapshotter, key)) => (snapshotter, Some(key)),
                None => return Ok(None),
            },
            _ => (self.name.as_str(), None),
        };
        // A label may have any text for a value.
        if first.contains('\0') || second.is_some_and(|key| key.contains('\0')) {
            return Ok(None);
        }
        match second {
            Some(key) => Key::new(&[namespace, first, key]).map(Some),
            None => Key::new(&[namespace, first]).map(Some),
        }
    }
}
