//! One host that is asked: how to reach it, what it may be asked for, and what
//! it knows of us.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use reqwest::{
    Client, Method, Response, StatusCode, Url,
    header::{self, HeaderMap, HeaderName, HeaderValue},
    redirect,
};
use shim_protocol::{Error, ErrorKind, Result};
use tokio::{sync::Semaphore, time::timeout};

use super::{
    RegistryConfig, Scheme,
    auth::Auth,
    failure::{Again, Failure},
    hosts::{Capabilities, Configured},
    http::{Http, Outgoing, same_origin},
    tls,
};
use crate::{Reference, reference::is_localhost};

/// How many times one request may be told that it is not authorized.
const CHALLENGES_MAX: u32 = 2;

/// One host that is asked.
pub(super) struct Endpoint {
    scheme: Scheme,
    /// With its port, if one is named.
    host: String,
    path: String,
    pub(super) capabilities: Capabilities,
    headers: HeaderMap,
    pub(super) http: Http,
    auth: Auth,
    /// May be spoken to without TLS if it does not speak it.
    plain_fallback: bool,
    plain: AtomicBool,
    /// Told to a host that stands in for another one.
    namespace: Option<String>,
    /// How many blobs may be read at the same time.
    pub(super) bodies: Arc<Semaphore>,
}

/// A request to a registry.
#[derive(Clone)]
pub(super) struct Call {
    pub(super) method: Method,
    pub(super) place: Place,
    /// Asked for at a place below the repository.
    pub(super) query: Vec<(&'static str, String)>,
    pub(super) headers: HeaderMap,
    pub(super) body: Option<Bytes>,
    /// What it needs to be allowed.
    pub(super) scopes: Vec<String>,
    /// The image that it is made for.
    pub(super) reference: Reference,
    /// What comes is checked against its digest.
    pub(super) verified: bool,
    /// There is no other host to ask, so this one is asked more than once.
    pub(super) patient: bool,
}

/// Where a request goes.
#[derive(Clone)]
pub(super) enum Place {
    /// Below the repository: `manifests/latest`, `blobs/uploads/`.
    Repository(String),
    /// Where the registry has sent us.
    At(Url),
}

impl Call {
    /// A request that reads something below the repository.
    pub(super) fn read(method: Method, reference: &Reference, place: String) -> Self {
        Self {
            method,
            place: Place::Repository(place),
            query: Vec::new(),
            headers: HeaderMap::new(),
            body: None,
            scopes: vec![format!("repository:{}:pull", reference.path())],
            reference: reference.clone(),
            verified: false,
            patient: true,
        }
    }

    /// A request that changes something below the repository.
    pub(super) fn write(method: Method, reference: &Reference, place: Place) -> Self {
        let mut call = Self::read(method, reference, String::new());
        call.place = place;
        call.scopes = vec![format!("repository:{}:pull,push", reference.path())];
        call
    }

    /// With a header whose value is known to be good, or checked here.
    pub(super) fn header(mut self, name: HeaderName, value: &str) -> Result<Self> {
        let value = HeaderValue::from_str(value)
            .map_err(|_| Error::invalid(format!("header {name}: bad value {value:?}")))?;
        self.headers.insert(name, value);
        Ok(self)
    }
}

impl Endpoint {
    /// Makes what is configured ready for use. Reads files.
    ///
    /// # Errors
    /// `FailedPrecondition` when it cannot be used.
    pub(super) fn new(
        configured: Configured,
        config: &RegistryConfig,
        asked: &str,
    ) -> Result<Self> {
        let settings = match (configured.tls, config.tls.is_default()) {
            (Some(of_host), true) => of_host,
            (None, _) => config.tls.clone(),
            // Both say something: the host's own files, and the others beside.
            (Some(of_host), false) => super::Tls {
                skip_verify: of_host.skip_verify || config.tls.skip_verify,
                ca: [of_host.ca, config.tls.ca.clone()].concat(),
                client: [of_host.client, config.tls.client.clone()].concat(),
            },
        };
        let mut builder = Client::builder()
            .tls_backend_preconfigured(tls::configure(&settings)?)
            .user_agent(&config.user_agent)
            .redirect(redirect::Policy::none())
            // Tries are counted in one place.
            .retry(reqwest::retry::never())
            .connect_timeout(configured.dial_timeout.unwrap_or(config.limits.connect))
            .referer(false);
        if is_localhost(&configured.host) {
            // A proxy's localhost is another machine.
            builder = builder.no_proxy();
        }
        let client = builder.build().map_err(|error| {
            let what = format!("prepare to speak to {}", configured.host);
            Error::caused(ErrorKind::FailedPrecondition, what, error)
        })?;
        let mut headers = HeaderMap::new();
        for (name, value) in config.headers.iter().chain(&configured.headers) {
            let bad = || Error::precondition(format!("header {name:?} cannot be sent"));
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad())?;
            headers.append(name, HeaderValue::from_str(value).map_err(|_| bad())?);
        }
        let is_itself = configured.host == asked
            || (asked == "docker.io" && configured.host == "registry-1.docker.io");
        let permits = match config.limits.bodies_per_host {
            0 => Semaphore::MAX_PERMITS,
            some => some.min(Semaphore::MAX_PERMITS),
        };
        Ok(Self {
            scheme: configured.scheme.unwrap_or(Scheme::Https),
            auth: Auth::new(&configured.host, config.credentials.clone()),
            host: configured.host,
            path: configured.path,
            capabilities: configured.capabilities,
            headers,
            http: Http { client, limits: config.limits.clone() },
            plain_fallback: configured.plain_fallback,
            plain: AtomicBool::new(false),
            namespace: (!is_itself).then(|| asked.to_owned()),
            bodies: Arc::new(Semaphore::new(permits)),
        })
    }

