//! `containerd.services.events.v1.Events`.

use std::sync::Arc;

use containerd_api::{services::events::v1 as api, types};
use containerd_core::events::{By, Exchange, Subscribe};
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use shim_protocol::Result;
use tonic::{Request, Response, Status};

use super::{
    convert::{any_in, envelope_in, envelope_out, required},
    headers,
};
use crate::status;

/// Metadata key of our own: the timestamp of the last envelope that a
/// subscriber has seen, as `<seconds>.<nine digits>`. It gets all after that.
const AFTER_HEADER: &str = "containerd-events-after";

pub(super) struct Service(pub(super) Arc<Exchange>);

impl Service {
    fn publish(&self, request: Request<api::PublishRequest>) -> Result<()> {
        let namespace = headers::namespace(request.metadata())?;
        let request = request.into_inner();
        self.0.publish(&namespace, &request.topic, any_in(required("event", request.event)?))
    }

    fn forward(&self, request: api::ForwardRequest) -> Result<()> {
        self.0.forward(envelope_in(required("envelope", request.envelope)?)?)
    }
}

/// What a subscriber asks for. Its process and its filters tell whether it
/// has been here before.
fn decode(request: Request<api::SubscribeRequest>) -> Result<Subscribe> {
    let after = headers::text(request.metadata(), AFTER_HEADER)?.map(str::parse).transpose()?;
    let pid = headers::peer(&request);
    let filters = request.into_inner().filters;
    let by = pid.map_or(By::Anybody, |pid| By::Client(format!("{pid} {filters:?}")));
    Ok(Subscribe { filters, after, by })
}

#[tonic::async_trait]
impl api::events_server::Events for Service {
    async fn publish(&self, request: Request<api::PublishRequest>) -> Result<Response<()>, Status> {
        Service::publish(self, request).map_err(status::of)?;
        Ok(Response::new(()))
    }

    async fn forward(&self, request: Request<api::ForwardRequest>) -> Result<Response<()>, Status> {
        Service::forward(self, request.into_inner()).map_err(status::of)?;
        Ok(Response::new(()))
    }

    type SubscribeStream = BoxStream<'static, Result<types::Envelope, Status>>;

    /// The stream ends when the exchange is closed, which a drain does.
    async fn subscribe(
        &self,
        request: Request<api::SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let subscribe = decode(request).map_err(status::of)?;
        let subscription = self.0.subscribe(subscribe).map_err(status::of)?;
        let envelopes = stream::try_unfold(subscription, async |mut subscription| {
            let next = subscription.next().await.map_err(status::of)?;
            Ok(next.map(|envelope| (envelope_out(&envelope), subscription)))
        });
        Ok(Response::new(envelopes.boxed()))
    }
}
