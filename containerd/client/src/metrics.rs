//! What a task uses.

use std::time::SystemTime;

use containerd_api::{
    cgroups::{v1, v2},
    from_any,
};
use prost::Name;
use prost_types::Any;

use crate::{Error, ErrorKind, Result};

/// One sample of what a task uses.
#[derive(Clone, Debug, PartialEq)]
pub struct Metrics {
    /// The task.
    pub id: String,
    /// When it was taken.
    pub timestamp: Option<SystemTime>,
    /// What the shim measured; see [`Metrics::usage`].
    pub data: Any,
}

/// A sample in the words of its version of cgroups.
#[derive(Clone, Debug, PartialEq)]
pub enum Usage {
    /// Version 1.
    V1(Box<v1::Metrics>),
    /// Version 2.
    V2(Box<v2::Metrics>),
}

impl Metrics {
    /// The sample, as a message.
    ///
    /// # Errors
    /// `Unimplemented` when the runtime has metrics of its own,
    /// `DataLoss` when the bytes make no sense.
    pub fn usage(&self) -> Result<Usage> {
        let name = self.data.type_url.rsplit('/').next().unwrap_or_default();
        let decoded = if name == v1::Metrics::full_name() {
            from_any(&self.data).map(|m| Usage::V1(Box::new(m)))
        } else if name == v2::Metrics::full_name() {
            from_any(&self.data).map(|m| Usage::V2(Box::new(m)))
        } else {
            let context = format!("metrics of {}: unknown type {name:?}", self.id);
            return Err(Error::new(ErrorKind::Unimplemented, context));
        };
        decoded
            .map_err(|e| Error::caused(ErrorKind::DataLoss, format!("metrics of {}", self.id), e))
    }
}

#[cfg(test)]
mod tests {
    use containerd_api::to_any;

    use super::*;

    fn metrics(data: Any) -> Metrics {
        Metrics { id: "web".into(), timestamp: None, data }
    }

    #[test]
    fn both_versions_are_told_apart() {
        assert!(matches!(metrics(to_any(&v1::Metrics::default())).usage(), Ok(Usage::V1(_))));
        assert!(matches!(metrics(to_any(&v2::Metrics::default())).usage(), Ok(Usage::V2(_))));
    }

    #[test]
    fn another_runtimes_metrics_are_named() {
        let data = Any { type_url: "io.wasm.Stats".into(), value: Vec::new() };
        let error = metrics(data).usage().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unimplemented);
        assert!(error.to_string().contains("io.wasm.Stats"));
    }
}
