//! `ctr snapshots info`

use anyhow::Result;
use clap::Args;
use containerd_client::Snapshots;
use serde_json::{Map, Value};

use crate::json;

/// Print what is known of a snapshot.
#[derive(Debug, Args)]
pub(crate) struct Info {
    /// Its key or name
    key: String,
}

impl Info {
    pub(super) async fn run(self, snapshots: &Snapshots) -> Result<()> {
        let info = snapshots.stat(&self.key).await?;
        let time = |time: Option<std::time::SystemTime>| {
            let time = time.unwrap_or(std::time::SystemTime::UNIX_EPOCH);
            Value::from(prost_types::Timestamp::from(time).to_string())
        };
        // Names and order are Go's.
        let mut document = Map::new();
        document.insert("Kind".into(), info.kind.name().into());
        document.insert("Name".into(), info.name.into());
        if !info.parent.is_empty() {
            document.insert("Parent".into(), info.parent.into());
        }
        if !info.labels.is_empty() {
            document.insert("Labels".into(), serde_json::to_value(info.labels)?);
        }
        document.insert("Created".into(), time(info.created_at));
        document.insert("Updated".into(), time(info.updated_at));
        json::print(&document)
    }
}
