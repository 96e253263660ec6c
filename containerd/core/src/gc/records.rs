//! The records of a namespace, as a graph; tags as in the drawing of
//! [`crate::metadata::schema`]. Only what matters here is decoded.

use std::{collections::BTreeMap, ops::ControlFlow, time::SystemTime};

use prost::Message;
use redb::TableHandle;
use shim_protocol::{Error, ErrorKind, Id, Result};

use super::{
    FLAT_LABEL,
    label::{self, is_expired, is_root},
    mark::{Depth, Graph, Marks, Saying},
    node::{Kind, Node},
};
use crate::{
    leases::Resource,
    metadata::{
        Key, Read, Touched, last_part, last_parts,
        schema::{
            CONTAINERS, CONTENT, IMAGES, LEASE_RESOURCES, LEASES, SANDBOXES, SNAPSHOTS, Table,
        },
    },
};

/// Where records are that say something.
const TABLES: [Table; 6] = [LEASES, IMAGES, CONTENT, CONTAINERS, SNAPSHOTS, SANDBOXES];

/// What every object has.
#[derive(Clone, PartialEq, Message)]
struct Labelled {
    #[prost(btree_map = "string, string", tag = "1")]
    labels: BTreeMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
struct Image {
    #[prost(btree_map = "string, string", tag = "1")]
    labels: BTreeMap<String, String>,
    #[prost(message, optional, tag = "2")]
    target: Option<Target>,
}

#[derive(Clone, PartialEq, Message)]
struct Target {
    #[prost(string, tag = "2")]
    digest: String,
}

#[derive(Clone, PartialEq, Message)]
struct Snapshot {
    #[prost(btree_map = "string, string", tag = "1")]
    labels: BTreeMap<String, String>,
    #[prost(string, tag = "2")]
    parent: String,
}

#[derive(Clone, PartialEq, Message)]
struct Container {
    #[prost(btree_map = "string, string", tag = "1")]
    labels: BTreeMap<String, String>,
    #[prost(string, tag = "6")]
    snapshotter: String,
    #[prost(string, tag = "7")]
    snapshot_key: String,
}

/// The records of one namespace.
pub(super) struct Records<'a, R> {
    pub(super) db: &'a R,
    pub(super) namespace: &'a Id,
    pub(super) now: SystemTime,
}

impl<R: Read> Records<'_, R> {
    /// Calls `visit` with all that the records say.
    ///
    /// # Errors
    /// `DataLoss` when there is no record in a value; those of the disk.
    pub(super) fn survey(&self, mut visit: impl FnMut(Saying)) -> Result<()> {
        for table in TABLES {
            self.db.scan(table, &Key::new(&[self.namespace])?, |key, value| {
                self.heed(table, key, value, &mut visit)?;
                Ok(ControlFlow::Continue(()))
            })?;
        }
        Ok(())
    }

    /// Marks what a record says that was written since the marks were made.
    /// Those of other namespaces are left alone.
    ///
    /// # Errors
    /// As [`Self::survey`].
    pub(super) fn resurvey(&self, touched: &Touched, marks: &mut Marks) -> Result<()> {
        let prefix = Key::new(&[self.namespace])?;
        if !touched.key.starts_with(prefix.as_bytes()) {
            return Ok(());
        }
        if touched.table == LEASE_RESOURCES.name() {
            if self.db.get_at(LEASE_RESOURCES, &touched.key)?.is_none() {
                return Ok(());
            }
            // All that the lease holds is as good as only this.
            let [lease, _, _] = last_parts(&touched.key)?;
            let key = Key::new(&[self.namespace, lease])?;
            return self.heed_again(LEASES, key.as_bytes(), marks);
        }
        let tables = TABLES.into_iter().find(|table| table.name() == touched.table);
        tables.map_or(Ok(()), |table| self.heed_again(table, &touched.key, marks))
    }

    /// Marks what one record says now, if it is there.
    fn heed_again(&self, table: Table, key: &[u8], marks: &mut Marks) -> Result<()> {
        if let Some(value) = self.db.get_at(table, key)? {
            self.heed(table, key, &value, &mut |saying| marks.note(saying))?;
        }
        if let Some(node) = node(table, key)? {
            marks.look_again(node);
        }
        Ok(())
    }

    /// Calls `visit` with what one record says.
    fn heed(
        &self,
        table: Table,
        key: &[u8],
        value: &[u8],
        visit: &mut dyn FnMut(Saying),
    ) -> Result<()> {
        let Labelled { labels } = decode(key, value)?;
        let Some(node) = node(table, key)? else {
            // A sandbox: nothing can refer to it, and it is not collected.
            label::references(&labels).for_each(|node| visit(Saying::Root(node, Depth::Full)));
            return Ok(());
        };
        if node.kind != Kind::Container {
            visit(Saying::Exists(node.clone()));
        }
        let full = |node: &Node| Saying::Root(node.clone(), Depth::Full);
        match node.kind {
            Kind::Lease if is_expired(&labels, self.now) => return Ok(()),
            Kind::Lease => {
                let depth = if labels.contains_key(FLAT_LABEL) { Depth::Flat } else { Depth::Full };
                self.held(&node, |held| visit(Saying::Root(held, depth)))?;
                visit(full(&node));
                return Ok(());
            }
            Kind::Container => visit(full(&node)),
            Kind::Image if !is_expired(&labels, self.now) => visit(full(&node)),
            Kind::Content | Kind::Snapshot if is_root(&labels) => visit(full(&node)),
            Kind::Image | Kind::Content | Kind::Snapshot => {}
        }
        for by in label::back_references(&labels) {
            visit(Saying::Back(by, node.clone()));
        }
        match node.kind {
            Kind::Image | Kind::Content => {
                for (snapshot, condition) in label::conditions(&labels) {
                    visit(Saying::Conditional(node.clone(), snapshot, condition));
                }
            }
            Kind::Snapshot => {
                for used in label::used_at(&labels) {
                    visit(Saying::Used(node.clone(), used));
                }
            }
            Kind::Container | Kind::Lease => {}
        }
        Ok(())
    }

    /// Calls `visit` with each record that a lease holds.
    fn held(&self, lease: &Node, mut visit: impl FnMut(Node)) -> Result<()> {
        let key = Key::new(&[self.namespace, &lease.name])?;
        self.db.scan(LEASE_RESOURCES, &key, |key, _| {
            let [kind, id] = last_parts(key)?;
            let resource = Resource { id: id.to_owned(), kind: kind.to_owned() };
            if let Some(node) = Node::held(&resource) {
                visit(node);
            }
            Ok(ControlFlow::Continue(()))
        })
    }

    fn get<M: Message + Default>(&self, node: &Node) -> Result<Option<M>> {
        match node.key(self.namespace)? {
            Some(key) => self.db.get(node.kind.table(), &key),
            None => Ok(None),
        }
    }
}

