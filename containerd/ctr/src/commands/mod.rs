//! The commands, one in a file.

pub(crate) mod completion;
pub(crate) mod containers;
pub(crate) mod content;
pub(crate) mod events;
pub(crate) mod images;
pub(crate) mod info;
pub(crate) mod leases;
pub(crate) mod legacy;
pub(crate) mod namespaces;
pub(crate) mod oci;
pub(crate) mod plugins;
pub(crate) mod run;
pub(crate) mod shim;
pub(crate) mod snapshots;
pub(crate) mod tasks;
pub(crate) mod version;
