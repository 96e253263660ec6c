//! Parts of the daemon that another process provides, over gRPC
//! (`[proxy_plugins]`).

mod connection;
mod snapshotter;

pub(crate) use snapshotter::Snapshotter;
