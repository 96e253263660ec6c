//! `grpc.health.v1.Health`: the daemon takes requests from the moment its
//! socket is there until it drains, and so do all its services.

use containerd_api::grpc::health::v1::{
    self as api, HealthCheckResponse, health_check_response::ServingStatus,
};
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

pub(super) struct Service {
    /// Full names of the services that are there.
    pub(super) names: Vec<&'static str>,
    /// Set when the daemon drains.
    pub(super) stop: CancellationToken,
}

impl Service {
    /// The empty name stands for the daemon as a whole.
    fn knows(&self, name: &str) -> bool {
        name.is_empty() || self.names.contains(&name)
    }

    fn status(&self) -> ServingStatus {
        if self.stop.is_cancelled() { ServingStatus::NotServing } else { ServingStatus::Serving }
    }
}

fn response(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

#[tonic::async_trait]
impl api::health_server::Health for Service {
    async fn check(
        &self,
        request: Request<api::HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let name = &request.get_ref().service;
        if !self.knows(name) {
            return Err(Status::not_found(format!("unknown service {name:?}")));
        }
        Ok(Response::new(response(self.status())))
    }

    async fn list(
        &self,
        _: Request<api::HealthListRequest>,
    ) -> Result<Response<api::HealthListResponse>, Status> {
        let names = [""].iter().chain(&self.names);
        let statuses = names.map(|name| ((*name).to_owned(), response(self.status()))).collect();
        Ok(Response::new(api::HealthListResponse { statuses }))
    }

    type WatchStream = BoxStream<'static, Result<HealthCheckResponse, Status>>;

    async fn watch(
        &self,
        request: Request<api::HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let known = self.knows(&request.get_ref().service);
        let now = if known { self.status() } else { ServingStatus::ServiceUnknown };
        let stop = self.stop.clone();
        // The only change there can be is the last one.
        let change = stream::once(async move {
            stop.cancelled_owned().await;
            Ok(response(if known { ServingStatus::NotServing } else { now }))
        });
        Ok(Response::new(stream::iter([Ok(response(now))]).chain(change).boxed()))
    }
}
