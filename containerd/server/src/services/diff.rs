//! `containerd.services.diff.v1.Diff`.

use containerd_api::services::diff::v1 as api;
use containerd_core::diff::{ApplyOptions, Diff, NewLayer};
use containerd_images::Descriptor;
use shim_protocol::Result;
use tonic::{Request, Response, Status};

use super::{
    convert::{any_in, descriptor_in, descriptor_out, mount_in, required, time_in},
    headers,
};
use crate::status;

pub(super) struct Service(pub(super) Diff);

impl Service {
    async fn unpack(&self, request: Request<api::ApplyRequest>) -> Result<Descriptor> {
        let namespace = headers::namespace(request.metadata())?;
        let request = request.into_inner();
        let layer = descriptor_in(required("diff", request.diff)?)?;
        let mounts = request.mounts.into_iter().map(mount_in).collect();
        let payloads = request.payloads.into_iter();
        let options = ApplyOptions {
            sync: request.sync_fs,
            payloads: payloads.map(|(name, payload)| (name, any_in(payload))).collect(),
            ..Default::default()
        };
        self.0.apply(&namespace, &layer, mounts, options).await
    }

    async fn make(&self, request: Request<api::DiffRequest>) -> Result<Descriptor> {
        let namespace = headers::namespace(request.metadata())?;
        let lease = headers::lease(request.metadata())?.map(str::to_owned);
        let request = request.into_inner();
        let latest = request.source_date_epoch.map(time_in).transpose()?;
        let layer = NewLayer {
            left: request.left.into_iter().map(mount_in).collect(),
            right: request.right.into_iter().map(mount_in).collect(),
            media_type: request.media_type,
            reference: request.r#ref,
            labels: request.labels,
            lease,
            latest,
        };
        self.0.create(&namespace, layer).await
    }
}

#[tonic::async_trait]
impl api::diff_server::Diff for Service {
    async fn apply(
        &self,
        request: Request<api::ApplyRequest>,
    ) -> Result<Response<api::ApplyResponse>, Status> {
        let applied = Some(descriptor_out(self.unpack(request).await.map_err(status::of)?));
        Ok(Response::new(api::ApplyResponse { applied }))
    }

    async fn diff(
        &self,
        request: Request<api::DiffRequest>,
    ) -> Result<Response<api::DiffResponse>, Status> {
        let diff = Some(descriptor_out(self.make(request).await.map_err(status::of)?));
        Ok(Response::new(api::DiffResponse { diff }))
    }
}
