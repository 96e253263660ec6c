//! `ctr info`

use anyhow::Result;
use clap::Args;
use serde_json::json;

use crate::{cli::Global, json as print, session, time};

/// Print which daemon it is, as JSON.
#[derive(Debug, Args)]
pub(crate) struct Info {}

impl Info {
    pub(crate) async fn run(self, global: &Global) -> Result<()> {
        let server = session::connect(global).await?.server().await?;
        let deprecations = server.deprecations.iter().map(|deprecation| {
            json!({
                "id": deprecation.id,
                "message": deprecation.message,
                "last_occurrence": time::rfc3339(deprecation.last_occurrence),
            })
        });
        let server = json!({
            "uuid": server.uuid,
            "pid": server.pid,
            "pidns": server.pidns,
            "deprecations": deprecations.collect::<Vec<_>>(),
        });
        print::print(&json!({ "server": print::without_empty(server) }))
    }
}
