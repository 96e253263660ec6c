//! Counts calls and their messages as they go by.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use axum::http::{HeaderMap, Request, Response};
use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use http_body::{Body, Frame, SizeHint};
use tonic::Code;
use tower::{Layer, Service};

use super::calls::{Call, Calls, Tally};

/// A message's head: whether it is compressed, and its length as a big-endian
/// number of 32 bits (grpc, `doc/PROTOCOL-HTTP2.md`).
const HEAD: usize = 5;

/// How a call came out, in trailers, or in the head of an answer without any
/// message (same place).
const STATUS: &str = "grpc-status";

/// Puts [`Counting`] around the services. Without figures nothing is counted.
#[derive(Clone)]
pub(crate) struct Count(pub(crate) Option<Arc<Calls>>);

/// Services whose calls are counted.
#[derive(Clone)]
pub(crate) struct Counting<S> {
    services: S,
    calls: Option<Arc<Calls>>,
}

impl<S> Layer<S> for Count {
    type Service = Counting<S>;

    fn layer(&self, services: S) -> Counting<S> {
        Counting { services, calls: self.0.clone() }
    }
}

impl<S, B> Service<Request<B>> for Counting<S>
where
    S: Service<Request<Counted<B>>, Response = Response<tonic::body::Body>>,
    S::Future: Send + 'static,
{
    type Response = Response<Counted<tonic::body::Body>>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.services.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let call = self.calls.as_ref().and_then(|calls| calls.begin(request.uri().path()));
        let asked = call.as_ref().map(|call| Side::Request(call.tally()));
        let answer = self.services.call(request.map(|body| Counted::new(body, asked)));
        answer.map(|answer| answer.map(|response| answered(response, call))).boxed()
    }
}

fn answered(
    response: Response<tonic::body::Body>,
    mut call: Option<Call>,
) -> Response<Counted<tonic::body::Body>> {
    // One that has no message has no trailers either.
    if let (Some(call), Some(code)) = (&mut call, code(response.headers())) {
        call.handled(code);
    }
    response.map(|body| Counted::new(body, call.map(Side::Answer)))
}

fn code(headers: &HeaderMap) -> Option<Code> {
    headers.get(STATUS).map(|code| Code::from_bytes(code.as_bytes()))
}

/// Whose messages they are.
enum Side {
    Request(Arc<Tally>),
    Answer(Call),
}

/// A body whose messages are counted.
pub(crate) struct Counted<B> {
    body: B,
    messages: Messages,
    side: Option<Side>,
}

