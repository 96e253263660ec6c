//! `ctr plugins inspect-runtime`

use anyhow::Result;
use clap::Args;
use containerd_client::Any;
use serde_json::{Value, json};

use crate::{cli::Global, json as print, session, spec::RuntimeArgs};

/// Print what a runtime says of itself, as JSON: its version and features.
#[derive(Debug, Args)]
pub(crate) struct InspectRuntime {
    #[command(flatten)]
    runtime: RuntimeArgs,
}

impl InspectRuntime {
    pub(crate) async fn run(self, global: &Global) -> Result<()> {
        let runtime = self.runtime.runtime(None)?;
        let client = session::connect(global).await?;
        let info = client.runtime_info(&runtime.name, runtime.options).await?;
        let version = info.version.map(|v| json!({"Version": v.version, "Revision": v.revision}));
        print::print(&json!({
            "Name": info.name,
            "Version": version,
            "Options": info.options.as_ref().map(document),
            "Features": info.features.as_ref().map(document),
            "Annotations": info.annotations,
        }))
    }
}

/// A document that is JSON inside, or else its bytes.
fn document(any: &Any) -> Value {
    serde_json::from_slice(&any.value).unwrap_or_else(|_| print::any(any))
}
