//! Whether what is on disk is what the records say, and refers to what is
//! there. For when no daemon runs, or nobody else does anything.

use std::{fmt, path::PathBuf};

use shim_protocol::{Id, Result};

use crate::{
    content::{self, Content, Digest},
    images,
    leases::{self, Resource},
    metadata::Db,
    snapshots::{self, Snapshots},
};

/// How bad something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// It is as it may be.
    Note,
    /// A daemon that was killed has left it; the next one removes it.
    Leftover,
    /// Something is lost or wrong.
    Damage,
}

/// Something that is not as it should be, or that one may want to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// A namespace has content whose blob is not there.
    ContentLost {
        /// The namespace.
        namespace: Id,
        /// The content.
        digest: Digest,
    },
    /// A namespace has content whose blob is longer or shorter.
    ContentLength {
        /// The namespace.
        namespace: Id,
        /// The content.
        digest: Digest,
        /// How long the blob is, in bytes.
        found: u64,
    },
    /// A blob's bytes are others.
    ContentWrong {
        /// What it is called.
        digest: Digest,
        /// What it is.
        found: Digest,
    },
    /// No namespace has a blob.
    ContentStray {
        /// The blob.
        digest: Digest,
    },
    /// Something among the ingests that nobody can go on with.
    IngestOdd {
        /// Where it is.
        path: PathBuf,
    },
    /// An image's content is not there.
    ImageTarget {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// The content.
        target: Digest,
    },
    /// A namespace has a snapshot that its snapshotter does not have.
    SnapshotLost {
        /// The snapshotter.
        snapshotter: String,
        /// The namespace.
        namespace: String,
        /// The snapshot's key there.
        key: String,
    },
    /// The namespace does not have a snapshot's parent, or another one.
    SnapshotOrphan {
        /// The snapshotter.
        snapshotter: String,
        /// The namespace.
        namespace: String,
        /// The snapshot's key there.
        key: String,
    },
    /// A snapshotter has lost the folder of a snapshot, or that of its parent.
    SnapshotDamaged {
        /// The snapshotter.
        snapshotter: String,
        /// What it calls the snapshot.
        name: String,
    },
    /// No namespace has a snapshot.
    SnapshotStray {
        /// The snapshotter.
        snapshotter: String,
        /// What it calls the snapshot.
        name: String,
    },
    /// A folder that belongs to no snapshot.
    SnapshotFolder {
        /// Where it is.
        path: PathBuf,
    },
    /// A lease holds what is not there.
    LeaseDangling {
        /// Its namespace.
        namespace: String,
        /// The lease.
        lease: String,
        /// What it holds.
        resource: Resource,
    },
}

impl Finding {
    /// How bad it is.
    pub fn severity(&self) -> Severity {
        match self {
            Self::ContentLost { .. }
            | Self::ContentLength { .. }
            | Self::ContentWrong { .. }
            | Self::ImageTarget { .. }
            | Self::SnapshotLost { .. }
            | Self::SnapshotOrphan { .. }
            | Self::SnapshotDamaged { .. } => Severity::Damage,
            Self::ContentStray { .. }
            | Self::IngestOdd { .. }
            | Self::SnapshotStray { .. }
            | Self::SnapshotFolder { .. } => Severity::Leftover,
            Self::LeaseDangling { .. } => Severity::Note,
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ContentLost { namespace, digest } => {
                write!(f, "content {digest} of namespace {namespace:?} is not there")
            }
            Self::ContentLength { namespace, digest, found } => {
                write!(
                    f,
                    "content {digest} of namespace {namespace:?} has {found} bytes, not as many as recorded"
                )
            }
            Self::ContentWrong { digest, found } => {
                write!(f, "content {digest} has the bytes of {found}")
            }
            Self::ContentStray { digest } => write!(f, "no namespace has content {digest}"),
            Self::IngestOdd { path } => {
                write!(f, "nobody can go on writing to {}", path.display())
            }
            Self::ImageTarget { namespace, name, target } => write!(
                f,
                "image {name:?} of namespace {namespace:?} stands for {target}, which is not there"
            ),
            Self::SnapshotLost { snapshotter, namespace, key } => write!(
                f,
                "snapshot {key:?} of namespace {namespace:?} is not in snapshotter {snapshotter:?}"
            ),
            Self::SnapshotOrphan { snapshotter, namespace, key } => write!(
                f,
                "snapshot {key:?} of namespace {namespace:?} in snapshotter {snapshotter:?} \
                 has another parent than its namespace says"
            ),
            Self::SnapshotDamaged { snapshotter, name } => write!(
                f,
                "snapshotter {snapshotter:?} lacks the folder or the parent of snapshot {name:?}"
            ),
            Self::SnapshotStray { snapshotter, name } => {
                write!(f, "no namespace has snapshot {name:?} of snapshotter {snapshotter:?}")
            }
            Self::SnapshotFolder { path } => {
                write!(f, "folder {} belongs to no snapshot", path.display())
            }
            Self::LeaseDangling { namespace, lease, resource: Resource { id, kind } } => {
                write!(
                    f,
                    "lease {lease:?} of namespace {namespace:?} holds {kind} {id:?}, which is not there"
                )
            }
        }
    }
}

