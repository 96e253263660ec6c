//! `ctr events --legacy`

use anyhow::Result;
use containerd_api::legacy::Event;

use super::{connect, table};
use crate::{cli::Global, output, table::Table};

/// Prints what happens to containers of 2015, as it comes.
pub(crate) async fn run(global: &Global) -> Result<()> {
    let mut events = connect(global).await?.events().await?;
    table("TYPE\tID\tPID\tSTATUS").print()?;
    while let Some(event) = events.next().await? {
        output::text(line(&event))?;
    }
    Ok(())
}

/// Each by itself: how wide the next ones are is not known.
fn line(event: &Event) -> String {
    let mut table = Table::new(20, 3);
    table.line(format!("{}\t{}\t{}\t{}", event.r#type, event.id, event.pid, event.status));
    table.render()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_as_then() {
        let event = Event {
            r#type: "exit".into(),
            id: "redis".into(),
            pid: 11497,
            status: 137,
            ..Event::default()
        };
        assert_eq!(
            line(&event),
            "exit                redis               11497               137\n"
        );
    }
}
