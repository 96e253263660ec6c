//! Random graphs, and a second opinion on what of them is garbage: a model that
//! knows no labels and no database, and finds what is in use by trying every
//! rule until none has anything to add.

use std::collections::{BTreeMap, BTreeSet};

use containerd_images::{Algorithm, Digest};
use prost::Message;
use shim_protocol::{Id, Result};

use crate::{
    metadata::{
        Change, Key, Read, last_parts,
        schema::{
            CONTAINERS, CONTENT, IMAGES, LEASE_RESOURCES, LEASES, SANDBOXES, SNAPSHOTS, Table,
        },
        testing::Random,
    },
    testing::id,
};

const PAST: &str = "2001-02-03T04:05:06Z";
const FUTURE: &str = "2999-02-03T04:05:06.7+01:00";

/// Who keeps the snapshots: the first those with even numbers.
pub(super) const SNAPSHOTTERS: [&str; 2] = ["native", "overlayfs"];

/// An object, by its sort and a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Name {
    Content(usize),
    Image(usize),
    Snapshot(usize),
    Container(usize),
    Lease(usize),
    Sandbox(usize),
}

use Name::{Container, Content, Image, Lease, Sandbox, Snapshot};

/// When an object's time is over, according to its label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expiry {
    Never,
    Nonsense,
    Past,
    Future,
}

/// What an object says.
#[derive(Clone, Debug)]
struct Object {
    /// A snapshot's parent, an image's target, a container's snapshot.
    part: Option<Name>,
    /// Needs these, by labels.
    needs: Vec<Name>,
    /// Is needed by these, by labels.
    needed_by: Vec<Name>,
    /// Held, by a lease.
    holds: Vec<Name>,
    root: bool,
    flat: bool,
    expiry: Expiry,
}

/// A namespace.
#[derive(Clone, Debug)]
pub(super) struct Model {
    pub(super) namespace: Id,
    /// How many names of each sort there are.
    size: usize,
    objects: BTreeMap<Name, Object>,
}

impl Model {
    /// A namespace with random objects.
    pub(super) fn random(namespace: &str, random: &mut Random) -> Self {
        let size = 2 + random.below(7);
        let mut this = Self { namespace: id(namespace), size, objects: BTreeMap::new() };
        for name in this.names() {
            if random.below(6) > 0 {
                this.renew(name, random);
            }
        }
        this
    }

    fn names(&self) -> Vec<Name> {
        let sorts = [Content, Image, Snapshot, Container, Lease, Sandbox];
        let all = sorts.into_iter().flat_map(|sort| (0..self.size).map(sort));
        // Few of those that are in use by themselves: else there is no garbage.
        all.filter(|name| match name {
            Container(number) | Lease(number) | Sandbox(number) => *number < 1 + self.size / 3,
            _ => true,
        })
        .collect()
    }

    fn pick(&self, sorts: &[fn(usize) -> Name], random: &mut Random) -> Name {
        sorts[random.below(sorts.len())](random.below(self.size))
    }

    fn some(&self, sorts: &[fn(usize) -> Name], most: usize, random: &mut Random) -> Vec<Name> {
        let count = random.below(most + 1);
        (0..count).map(|_| self.pick(sorts, random)).collect()
    }

    /// Makes an object, or another one of that name.
    fn renew(&mut self, name: Name, random: &mut Random) {
        const NEEDED: &[fn(usize) -> Name] = &[Content, Image, Snapshot];
        const NEEDING: &[fn(usize) -> Name] = &[Content, Image, Snapshot, Container];
        let refers = random.below(3) > 0;
        let part = match name {
            Image(_) => Some(self.pick(&[Content], random)),
            Snapshot(number) if refers => {
                // Of the same snapshotter; perhaps in a circle.
                Some(Snapshot((number + 2 * random.below(self.size)) % (2 * self.size)))
            }
            Container(_) if refers => Some(self.pick(&[Snapshot], random)),
            _ => None,
        };
        let expiry = match (name, random.below(8)) {
            (Image(_), 0..=3) | (Lease(_), 0..=2) => Expiry::Past,
            (Image(_) | Lease(_), 4) => Expiry::Future,
            (Image(_) | Lease(_), 5) => Expiry::Nonsense,
            _ => Expiry::Never,
        };
        let back = random.below(4) == 0;
        let object = Object {
            part,
            needs: match name {
                Lease(_) => Vec::new(),
                _ => self.some(NEEDED, 2, random),
            },
            needed_by: match name {
                Content(_) | Image(_) | Snapshot(_) if back => self.some(NEEDING, 2, random),
                _ => Vec::new(),
            },
            holds: match name {
                Lease(_) => self.some(NEEDED, 4, random),
                _ => Vec::new(),
            },
            root: matches!(name, Content(_) | Snapshot(_)) && random.below(12) == 0,
            flat: matches!(name, Lease(_)) && random.below(3) == 0,
            expiry,
        };
        self.objects.insert(name, object);
    }