impl<B> Counted<B> {
    fn new(body: B, side: Option<Side>) -> Self {
        Self { body, messages: Messages::default(), side }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Counted<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let Self { body, messages, side } = self.get_mut();
        let frame = ready!(Pin::new(body).poll_frame(context));
        match (side, &frame) {
            (None, _) => {}
            (Some(side), Some(Ok(frame))) => {
                let whole = frame.data_ref().map_or(0, |data| messages.count(data));
                match side {
                    Side::Request(tally) => tally.received(whole),
                    Side::Answer(call) => {
                        call.sent(whole);
                        if let Some(code) = frame.trailers_ref().and_then(code) {
                            call.handled(code);
                        }
                    }
                }
            }
            (Some(Side::Answer(call)), Some(Err(_)) | None) => call.handled(Code::Unknown),
            (Some(Side::Request(_)), _) => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Where messages end in what comes in pieces.
#[derive(Default)]
struct Messages {
    /// The head so far.
    head: [u8; HEAD],
    had: usize,
    /// What is still to come of the message, once its head is there.
    left: usize,
}

impl Messages {
    /// How many end in this piece.
    fn count(&mut self, mut piece: &[u8]) -> u64 {
        let mut whole = 0;
        while !piece.is_empty() {
            if self.had < HEAD {
                let taken = piece.len().min(HEAD - self.had);
                self.head[self.had..self.had + taken].copy_from_slice(&piece[..taken]);
                self.had += taken;
                piece = &piece[taken..];
                if self.had < HEAD {
                    break;
                }
                let [_, length @ ..] = self.head;
                self.left = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
            }
            let taken = piece.len().min(self.left);
            self.left -= taken;
            piece = &piece[taken..];
            if self.left == 0 {
                self.had = 0;
                whole += 1;
            }
        }
        whole
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use containerd_api::services::leases::v1::{
        AddResourceRequest, CreateRequest, CreateResponse, DeleteRequest, DeleteResourceRequest,
        ListRequest, ListResourcesRequest, ListResourcesResponse, ListResponse, leases_server,
        leases_server::LeasesServer,
    };
    use prost::Message;
    use tonic::{Status, service::Routes};

    use super::*;
    use crate::metrics::text::Families;

    fn message(length: u32) -> Vec<u8> {
        let mut bytes = vec![0];
        bytes.extend(length.to_be_bytes());
        bytes.extend(vec![7; length as usize]);
        bytes
    }

    #[test]
    fn messages_are_counted_however_they_come() {
        let all = [message(3), message(0), message(300), message(0)].concat();
        for size in [1, 2, 3, 4, 5, 6, 7, 300, all.len()] {
            let mut messages = Messages::default();
            let whole: u64 = all.chunks(size).map(|piece| messages.count(piece)).sum();
            assert_eq!(whole, 4, "pieces of {size}");
        }
        let mut messages = Messages::default();
        assert_eq!(messages.count(&all[..all.len() - 1]), 3);
    }

    /// Answers, fails, or never answers, by the lease that is asked for.
    struct Leases;

    #[tonic::async_trait]
    impl leases_server::Leases for Leases {
        async fn create(
            &self,
            request: tonic::Request<CreateRequest>,
        ) -> Result<tonic::Response<CreateResponse>, Status> {
            match request.into_inner().id.as_str() {
                "good" => Ok(tonic::Response::new(CreateResponse::default())),
                "bad" => Err(Status::already_exists("bad")),
                _ => std::future::pending().await,
            }
        }

        async fn delete(
            &self,
            _: tonic::Request<DeleteRequest>,
        ) -> Result<tonic::Response<()>, Status> {
            Ok(tonic::Response::new(()))
        }

        async fn list(
            &self,
            _: tonic::Request<ListRequest>,
        ) -> Result<tonic::Response<ListResponse>, Status> {
            Ok(tonic::Response::new(ListResponse::default()))
        }

        async fn add_resource(
            &self,
            _: tonic::Request<AddResourceRequest>,
        ) -> Result<tonic::Response<()>, Status> {
            Ok(tonic::Response::new(()))
        }

        async fn delete_resource(
            &self,
            _: tonic::Request<DeleteResourceRequest>,
        ) -> Result<tonic::Response<()>, Status> {
            Ok(tonic::Response::new(()))
        }

        async fn list_resources(
            &self,
            _: tonic::Request<ListResourcesRequest>,
        ) -> Result<tonic::Response<ListResourcesResponse>, Status> {
            Ok(tonic::Response::new(ListResourcesResponse::default()))
        }
    }

    fn request(method: &str, id: &str) -> Request<tonic::body::Body> {
        let asked = CreateRequest { id: id.into(), ..CreateRequest::default() }.encode_to_vec();
        let head = [vec![0], u32::try_from(asked.len()).unwrap().to_be_bytes().to_vec()];
        let body = axum::body::Body::from([head.concat(), asked].concat());
        Request::post(format!("http://a/containerd.services.leases.v1.Leases/{method}"))
            .header("content-type", "application/grpc")
            .body(tonic::body::Body::new(body))
            .unwrap()
    }

    #[tokio::test]
    async fn what_is_served_is_counted_and_nothing_else() {
        let calls = Arc::new(Calls::new(&["containerd.services.leases.v1.Leases"], true));
        let routes = Routes::new(LeasesServer::new(Leases));
        let mut services = Count(Some(calls.clone())).layer(routes);
        let figures = || {
            let mut families = Families::default();
            calls.add_to(&mut families);
            families.render()
        };
        let before = figures();
        for (method, id) in [("Create", "good"), ("Create", "bad"), ("Made-up", "good")] {
            let response = services.call(request(method, id)).await.unwrap();
            let mut body = response.into_body();
            while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
                frame.unwrap();
            }
        }
        // A client that goes away before, and one that does not read to the end.
        assert!(services.call(request("Create", "never")).now_or_never().is_none());
        drop(services.call(request("Create", "good")).await.unwrap());

        let after = figures();
        let labels = "grpc_method=\"Create\",\
                      grpc_service=\"containerd.services.leases.v1.Leases\",\
                      grpc_type=\"unary\"";
        for line in [
            format!("grpc_server_started_total{{{labels}}} 4"),
            format!("grpc_server_msg_received_total{{{labels}}} 4"),
            format!("grpc_server_msg_sent_total{{{labels}}} 1"),
            format!("grpc_server_handled_total{{grpc_code=\"OK\",{labels}}} 1"),
            format!("grpc_server_handled_total{{grpc_code=\"AlreadyExists\",{labels}}} 1"),
            format!("grpc_server_handled_total{{grpc_code=\"Canceled\",{labels}}} 2"),
            format!("grpc_server_handling_seconds_count{{{labels}}} 4"),
        ] {
            assert!(after.lines().any(|l| l == line), "{line} is not in {after}");
        }
        assert_eq!(before.lines().count(), after.lines().count());
        assert!(!after.contains("Made-up"));
    }
}