    fn scheme(&self) -> Scheme {
        if self.plain.load(Ordering::Relaxed) { Scheme::Http } else { self.scheme }
    }

    fn origin(&self) -> Result<Url> {
        let text = format!("{}://{}", self.scheme().name(), self.host);
        Url::parse(&text).map_err(|error| {
            Error::caused(ErrorKind::InvalidArgument, format!("bad address {text:?}"), error)
        })
    }

    /// The address of something below a repository.
    fn address(&self, call: &Call) -> Result<Url> {
        let mut url = match &call.place {
            Place::At(url) => return Ok(url.clone()),
            Place::Repository(rest) => {
                let path = format!("{}/{}/{rest}", self.path, call.reference.path());
                self.origin()?.join(&path).map_err(|error| {
                    Error::caused(ErrorKind::InvalidArgument, format!("bad path {path:?}"), error)
                })?
            }
        };
        for (name, value) in &call.query {
            url.query_pairs_mut().append_pair(name, value);
        }
        if let Some(namespace) = &self.namespace {
            url.query_pairs_mut().append_pair("ns", namespace);
        }
        Ok(url)
    }

    /// What a request is sent with so that only this host gets to see it.
    pub(super) async fn private_headers(&self, url: &Url, scopes: &[String]) -> Result<HeaderMap> {
        if !same_origin(url, &self.origin()?) {
            return Ok(HeaderMap::new());
        }
        let mut headers = self.headers.clone();
        if let Some(value) = self.auth.header(&self.http, scopes).await? {
            headers.insert(header::AUTHORIZATION, value);
        }
        Ok(headers)
    }

    /// Makes a request, and again where that may help. An answer that tells an
    /// error is an error, except those in `accept`.
    ///
    /// # Errors
    /// As [`Failure`] sorts them; `DeadlineExceeded` when all of it took too
    /// long.
    pub(super) async fn send(&self, call: &Call, accept: &[StatusCode]) -> Result<Response> {
        let limit = self.http.limits.request;
        match timeout(limit, self.send_again(call, accept)).await {
            Ok(result) => result,
            Err(_) => {
                let what = format!("{} {}", call.method, self.host);
                Err(Failure::timeout(&what, limit).error)
            }
        }
    }

    async fn send_again(&self, call: &Call, accept: &[StatusCode]) -> Result<Response> {
        let limits = &self.http.limits;
        let mut scopes: BTreeSet<String> = call.scopes.iter().cloned().collect();
        let (mut tries, mut challenges) = (0, 0);
        loop {
            tries += 1;
            let url = self.address(call)?;
            let wanted: Vec<String> = scopes.iter().cloned().collect();
            let outgoing = Outgoing {
                private: self.private_headers(&url, &wanted).await?,
                headers: call.headers.clone(),
                body: call.body.clone(),
                verified: call.verified,
                ..Outgoing::new(call.method.clone(), url)
            };
            let failure = match self.http.follow(&outgoing).await {
                Ok(response) if response.status().is_success() => return Ok(response),
                Ok(response) if accept.contains(&response.status()) => return Ok(response),
                Ok(response) if response.status() == StatusCode::UNAUTHORIZED => {
                    challenges += 1;
                    if challenges <= CHALLENGES_MAX {
                        let used = outgoing.private.get(header::AUTHORIZATION);
                        let more = self.learn(&response, call, &wanted, used).await?;
                        scopes.extend(more);
                        tries -= 1;
                        continue;
                    }
                    Failure::from_answer(&outgoing.what(), response, limits.idle).await
                }
                Ok(response) => Failure::from_answer(&outgoing.what(), response, limits.idle).await,
                Err(failure) => failure,
            };
            match failure.again {
                Again::Plain if self.plain_fallback && outgoing.url.scheme() == "https" => {
                    tracing::debug!(host = self.host, "no TLS is spoken, going on without");
                    self.plain.store(true, Ordering::Relaxed);
                    tries -= 1;
                }
                Again::No => return Err(failure.error),
                Again::Later(Some(asked)) if asked > limits.backoff_max => {
                    return Err(failure.error);
                }
                _ if !call.patient || tries >= limits.tries => return Err(failure.error),
                Again::Plain => limits.wait(tries, None).await,
                Again::Later(asked) => limits.wait(tries, asked).await,
            }
        }
    }

    /// Learns from an answer how this host wants to be convinced.
    pub(super) async fn learn(
        &self,
        response: &Response,
        call: &Call,
        scopes: &[String],
        used: Option<&HeaderValue>,
    ) -> Result<Vec<String>> {
        let reference = call.reference.to_string();
        self.auth.learn(response, &self.origin()?, &reference, scopes, used).await
    }

    /// Names the host in messages.
    pub(super) fn host(&self) -> &str {
        &self.host
    }
}
