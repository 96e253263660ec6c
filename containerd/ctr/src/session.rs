//! The connection that a command works over.

use anyhow::Result;
use containerd_client::{Client, ConnectOptions, Container, Namespace, Task};

use crate::cli::Global;

/// Connects as the options say.
pub(crate) async fn connect(global: &Global) -> Result<Client> {
    let mut options = ConnectOptions::new(&global.address);
    if let Some(limit) = global.connect_timeout {
        options = options.timeout(limit);
    }
    Ok(options.connect().await?)
}

/// Connects, and chooses the namespace.
pub(crate) async fn namespace(global: &Global) -> Result<Namespace> {
    Ok(connect(global).await?.namespace(&global.namespace))
}

/// Connects, and gets a container with its task.
pub(crate) async fn task(global: &Global, id: &str) -> Result<(Container, Task)> {
    let container = namespace(global).await?.container(id).await?;
    let task = container.task().await?;
    Ok((container, task))
}