    /// Makes a snapshot on another one, of which nobody says yet what it is for.
    fn prepare(&mut self, random: &mut Random) -> Name {
        let number = random.below(self.size);
        let parent = number % 2 + 2 * random.below(self.size.div_ceil(2));
        let object = Object {
            part: Some(Snapshot(parent)),
            needs: Vec::new(),
            needed_by: Vec::new(),
            holds: Vec::new(),
            root: false,
            flat: false,
            expiry: Expiry::Never,
        };
        self.objects.insert(Snapshot(number), object);
        Snapshot(number)
    }

    /// Changes something; answers the name of what was made, changed or removed.
    pub(super) fn change(&mut self, random: &mut Random) -> Name {
        if random.below(4) == 0 {
            return self.prepare(random);
        }
        let names = self.names();
        let name = names[random.below(names.len())];
        match self.objects.get(&name) {
            Some(_) if random.below(3) == 0 => drop(self.objects.remove(&name)),
            // It moves what it needs to somebody else, or takes over.
            Some(object) if random.below(3) == 0 => {
                let needs = object.needs.clone();
                let other = names[random.below(names.len())];
                if let (Content(_) | Image(_) | Snapshot(_) | Container(_), Some(heir)) =
                    (other, self.objects.get_mut(&other))
                {
                    heir.needs.extend(needs);
                    return other;
                }
            }
            _ => self.renew(name, random),
        }
        name
    }

    /// What can be collected, and is there.
    pub(super) fn collectable(&self) -> BTreeSet<Name> {
        let is = |name: &&Name| matches!(name, Content(_) | Image(_) | Snapshot(_) | Lease(_));
        self.objects.keys().filter(is).copied().collect()
    }

    /// What of that is in use.
    pub(super) fn in_use(&self) -> BTreeSet<Name> {
        self.in_use_with(&BTreeSet::new())
    }

    /// What of that is in use, or stays with what was `written` during a pass:
    /// snapshots, and what these are made of.
    pub(super) fn in_use_with(&self, written: &BTreeSet<Name>) -> BTreeSet<Name> {
        let over = |object: &Object| object.expiry == Expiry::Past;
        // With all they need, and with what they are made of only.
        let (mut full, mut flat) = (BTreeSet::new(), BTreeSet::new());
        flat.extend(written.iter().filter(|name| matches!(name, Snapshot(_))));
        loop {
            let before = (full.len(), flat.len());
            for (name, object) in &self.objects {
                match name {
                    Container(_) => drop(full.insert(*name)),
                    Image(_) if !over(object) => drop(full.insert(*name)),
                    Sandbox(_) => full.extend(&object.needs),
                    Lease(_) if !over(object) => {
                        full.insert(*name);
                        if object.flat { &mut flat } else { &mut full }.extend(&object.holds);
                    }
                    _ if object.root => drop(full.insert(*name)),
                    _ => {}
                }
                if full.contains(name) {
                    full.extend(&object.needs);
                    full.extend(&object.part);
                }
                if flat.contains(name) {
                    flat.extend(&object.part);
                }
                if object.needed_by.iter().any(|by| full.contains(by)) {
                    full.insert(*name);
                }
            }
            if before == (full.len(), flat.len()) {
                break;
            }
        }
        let used = |name: &Name| full.contains(name) || flat.contains(name);
        self.collectable().into_iter().filter(used).collect()
    }

    /// Writes the records of all objects.
    ///
    /// # Errors
    /// Those of the disk.
    pub(super) fn write_all(&self, change: &mut Change<'_>) -> Result<()> {
        crate::namespaces::ensure(change, &self.namespace)?;
        self.names().into_iter().try_for_each(|name| self.write(change, name))
    }

    /// Makes the records of one object what they should be.
    ///
    /// # Errors
    /// Those of the disk.
    pub(super) fn write(&self, change: &mut Change<'_>, name: Name) -> Result<()> {
        let key = self.key(name)?;
        if let Lease(_) = name {
            change.remove_all(LEASE_RESOURCES, &key)?;
        }
        let Some(object) = self.objects.get(&name) else {
            return change.remove(table(name), &key).map(drop);
        };
        for held in &object.holds {
            let kind = match held {
                Content(_) => "content".to_owned(),
                Image(_) => "images".to_owned(),
                _ => format!("snapshots/{}", snapshotter(*held)),
            };
            let parts = [self.namespace.as_str(), &text(name), &kind, &text(*held)];
            change.put_bytes(LEASE_RESOURCES, &Key::new(&parts)?, &[])?;
        }
        let part = object.part.map(text).unwrap_or_default();
        let record = Record {
            labels: labels(object),
            // An image's target is a message, of which the digest is the second.
            second: match name {
                Image(_) => Target { digest: part.clone() }.encode_to_vec(),
                Snapshot(_) => part.clone().into_bytes(),
                _ => Vec::new(),
            },
            snapshotter: match (name, object.part) {
                (Container(_), Some(snapshot)) => snapshotter(snapshot).to_owned(),
                _ => String::new(),
            },
            snapshot_key: if let Container(_) = name { part } else { String::new() },
        };
        change.put(table(name), &key, &record)
    }

