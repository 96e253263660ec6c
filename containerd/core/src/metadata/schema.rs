//! The database, drawn.
//!
//! A change of this drawing is a new schema version and a step in
//! [`super::migrate`]. Keys are parts that each end in a NUL byte, see
//! [`super::key`]; a record is a protobuf message whose tags are listed here,
//! so that fields can be added without a new version.
//!
//! ```text
//! <root>/io.containerd.metadata.v1.redb/meta.redb
//! ├──meta
//! │  └──version : u64 little endian              which drawing the file follows
//! ├──namespaces
//! │  ╘══*namespace*                              made by hand, or by the first object in it
//! │     └──1 labels : map string → string
//! ├──containers
//! │  ╘══*namespace* *container id*
//! │     ├──1 labels : map string → string        never an empty value
//! │     ├──2 image : string                      image's name; may be empty
//! │     ├──3 runtime name : string               never empty
//! │     ├──4 runtime options : Any
//! │     ├──5 spec : Any                          OCI configuration, most often JSON
//! │     ├──6 snapshotter : string
//! │     ├──7 snapshot key : string               kept from collection by this record
//! │     ├──8 created at : nanoseconds since 1970
//! │     ├──9 updated at : nanoseconds since 1970
//! │     ├──10 extensions : map string → Any
//! │     └──11 sandbox : string                   id of the sandbox it belongs to
//! ├──content
//! │  ╘══*namespace* *digest*                     such as sha256:…; the bytes are in a file
//! │     ├──1 labels : map string → string        containerd.io/gc.ref.… are among them
//! │     ├──2 size : bytes
//! │     ├──3 created at : nanoseconds since 1970
//! │     └──4 updated at : nanoseconds since 1970
//! ├──images
//! │  ╘══*namespace* *name*                       such as docker.io/library/redis:7
//! │     ├──1 labels : map string → string
//! │     ├──2 target : Descriptor                 index or manifest; kept from collection
//! │     ├──3 created at : nanoseconds since 1970
//! │     └──4 updated at : nanoseconds since 1970
//! ├──snapshots                                   as namespaces see them
//! │  ╘══*namespace* *snapshotter* *key*
//! │     ├──1 labels : map string → string        containerd.io/gc.ref.… are among them
//! │     ├──2 parent : string                     key of another one beside it; may be empty
//! │     ├──3 name : string                       what the snapshotter calls it
//! │     ├──4 created at : nanoseconds since 1970
//! │     ├──5 updated at : nanoseconds since 1970
//! │     └──6 becoming : string                   what it may be called since a commit
//! ├──local_snapshots                             as our own snapshotters know them
//! │  ╘══*snapshotter* *name*
//! │     ├──1 id : number                         of its folder
//! │     ├──2 kind : 1 view, 2 active, 3 committed
//! │     ├──3 parent : string                     name of another one; may be empty
//! │     ├──4 labels : map string → string
//! │     ├──5 size : bytes                        of a committed one
//! │     ├──6 inodes : number                     of a committed one
//! │     ├──7 created at : nanoseconds since 1970
//! │     └──8 updated at : nanoseconds since 1970
//! ├──sandboxes
//! │  ╘══*namespace* *sandbox id*
//! │     ├──1 labels : map string → string
//! │     ├──2 runtime name : string
//! │     ├──3 runtime options : Any
//! │     ├──4 spec : Any
//! │     ├──5 extensions : map string → Any
//! │     ├──6 sandboxer : string                  which controller makes it
//! │     ├──7 created at : nanoseconds since 1970
//! │     └──8 updated at : nanoseconds since 1970
//! ├──leases
//! │  ╘══*namespace* *lease id*
//! │     ├──1 labels : map string → string        containerd.io/gc.expire is among them
//! │     └──2 created at : nanoseconds since 1970
//! └──lease_resources
//!    ╘══*namespace* *lease id* *type* *resource id* : nothing
//! ```

use redb::TableDefinition;

/// A table: bytes to bytes, so that one undo log serves all of them.
pub(crate) type Table = TableDefinition<'static, &'static [u8], &'static [u8]>;

/// The version of the drawing above.
pub(crate) const VERSION: u64 = 3;

pub(super) const META: Table = Table::new("meta");
pub(super) const META_VERSION: &str = "version";

pub(crate) const NAMESPACES: Table = Table::new("namespaces");
pub(crate) const CONTAINERS: Table = Table::new("containers");
pub(crate) const CONTENT: Table = Table::new("content");
pub(crate) const IMAGES: Table = Table::new("images");
pub(crate) const SNAPSHOTS: Table = Table::new("snapshots");
pub(crate) const LOCAL_SNAPSHOTS: Table = Table::new("local_snapshots");
pub(crate) const SANDBOXES: Table = Table::new("sandboxes");
pub(crate) const LEASES: Table = Table::new("leases");
pub(crate) const LEASE_RESOURCES: Table = Table::new("lease_resources");

/// Tables of what refers to something else: when a record of these goes, there
/// may be garbage.
pub(super) const COLLECTED: [&str; 5] = ["containers", "content", "images", "snapshots", "leases"];

/// All tables of [`VERSION`], for a new file.
pub(super) const TABLES: [Table; 10] = [
    META,
    NAMESPACES,
    CONTAINERS,
    CONTENT,
    IMAGES,
    SNAPSHOTS,
    LOCAL_SNAPSHOTS,
    SANDBOXES,
    LEASES,
    LEASE_RESOURCES,
];
