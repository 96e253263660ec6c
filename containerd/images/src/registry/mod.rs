//! Registries: where images come from, over HTTP (OCI distribution
//! specification, version 1.1).
//!
//! What comes from a registry is not trusted: documents are checked against
//! their digest here, and blobs by whoever writes them. Each wait has an end,
//! and what is only for one host goes to no other.

pub mod auth;
mod body;
mod config;
mod endpoint;
mod failure;
mod hosts;
mod http;
mod push;
mod referrers;
mod resolve;
mod tls;
mod upload;

use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use shim_protocol::{Error, ErrorKind, Result};
use tokio::sync::OnceCell;

use self::{endpoint::Endpoint, hosts::Capabilities};
use crate::Reference;

pub use body::Body;
pub use config::{CredentialProvider, Credentials, Limits, RegistryConfig, Scheme, Tls};
pub use push::{Progress, Pushed};

/// All registries, as configured. Connections and tokens are kept as long as it
/// is; a clone is the same one.
#[derive(Clone)]
pub struct Registry {
    inner: Arc<Inner>,
}

struct Inner {
    config: RegistryConfig,
    /// Hosts to ask for the images of a host, once somebody wants one.
    endpoints: Mutex<HashMap<String, Arc<OnceCell<Endpoints>>>>,
}

/// Hosts to ask, in this order.
type Endpoints = Arc<[Arc<Endpoint>]>;

impl Registry {
    /// Nothing is connected yet, and no file read.
    pub fn new(config: RegistryConfig) -> Self {
        Self { inner: Arc::new(Inner { config, endpoints: Mutex::new(HashMap::new()) }) }
    }

    fn limits(&self) -> &Limits {
        &self.inner.config.limits
    }

    /// The hosts that may be asked for this, in their order.
    ///
    /// # Errors
    /// `NotFound` when there is none; `FailedPrecondition` when they are not
    /// well configured.
    async fn endpoints(
        &self,
        reference: &Reference,
        able: impl Fn(&Capabilities) -> bool,
    ) -> Result<Vec<Arc<Endpoint>>> {
        let host = reference.host();
        let cell = {
            let mut endpoints = self.inner.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
            endpoints.entry(host.to_owned()).or_default().clone()
        };
        let all = cell.get_or_try_init(|| self.clone().configure(host.to_owned())).await?;
        let able: Vec<_> = all.iter().filter(|one| able(&one.capabilities)).cloned().collect();
        if able.is_empty() {
            return Err(Error::not_found(format!("a host that does this for images of {host}")));
        }
        Ok(able)
    }

    async fn configure(self, host: String) -> Result<Endpoints> {
        let made = tokio::task::spawn_blocking(move || {
            let config = &self.inner.config;
            hosts::find(config, &host)?
                .into_iter()
                .map(|configured| Endpoint::new(configured, config, &host).map(Arc::new))
                .collect::<Result<Endpoints>>()
        });
        made.await.map_err(|error| Error::caused(ErrorKind::Internal, "read hosts", error))?
    }
}

/// Reads what stands in a `hosts.toml`, and tells how many hosts it names. For
/// tests of the reading; a registry finds its files itself.
///
/// # Errors
/// `FailedPrecondition` when it says something that cannot be.
#[doc(hidden)]
pub fn check_hosts_toml(text: &str, folder: &Path) -> Result<usize> {
    hosts::file::parse(text, folder).map(|hosts| hosts.len())
}

/// Which of several hosts' errors tells most: one that knows the image but
/// fails rather than one that does not know it, and that rather than one that
/// does not answer. Of equal ones, the first.
#[derive(Default)]
struct Failed(Option<Error>);

impl Failed {
    fn add(&mut self, host: &str, error: Error) {
        tracing::debug!(host, error = %error.report(), "asking the next host, if there is one");
        let telling = |error: &Error| match error.kind() {
            ErrorKind::Unavailable | ErrorKind::DeadlineExceeded => 1,
            ErrorKind::NotFound => 2,
            _ => 3,
        };
        if self.0.as_ref().is_none_or(|known| telling(known) < telling(&error)) {
            self.0 = Some(error);
        }
    }

    /// The error of all that were asked.
    fn into_error(self) -> Error {
        self.0.unwrap_or_else(|| Error::internal("no host was asked"))
    }
}
