//! Parts of the daemon that another process provides, over gRPC
//! (`[proxy_plugins]`).

mod connection;
mod content;
mod ingest;
mod snapshotter;
#[cfg(test)]
mod tests;

pub(crate) use content::ContentStore;
pub(crate) use snapshotter::Snapshotter;