/// What was looked at, and found.
#[derive(Debug, Default)]
pub struct Report {
    /// In the order in which they should be read.
    pub findings: Vec<Finding>,
    /// How many blobs there are.
    pub blobs: usize,
    /// Their bytes.
    pub bytes: u64,
    /// How many ingests there are.
    pub ingests: usize,
    /// How many images there are.
    pub images: usize,
}

impl Report {
    /// How many findings are as bad as this.
    pub fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|finding| finding.severity() == severity).count()
    }
}

/// Looks at content, images and leases; with `digests`, reads all content.
/// Nobody may write meanwhile.
///
/// # Errors
/// `DataLoss` when a record cannot be read; those of the disk.
pub async fn records(db: &Db, content: &Content, digests: bool) -> Result<Report> {
    let content::Findings { lost, wrong_length, wrong, strays, odd, blobs, ingests } =
        content.check(digests).await?;
    let mut findings = Vec::new();
    let missing = |digest: &Digest| lost.iter().any(|(_, lost)| lost == digest);
    let (targets, dangling) =
        db.read(|db| Ok((images::targets(db)?, leases::dangling(db)?))).await?;
    let images = targets.len();
    let mut bare = Vec::new();
    for (namespace, name, target) in targets {
        let owner = Id::new("namespace", &namespace)?;
        let there = match content.info(&owner, &target).await {
            Ok(_) => !missing(&target),
            Err(e) if e.is_not_found() => false,
            Err(e) => return Err(e),
        };
        if !there {
            bare.push(Finding::ImageTarget { namespace, name, target });
        }
    }
    let wrong = wrong.into_iter().map(|(digest, found)| Finding::ContentWrong { digest, found });
    findings.extend(wrong);
    findings.extend(
        lost.iter().cloned().map(|(namespace, digest)| Finding::ContentLost { namespace, digest }),
    );
    findings.extend(
        wrong_length.into_iter().map(|(namespace, digest, found)| Finding::ContentLength {
            namespace,
            digest,
            found,
        }),
    );
    findings.extend(bare);
    findings.extend(strays.into_iter().map(|digest| Finding::ContentStray { digest }));
    findings.extend(odd.into_iter().map(|path| Finding::IngestOdd { path }));
    findings.extend(
        dangling.into_iter().map(|(namespace, lease, resource)| Finding::LeaseDangling {
            namespace,
            lease,
            resource,
        }),
    );
    let (blobs, bytes) = blobs;
    Ok(Report { findings, blobs, bytes, ingests, images })
}