impl<R: Read> Graph for Records<'_, R> {
    fn references(
        &self,
        node: &Node,
        depth: Depth,
        visit: &mut dyn FnMut(Node, Depth),
    ) -> Result<()> {
        let labels = match node.kind {
            // What a lease holds are roots.
            Kind::Lease => return Ok(()),
            Kind::Content if depth == Depth::Flat => return Ok(()),
            Kind::Content => self.get::<Labelled>(node)?.map(|content| content.labels),
            Kind::Image => self.get::<Image>(node)?.map(|image| {
                if let Some(target) = image.target {
                    visit(Node::new(Kind::Content, target.digest), depth);
                }
                image.labels
            }),
            Kind::Snapshot => self.get::<Snapshot>(node)?.map(|snapshot| {
                if let Some((snapshotter, _)) = node.parts()
                    && !snapshot.parent.is_empty()
                {
                    visit(Node::snapshot(snapshotter, &snapshot.parent), depth);
                }
                snapshot.labels
            }),
            Kind::Container => self.get::<Container>(node)?.map(|container| {
                let Container { labels, snapshotter, snapshot_key } = container;
                if !snapshotter.is_empty() {
                    visit(Node::snapshot(&snapshotter, &snapshot_key), Depth::Full);
                }
                labels
            }),
        };
        if depth == Depth::Full {
            let labels = labels.unwrap_or_default();
            label::references(&labels).for_each(|node| visit(node, Depth::Full));
        }
        Ok(())
    }
}

/// The object of this namespace that was written; none if it is of another, or
/// nothing can refer to it.
pub(super) fn written(namespace: &Id, touched: &Touched) -> Result<Option<Node>> {
    let table = TABLES.into_iter().find(|table| table.name() == touched.table);
    match table {
        Some(table) if touched.key.starts_with(Key::new(&[namespace])?.as_bytes()) => {
            node(table, &touched.key)
        }
        _ => Ok(None),
    }
}

/// The object at a key of a table; none if nothing can refer to those.
fn node(table: Table, key: &[u8]) -> Result<Option<Node>> {
    let kinds = [Kind::Container, Kind::Content, Kind::Image, Kind::Lease, Kind::Snapshot];
    let Some(kind) = kinds.into_iter().find(|kind| kind.table().name() == table.name()) else {
        return Ok(None);
    };
    Ok(Some(match kind {
        Kind::Snapshot => {
            let [snapshotter, key] = last_parts(key)?;
            Node::snapshot(snapshotter, key)
        }
        kind => Node::new(kind, last_part(key)?),
    }))
}

fn decode(key: &[u8], value: &[u8]) -> Result<Labelled> {
    Labelled::decode(value).map_err(|e| {
        let key = String::from_utf8_lossy(key);
        Error::caused(ErrorKind::DataLoss, format!("read the record at {key:?}"), e)
    })
}
