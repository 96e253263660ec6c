//! What clients ask of the gRPC API, and what they get: the figures that
//! containerd serves, with the names of go-grpc-prometheus (`server_metrics.go`).
//! There are those of the methods that are served, from the beginning, and no
//! others, whatever clients make up.

use std::{
    array,
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use containerd_api::{METHODS, Method};
use containerd_core::telemetry::Histogram;
use tonic::Code;

use super::text::{Families, Kind};

/// By their numbers, as Go names them (grpc-go, `codes/code_string.go`).
const CODES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

/// All that can be asked.
pub(crate) struct Calls {
    /// By path: `/<service>/<method>`.
    methods: HashMap<String, Arc<Tally>>,
    has_times: bool,
}

/// One method.
pub(super) struct Tally {
    method: &'static Method,
    started: AtomicU64,
    received: AtomicU64,
    sent: AtomicU64,
    /// By code.
    handled: [AtomicU64; CODES.len()],
    times: Histogram,
}

/// A request that is being answered.
pub(super) struct Call {
    tally: Arc<Tally>,
    began: Instant,
    is_handled: bool,
}

impl Calls {
    /// Nothing was asked yet of the services with these names; `has_times` says
    /// whether it is told how long answers take.
    pub(crate) fn new(services: &[&str], has_times: bool) -> Self {
        let served = METHODS.iter().filter(|method| services.contains(&method.service));
        let methods = served.map(|method| {
            let path = format!("/{}/{}", method.service, method.name);
            (path, Arc::new(Tally::new(method)))
        });
        Self { methods: methods.collect(), has_times }
    }

    /// A request begins; `None` if there is no such method.
    pub(super) fn begin(&self, path: &str) -> Option<Call> {
        let tally = self.methods.get(path)?.clone();
        tally.started.fetch_add(1, Ordering::Relaxed);
        Some(Call { tally, began: Instant::now(), is_handled: false })
    }

    pub(super) fn add_to(&self, families: &mut Families) {
        let mut tallies: Vec<_> = self.methods.values().collect();
        tallies.sort_unstable_by_key(|tally| (tally.method.service, tally.method.name));
        for tally in tallies {
            tally.add_to(families, self.has_times);
        }
    }
}

impl Tally {
    fn new(method: &'static Method) -> Self {
        Self {
            method,
            started: AtomicU64::new(0),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            handled: array::from_fn(|_| AtomicU64::new(0)),
            times: Histogram::default(),
        }
    }

    pub(super) fn received(&self, messages: u64) {
        self.received.fetch_add(messages, Ordering::Relaxed);
    }

    fn add_to(&self, families: &mut Families, has_times: bool) {
        let kind = match (self.method.client_streams, self.method.server_streams) {
            (false, false) => "unary",
            (true, false) => "client_stream",
            (false, true) => "server_stream",
            (true, true) => "bidi_stream",
        };
        let labels = [
            ("grpc_method", self.method.name),
            ("grpc_service", self.method.service),
            ("grpc_type", kind),
        ];
        for (name, help, figure) in [
            (
                "grpc_server_started_total",
                "Total number of RPCs started on the server.",
                &self.started,
            ),
            (
                "grpc_server_msg_received_total",
                "Total number of RPC stream messages received on the server.",
                &self.received,
            ),
            (
                "grpc_server_msg_sent_total",
                "Total number of gRPC stream messages sent by the server.",
                &self.sent,
            ),
        ] {
            let figure = figure.load(Ordering::Relaxed);
            families.add(name, Kind::Counter, help, &labels, figure as f64);
        }
        for (code, figure) in CODES.iter().zip(&self.handled) {
            let [method, service, kind] = labels;
            families.add(
                "grpc_server_handled_total",
                Kind::Counter,
                "Total number of RPCs completed on the server, regardless of success or failure.",
                &[("grpc_code", code), method, service, kind],
                figure.load(Ordering::Relaxed) as f64,
            );
        }
        if has_times {
            families.add_histogram(
                "grpc_server_handling_seconds",
                "Time from a request until it is answered to its end.",
                &labels,
                &self.times.counted(),
            );
        }
    }
}

impl Call {
    pub(super) fn tally(&self) -> Arc<Tally> {
        self.tally.clone()
    }

    pub(super) fn sent(&self, messages: u64) {
        self.tally.sent.fetch_add(messages, Ordering::Relaxed);
    }

    /// It is answered to its end; only the first time counts.
    pub(super) fn handled(&mut self, code: Code) {
        if std::mem::replace(&mut self.is_handled, true) {
            return;
        }
        if let Some(handled) = self.tally.handled.get(code as usize) {
            handled.fetch_add(1, Ordering::Relaxed);
        }
        let elapsed: Duration = self.began.elapsed();
        self.tally.times.add(elapsed);
    }
}

impl Drop for Call {
    /// The client has gone away before.
    fn drop(&mut self) {
        self.handled(Code::Cancelled);
    }
}