    /// What of it is recorded, of those that can be collected.
    ///
    /// # Errors
    /// Those of the disk.
    pub(super) fn recorded(&self, db: &impl Read) -> Result<BTreeSet<Name>> {
        let mut found = BTreeSet::new();
        for name in self.names() {
            if !matches!(name, Container(_) | Sandbox(_))
                && db.has(table(name), &self.key(name)?)?
            {
                found.insert(name);
            }
        }
        // Leases leave nothing behind.
        let prefix = Key::new(&[&self.namespace])?;
        db.scan(LEASE_RESOURCES, &prefix, |key, _| {
            let [lease, _, _] = last_parts(key)?;
            assert!(found.iter().any(|name| text(*name) == lease), "{lease} still holds something");
            Ok(std::ops::ControlFlow::Continue(()))
        })?;
        Ok(found)
    }

    fn key(&self, name: Name) -> Result<Key> {
        match name {
            Snapshot(_) => Key::new(&[&self.namespace, snapshotter(name), &text(name)]),
            _ => Key::new(&[&self.namespace, &text(name)]),
        }
    }
}

/// Any record: tags as in the drawing of the schema.
#[derive(Clone, PartialEq, Message)]
struct Record {
    #[prost(btree_map = "string, string", tag = "1")]
    labels: BTreeMap<String, String>,
    /// On the wire, texts and messages are the same.
    #[prost(bytes = "vec", tag = "2")]
    second: Vec<u8>,
    #[prost(string, tag = "6")]
    snapshotter: String,
    #[prost(string, tag = "7")]
    snapshot_key: String,
}

#[derive(Clone, PartialEq, Message)]
struct Target {
    #[prost(string, tag = "2")]
    digest: String,
}

pub(super) fn digest(number: usize) -> Digest {
    Digest::of(Algorithm::Sha256, format!("content {number}").as_bytes())
}

pub(super) fn snapshotter(name: Name) -> &'static str {
    match name {
        Snapshot(number) => SNAPSHOTTERS[number % 2],
        _ => unreachable!("{name:?} has no snapshotter"),
    }
}

pub(super) fn text(name: Name) -> String {
    match name {
        Content(number) => digest(number).to_string(),
        Image(number) => format!("example.com/image:{number}"),
        Snapshot(number) => format!("snapshot {number}"),
        Container(number) => format!("container-{number}"),
        Lease(number) => format!("lease/{number}"),
        Sandbox(number) => format!("sandbox-{number}"),
    }
}

fn table(name: Name) -> Table {
    match name {
        Content(_) => CONTENT,
        Image(_) => IMAGES,
        Snapshot(_) => SNAPSHOTS,
        Container(_) => CONTAINERS,
        Lease(_) => LEASES,
        Sandbox(_) => SANDBOXES,
    }
}

fn labels(object: &Object) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::from([("unrelated".to_owned(), "x".to_owned())]);
    for (sort, names) in [("ref", &object.needs), ("bref", &object.needed_by)] {
        for (position, name) in names.iter().enumerate() {
            let word = match name {
                Content(_) => "content".to_owned(),
                Image(_) => "image".to_owned(),
                Container(_) => "container".to_owned(),
                _ => format!("snapshot.{}", snapshotter(*name)),
            };
            let key = match (name, position) {
                (_, 0) => format!("containerd.io/gc.{sort}.{word}"),
                (Snapshot(_), _) => format!("containerd.io/gc.{sort}.{word}/{position}"),
                _ => format!("containerd.io/gc.{sort}.{word}.{position}"),
            };
            labels.insert(key, text(*name));
        }
    }
    let expiry = match object.expiry {
        Expiry::Never => None,
        Expiry::Nonsense => Some("tomorrow"),
        Expiry::Past => Some(PAST),
        Expiry::Future => Some(FUTURE),
    };
    labels.extend(expiry.map(|time| (super::EXPIRE_LABEL.to_owned(), time.to_owned())));
    for (is, label) in [(object.root, super::ROOT_LABEL), (object.flat, super::FLAT_LABEL)] {
        if is {
            labels.insert(label.to_owned(), "1".to_owned());
        }
    }
    labels
}
