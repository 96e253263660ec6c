//! Snapshots as our own snapshotters know them, in the database; tags as in the
//! drawing of [`crate::metadata::schema`].

use std::{collections::HashSet, time::SystemTime};

use shim_protocol::{Error, ErrorKind, Result};

use crate::{
    labels,
    metadata::{Change, Key, Read, last_part, schema::LOCAL_SNAPSHOTS, stored},
    snapshots::{Info, Kind, Labels, Usage},
};

/// A snapshot of one of our own snapshotters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::snapshots) struct Row {
    /// Of its folder.
    pub(in crate::snapshots) id: u64,
    pub(in crate::snapshots) kind: Kind,
    /// Name of another one; may be empty.
    pub(in crate::snapshots) parent: String,
    pub(in crate::snapshots) labels: Labels,
    /// Of a committed one.
    pub(in crate::snapshots) usage: Usage,
    pub(in crate::snapshots) created_at: SystemTime,
    pub(in crate::snapshots) updated_at: SystemTime,
}

impl Row {
    /// What callers get to see of it.
    pub(in crate::snapshots) fn into_info(self, name: String) -> Info {
        Info {
            kind: self.kind,
            name,
            parent: self.parent,
            labels: self.labels,
            created_at: self.created_at,
            updated_at: self.updated_at,
        }
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct Record {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(uint32, tag = "2")]
    kind: u32,
    #[prost(string, tag = "3")]
    parent: String,
    #[prost(btree_map = "string, string", tag = "4")]
    labels: Labels,
    #[prost(uint64, tag = "5")]
    size: u64,
    #[prost(uint64, tag = "6")]
    inodes: u64,
    #[prost(fixed64, tag = "7")]
    created_at: u64,
    #[prost(fixed64, tag = "8")]
    updated_at: u64,
}

impl From<&Row> for Record {
    fn from(row: &Row) -> Self {
        let kind = match row.kind {
            Kind::View => 1,
            Kind::Active => 2,
            Kind::Committed => 3,
        };
        Self {
            id: row.id,
            kind,
            parent: row.parent.clone(),
            labels: row.labels.clone(),
            size: row.usage.size,
            inodes: row.usage.inodes,
            created_at: stored::from_time(row.created_at),
            updated_at: stored::from_time(row.updated_at),
        }
    }
}

impl Record {
    fn into_row(self, name: &str) -> Result<Row> {
        let kind = match self.kind {
            1 => Kind::View,
            2 => Kind::Active,
            3 => Kind::Committed,
            other => {
                let text = format!("snapshot {name:?} is of the unknown kind {other}");
                return Err(Error::new(ErrorKind::DataLoss, text));
            }
        };
        Ok(Row {
            id: self.id,
            kind,
            parent: self.parent,
            labels: self.labels,
            usage: Usage { size: self.size, inodes: self.inodes },
            created_at: stored::to_time(self.created_at),
            updated_at: stored::to_time(self.updated_at),
        })
    }
}

/// The snapshot of that name, if there is one.
pub(in crate::snapshots) fn get(
    db: &impl Read,
    snapshotter: &str,
    name: &str,
) -> Result<Option<Row>> {
    let record = db.get::<Record>(LOCAL_SNAPSHOTS, &Key::new(&[snapshotter, name])?)?;
    record.map(|record| record.into_row(name)).transpose()
}

/// The snapshot of that name.
///
/// # Errors
/// `NotFound`.
pub(in crate::snapshots) fn find(db: &impl Read, snapshotter: &str, name: &str) -> Result<Row> {
    get(db, snapshotter, name)?.ok_or_else(|| absent(name))
}

/// There is no such snapshot.
pub(super) fn absent(name: &str) -> Error {
    Error::not_found(format!("snapshot {name:?}"))
}

/// All snapshots of a snapshotter, by name.
pub(in crate::snapshots) fn list(db: &impl Read, snapshotter: &str) -> Result<Vec<(String, Row)>> {
    let mut found = Vec::new();
    db.each(LOCAL_SNAPSHOTS, &Key::new(&[snapshotter])?, |key, record: Record| {
        let name = last_part(key)?;
        found.push((name.to_owned(), record.into_row(name)?));
        Ok(())
    })?;
    Ok(found)
}

/// The folders below a snapshot that is to have this parent, the parent's own
/// first.
///
/// # Errors
/// `NotFound` when there is no such parent; `InvalidArgument` when it is not
/// committed; `DataLoss` when its own parents are not there.
pub(in crate::snapshots) fn chain(
    db: &impl Read,
    snapshotter: &str,
    parent: &str,
) -> Result<Vec<u64>> {
    let (mut ids, mut next) = (Vec::new(), parent.to_owned());
    while !next.is_empty() {
        let row = match get(db, snapshotter, &next)? {
            Some(row) => row,
            None if ids.is_empty() => {
                return Err(Error::not_found(format!("parent snapshot {next:?}")));
            }
            None => {
                let text = format!("snapshot {next:?}, below {parent:?}, is lost");
                return Err(Error::new(ErrorKind::DataLoss, text));
            }
        };
        if row.kind != Kind::Committed {
            return Err(Error::invalid(format!("parent snapshot {next:?} is not committed")));
        }
        if ids.contains(&row.id) {
            let text = format!("snapshot {next:?} is its own parent");
            return Err(Error::new(ErrorKind::DataLoss, text));
        }
        ids.push(row.id);
        next = row.parent;
    }
    Ok(ids)
}

/// Records a snapshot that was made.
///
/// # Errors
/// `NotFound` when its parent is gone; `InvalidArgument` when that is not
/// committed; `AlreadyExists`.
pub(in crate::snapshots) fn create(
    change: &mut Change<'_>,
    snapshotter: &str,
    name: &str,
    row: &Row,
) -> Result<()> {
    chain(change, snapshotter, &row.parent)?;
    let key = Key::new(&[snapshotter, name])?;
    if change.has(LOCAL_SNAPSHOTS, &key)? {
        return Err(exists(name));
    }
    change.put(LOCAL_SNAPSHOTS, &key, &Record::from(row))
}

/// How an active snapshot is fixed.
#[derive(Clone, Debug)]
pub(in crate::snapshots) struct Fix {
    /// What it is called from then on.
    pub(in crate::snapshots) name: String,
    /// What it is called until then.
    pub(in crate::snapshots) key: String,
    /// The parent that it gets; empty when it keeps what it has.
    pub(in crate::snapshots) parent: String,
    pub(in crate::snapshots) labels: Labels,
    pub(in crate::snapshots) usage: Usage,
}

/// The row that [`commit`] will write.
///
/// # Errors
/// - `AlreadyExists`; `NotFound`, also when there is no such parent;
/// - `FailedPrecondition` when it is not active, or the parent is not
///   committed; `InvalidArgument` when it has another parent.
pub(in crate::snapshots) fn fixed(db: &impl Read, snapshotter: &str, fix: &Fix) -> Result<Row> {
    if get(db, snapshotter, &fix.name)?.is_some() {
        return Err(exists(&fix.name));
    }
    let old = find(db, snapshotter, &fix.key)?;
    if old.kind != Kind::Active {
        return Err(Error::precondition(format!("snapshot {:?} is not active", fix.key)));
    }
    let parent = match (old.parent.as_str(), fix.parent.as_str()) {
        (old, "") => old,
        ("", new) => new,
        (old, new) if old == new => old,
        _ => return Err(Error::invalid(format!("snapshot {:?} has another parent", fix.key))),
    };
    chain(db, snapshotter, parent).map_err(|e| match e.kind() {
        ErrorKind::InvalidArgument => e.with_kind(ErrorKind::FailedPrecondition),
        _ => e,
    })?;
    let now = SystemTime::now();
    Ok(Row {
        id: old.id,
        kind: Kind::Committed,
        parent: parent.to_owned(),
        labels: fix.labels.clone(),
        usage: fix.usage,
        created_at: now,
        updated_at: now,
    })
}

/// Fixes an active snapshot under a name.
///
/// # Errors
/// As [`fixed`].
pub(in crate::snapshots) fn commit(
    change: &mut Change<'_>,
    snapshotter: &str,
    fix: &Fix,
) -> Result<()> {
    let row = fixed(change, snapshotter, fix)?;
    change.remove(LOCAL_SNAPSHOTS, &Key::new(&[snapshotter, &fix.key])?)?;
    change.put(LOCAL_SNAPSHOTS, &Key::new(&[snapshotter, &fix.name])?, &Record::from(&row))
}

/// Changes labels of a snapshot, as [`crate::snapshots::Snapshotter::update`].
///
/// # Errors
/// As there.
pub(in crate::snapshots) fn update(
    change: &mut Change<'_>,
    snapshotter: &str,
    name: &str,
    new: Labels,
    paths: &[String],
) -> Result<Row> {
    let mask = labels::Mask::parse(paths, "a snapshot")?;
    let mut row = find(change, snapshotter, name)?;
    row.labels = mask.apply(row.labels, new);
    labels::validate(&row.labels)?;
    labels::drop_empty(&mut row.labels);
    row.updated_at = SystemTime::now();
    change.put(LOCAL_SNAPSHOTS, &Key::new(&[snapshotter, name])?, &Record::from(&row))?;
    Ok(row)
}

/// Forgets a snapshot; answers what it was.
///
/// # Errors
/// `NotFound`; `FailedPrecondition` when others build upon it.
pub(in crate::snapshots) fn remove(
    change: &mut Change<'_>,
    snapshotter: &str,
    name: &str,
) -> Result<Row> {
    let row = find(change, snapshotter, name)?;
    // Nothing builds upon what is not committed, so there is no need to look.
    if row.kind == Kind::Committed && is_parent(change, snapshotter, name)? {
        return Err(Error::precondition(format!("others build upon snapshot {name:?}")));
    }
    change.remove(LOCAL_SNAPSHOTS, &Key::new(&[snapshotter, name])?)?;
    Ok(row)
}

/// Forgets all snapshots but those of these names and what they build upon;
/// answers what they were.
pub(in crate::snapshots) fn remove_others(
    change: &mut Change<'_>,
    snapshotter: &str,
    named: &HashSet<String>,
) -> Result<Vec<Row>> {
    let mut others = list(change, snapshotter)?;
    let mut kept: HashSet<String> = HashSet::new();
    loop {
        let before = kept.len();
        for (name, row) in &others {
            if (named.contains(name) || kept.contains(name)) && !row.parent.is_empty() {
                kept.insert(row.parent.clone());
            }
        }
        if kept.len() == before {
            break;
        }
    }
    others.retain(|(name, _)| !named.contains(name) && !kept.contains(name));
    for (name, _) in &others {
        change.remove(LOCAL_SNAPSHOTS, &Key::new(&[snapshotter, name])?)?;
    }
    Ok(others.into_iter().map(|(_, row)| row).collect())
}

fn is_parent(db: &impl Read, snapshotter: &str, name: &str) -> Result<bool> {
    let mut found = false;
    db.each(LOCAL_SNAPSHOTS, &Key::new(&[snapshotter])?, |_, record: Record| {
        found |= record.parent == name;
        Ok(())
    })?;
    Ok(found)
}

fn exists(name: &str) -> Error {
    Error::already_exists(format!("snapshot {name:?}"))
}
