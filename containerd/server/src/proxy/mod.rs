//! Parts of the daemon that another process provides, over gRPC
//! (`[proxy_plugins]`).

mod connection;
mod snapshotter;
#[cfg(test)]
mod tests;

pub(crate) use snapshotter::Snapshotter;