/// Looks at snapshots. Where `foreign` records are, what no namespace of ours
/// has is theirs. Nobody may be using them meanwhile.
///
/// # Errors
/// Those of the disk, and of the snapshotters.
pub async fn snapshots(snapshots: &Snapshots, foreign: bool) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for check in snapshots.check().await? {
        let snapshots::Check { snapshotter, lost, unnamed, orphans, disk } = check;
        let snapshots::Findings { lost: folders, strays, orphans: bare } = disk;
        let by = || snapshotter.clone();
        findings.extend(lost.into_iter().map(|(namespace, key)| Finding::SnapshotLost {
            snapshotter: by(),
            namespace,
            key,
        }));
        findings.extend(orphans.into_iter().map(|(namespace, key)| Finding::SnapshotOrphan {
            snapshotter: by(),
            namespace,
            key,
        }));
        let damaged = folders.into_iter().chain(bare);
        findings.extend(damaged.map(|name| Finding::SnapshotDamaged { snapshotter: by(), name }));
        findings.extend(
            unnamed.into_iter().map(|name| Finding::SnapshotStray { snapshotter: by(), name }),
        );
        if !foreign {
            findings.extend(strays.into_iter().map(|path| Finding::SnapshotFolder { path }));
        }
    }
    Ok(findings)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, fs};

    use containerd_images::{Algorithm, Descriptor};

    use super::*;
    use crate::{
        content::{ContentConfig, Ingestion, Sharing},
        images::Image,
        testing::{World, id},
    };

    #[tokio::test]
    async fn all_that_can_be_wrong_is_found() {
        let (world, folder) = (World::new(), tempfile::tempdir().unwrap());
        let root = folder.path().to_owned();
        let config = ContentConfig { root, sharing: Sharing::Shared, foreign: false };
        let content = Content::open(config, world.db.clone()).await.unwrap();
        let ns = id("ns");
        for text in ["good", "lost", "long", "wrong"] {
            let ingestion = Ingestion { reference: text.into(), ..Ingestion::default() };
            let mut writer = content.writer(&ns, ingestion).await.unwrap();
            writer.write(text).await.unwrap();
            let digest = writer.commit(0, None, BTreeMap::new()).await.unwrap();
            let image = Image::new(text, Descriptor::new("text/plain", digest, 4));
            world.images.create(&ns, image, None, None).await.unwrap();
        }
        let ingestion = Ingestion { reference: "open".into(), ..Ingestion::default() };
        let mut open = content.writer(&ns, ingestion).await.unwrap();
        open.write("beginning").await.unwrap();
        let report = records(&world.db, &content, true).await.unwrap();
        assert_eq!(report.findings, []);
        let Report { blobs, bytes, ingests, images, .. } = report;
        assert_eq!((blobs, bytes, ingests, images), (4, 17, 1, 4));

        let digest = |text: &str| Digest::of(Algorithm::Sha256, text.as_bytes());
        let blob = |text| folder.path().join("blobs/sha256").join(digest(text).hex());
        fs::remove_file(blob("lost")).unwrap();
        fs::write(blob("long"), "longer").unwrap();
        fs::write(blob("wrong"), "gnorw").unwrap();
        fs::write(blob("stray"), "stray").unwrap();
        let odd = folder.path().join("ingest").join(digest("x").hex());
        fs::create_dir(&odd).unwrap();
        world.leases.create(&ns, "l", BTreeMap::new()).await.unwrap();
        let held = Resource { id: "k".into(), kind: "snapshots/native".into() };
        world.leases.add_resource(&ns, "l", held.clone()).await.unwrap();

        let target = digest("lost");
        let mut expected = vec![
            Finding::ContentLost { namespace: ns.clone(), digest: target.clone() },
            Finding::ContentLength { namespace: ns, digest: digest("long"), found: 6 },
            Finding::ImageTarget { namespace: "ns".into(), name: "lost".into(), target },
            Finding::ContentStray { digest: digest("stray") },
            Finding::IngestOdd { path: odd },
            Finding::LeaseDangling { namespace: "ns".into(), lease: "l".into(), resource: held },
        ];
        let report = records(&world.db, &content, false).await.unwrap();
        assert_eq!(report.findings, expected);
        let counts = [Severity::Damage, Severity::Leftover, Severity::Note];
        assert_eq!(counts.map(|severity| report.count(severity)), [3, 2, 1]);

        let mut wrong: Vec<_> = [("long", "longer"), ("wrong", "gnorw")]
            .map(|(name, text)| Finding::ContentWrong { digest: digest(name), found: digest(text) })
            .into();
        wrong.sort_by_key(|finding| format!("{finding}"));
        expected.splice(..0, wrong);
        let report = records(&world.db, &content, true).await.unwrap();
        assert_eq!(report.findings, expected);
        assert!(report.findings.iter().all(|finding| !finding.to_string().is_empty()));
    }
}
