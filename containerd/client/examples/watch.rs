//! Prints how processes end, also while the daemon is restarted:
//!
//! ```sh
//! cargo run -p containerd-client --example watch -- /run/containerd/containerd.sock
//! ```

use std::{env, error::Error};

use containerd_api::events::TaskExit;
use containerd_client::{Client, SubscribeOptions};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let socket = env::args().nth(1).ok_or("usage: watch SOCKET")?;
    let client = Client::connect(socket).await?;
    let options = SubscribeOptions::new().filters([r#"topic=="/tasks/exit""#]).reconnect();
    let mut events = client.subscribe(options).await?;
    while let Some(envelope) = events.next().await? {
        let exit: TaskExit = envelope.decode()?;
        let namespace = envelope.namespace;
        println!("{namespace}/{} {}: exit status {}", exit.container_id, exit.id, exit.exit_status);
    }
    Ok(())
}
