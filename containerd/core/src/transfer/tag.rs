//! From one name to another.

use std::time::SystemTime;

use shim_protocol::Result;

use super::{ImageSpec, Order, Transfers, lease::rfc3339, pull::record};

impl Transfers {
    /// Gives the image that `from` names the names that `to` says.
    ///
    /// # Errors
    /// `NotFound` when there is no such image, or no name was given for it.
    pub async fn tag(&self, order: Order, from: ImageSpec, to: ImageSpec) -> Result<()> {
        self.own(order, |this, order| async move {
            let work = async |lease: &str| {
                let image = this.0.images.get(&order.namespace, &from.name).await?;
                let images = to.images(&image.target, &rfc3339(SystemTime::now()))?;
                record(&order, &this.store(&order, lease), images).await
            };
            this.under_lease(&order, work).await
        })
        .await
    }
}
