//! The lease that holds what a transfer brings until something refers to it.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use shim_protocol::{ErrorKind, Id, Result};

use super::{Order, Transfers};

/// How long a lease holds what it holds, should nobody be left to drop it
/// (containerd, `withLease` in `core/transfer/local`).
const LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);

impl Transfers {
    /// Works under the client's lease, or one that is made for it.
    pub(super) async fn under_lease<T>(
        &self,
        order: &Order,
        work: impl AsyncFnOnce(&str) -> Result<T>,
    ) -> Result<T> {
        if let Some(lease) = &order.lease {
            return work(lease).await;
        }
        let expires = ("containerd.io/gc.expire".into(), rfc3339(SystemTime::now() + LIFETIME));
        let labels = BTreeMap::from([expires]);
        let lease = self.0.leases.create(&order.namespace, "", labels).await?.id;
        let outcome = work(&lease).await;
        match &outcome {
            // Whoever ended it may come again, and what has come so far need not,
            // until the lease expires.
            Err(error) if error.kind() == ErrorKind::Cancelled => {}
            Err(_) => {
                let brought = self.0.leases.resources(&order.namespace, &lease).await;
                self.drop_lease(&order.namespace, &lease).await;
                // Whoever hears that the disk is full may try something smaller. What
                // has brought nothing has nothing to give back.
                if brought.is_ok_and(|brought| !brought.is_empty()) {
                    self.collect().await;
                }
            }
            Ok(_) => self.drop_lease(&order.namespace, &lease).await,
        }
        outcome
    }

    /// Gives back what a failed transfer has brought.
    async fn collect(&self) {
        if let Err(error) = self.0.gc.collect().await {
            tracing::warn!(error = %error.report(), "what a failed transfer brought stays for now");
        }
    }

    async fn drop_lease(&self, namespace: &Id, lease: &str) {
        match self.0.leases.delete(namespace, lease).await {
            Err(error) if !error.is_not_found() => {
                let error = error.report();
                tracing::warn!(lease, %error, "the lease of a transfer stays until it expires");
            }
            _ => {}
        }
    }
}

/// A time as in RFC 3339.
pub(super) fn rfc3339(time: SystemTime) -> String {
    prost_types::Timestamp::from(time).to_string()
}
