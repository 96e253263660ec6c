//! Tokens: what a token server gives us to show to a registry (distribution's
//! "Token Authentication" and "OAuth2 Token Authentication").

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use reqwest::{
    Method, Url,
    header::{self, HeaderValue},
};
use serde::Deserialize;
use shim_protocol::{Error, ErrorKind, Result};

use super::{Challenge, basic, secret};
use crate::registry::{
    Credentials,
    failure::{Again, Failure},
    http::{Http, Outgoing, read_all},
};

/// Largest answer of a token server that is read, in bytes.
const ANSWER_MAX_BYTES: u64 = 1 << 20;
/// How long a token is good if it does not say (the specification's number).
const LIFE: Duration = Duration::from_secs(60);
/// A token is not used in the last tenth of its life: it takes time to arrive.
const USABLE_TENTHS: u32 = 9;
/// Who we are to token servers.
const CLIENT_ID: &str = "containerd-client";

/// Tokens of one token server, by what they allow.
pub(super) struct Tokens {
    realm_text: String,
    realm: Url,
    service: Option<String>,
    credentials: Credentials,
    by_scopes: Mutex<HashMap<Vec<String>, Slot>>,
}

/// Held while a token is fetched, so that all who need the same one wait for
/// one fetch.
type Slot = Arc<tokio::sync::Mutex<Option<Token>>>;

struct Token {
    header: HeaderValue,
    good_until: Instant,
}

impl Tokens {
    /// The token server that a challenge of the registry at `origin` names.
    ///
    /// # Errors
    /// `PermissionDenied` when it cannot be asked, or may not be told a secret.
    pub(super) fn new(
        challenge: &Challenge,
        credentials: &Credentials,
        origin: &Url,
    ) -> Result<Self> {
        let denied = |why: &str| Error::new(ErrorKind::PermissionDenied, format!("token: {why}"));
        let Some(realm_text) = challenge.parameter("realm") else {
            return Err(denied("the registry does not say who gives it"));
        };
        let realm = Url::parse(realm_text)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
            .filter(|url| url.username().is_empty() && url.password().is_none())
            .ok_or_else(|| denied("bad address of the token server"))?;
        let is_secret = *credentials != Credentials::None;
        if is_secret && origin.scheme() == "https" && realm.scheme() != "https" {
            return Err(denied("a secret is not sent to an address without TLS"));
        }
        Ok(Self {
            realm_text: realm_text.to_owned(),
            realm,
            service: challenge.parameter("service").map(str::to_owned),
            credentials: credentials.clone(),
            by_scopes: Mutex::new(HashMap::new()),
        })
    }

    /// Is it the token server that this challenge names?
    pub(super) fn is_of(&self, challenge: &Challenge) -> bool {
        challenge.parameter("realm") == Some(&self.realm_text)
            && challenge.parameter("service") == self.service.as_deref()
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<Vec<String>, Slot>> {
        // An entry is put in as a whole.
        self.by_scopes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets the token for `scopes` if it is the one that was used.
    pub(super) fn forget(&self, scopes: &[String], used: Option<&HeaderValue>) {
        let mut slots = self.slots();
        let is_used = |slot: &Slot| match slot.try_lock() {
            Ok(token) => token.as_ref().map(|token| &token.header) == used,
            // Somebody is at it.
            Err(_) => false,
        };
        if slots.get(scopes).is_some_and(is_used) {
            slots.remove(scopes);
        }
    }

    /// What to say to do what `scopes` (sorted) tell. Fetches a token if there
    /// is none that is good any more.
    pub(super) async fn header(&self, http: &Http, scopes: &[String]) -> Result<HeaderValue> {
        let slot = self.slots().entry(scopes.to_vec()).or_default().clone();
        let mut token = slot.lock().await;
        match &*token {
            Some(token) if Instant::now() < token.good_until => return Ok(token.header.clone()),
            _ => {}
        }
        let fetched = self.fetch(http, scopes).await?;
        let header = fetched.header.clone();
        *token = Some(fetched);
        Ok(header)
    }

    async fn fetch(&self, http: &Http, scopes: &[String]) -> Result<Token> {
        let posted = match &self.credentials {
            Credentials::None | Credentials::Header(_) => None,
            Credentials::Basic { username, password } => Some(vec![
                ("grant_type", "password"),
                ("username", username.as_str()),
                ("password", password.as_str()),
            ]),
            Credentials::RefreshToken(token) => {
                Some(vec![("grant_type", "refresh_token"), ("refresh_token", token.as_str())])
            }
        };
        if let Some(fields) = posted {
            match self.tried(http, &self.post(scopes, &fields)).await {
                // Not all token servers know this way; these are what they say.
                Err((400 | 401 | 404 | 405, _)) => {}
                other => return other.map_err(|(_, error)| error),
            }
        }
        self.tried(http, &self.get(scopes)?).await.map_err(|(_, error)| error)
    }

    fn post(&self, scopes: &[String], fields: &[(&str, &str)]) -> Outgoing {
        // Made by what makes queries of addresses, which have the same form.
        let mut form = self.realm.clone();
        form.set_query(None);
        {
            let mut pairs = form.query_pairs_mut();
            if !scopes.is_empty() {
                pairs.append_pair("scope", &scopes.join(" "));
            }
            pairs.append_pair("service", self.service.as_deref().unwrap_or_default());
            pairs.append_pair("client_id", CLIENT_ID);
            pairs.extend_pairs(fields);
        }
        let mut outgoing = Outgoing::new(Method::POST, self.realm.clone());
        outgoing.headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/x-www-form-urlencoded; charset=utf-8"),
        );
        outgoing.body = Some(form.query().unwrap_or_default().to_owned().into());
        outgoing
    }

    fn get(&self, scopes: &[String]) -> Result<Outgoing> {
        let mut url = self.realm.clone();
        {
            let mut pairs = url.query_pairs_mut();
            if let Some(service) = &self.service {
                pairs.append_pair("service", service);
            }
            for scope in scopes {
                pairs.append_pair("scope", scope);
            }
        }
        let mut outgoing = Outgoing::new(Method::GET, url);
        let authorization = match &self.credentials {
            Credentials::Basic { username, password } => Some(basic(username, password)?),
            Credentials::RefreshToken(token) => Some(basic("", token)?),
            Credentials::None | Credentials::Header(_) => None,
        };
        if let Some(authorization) = authorization {
            outgoing.private.insert(header::AUTHORIZATION, authorization);
        }
        Ok(outgoing)
    }

    /// Asks, and again where that may help; an error comes with the status that
    /// was answered, or 0.
    async fn tried(&self, http: &Http, outgoing: &Outgoing) -> Result<Token, (u16, Error)> {
        let mut tries = 0;
        loop {
            tries += 1;
            let (status, failure) = match self.asked(http, outgoing).await {
                Ok(token) => return Ok(token),
                Err(failed) => failed,
            };
            match failure.again {
                Again::Later(asked) if tries < http.limits.tries => {
                    http.limits.wait(tries, asked).await;
                }
                _ => return Err((status, failure.error)),
            }
        }
    }

    async fn asked(&self, http: &Http, outgoing: &Outgoing) -> Result<Token, (u16, Failure)> {
        let what = outgoing.what();
        // A secret in the body must not follow to another host either.
        let response = http.follow(outgoing).await.map_err(|failure| (0, failure))?;
        let status = response.status();
        let idle = http.limits.idle;
        if !status.is_success() {
            return Err((status.as_u16(), Failure::from_answer(&what, response, idle).await));
        }
        let started = Instant::now();
        let read = async {
            let body = read_all(&what, response, ANSWER_MAX_BYTES, idle).await?;
            parse(&body, started)
                .map_err(|error| Failure::fatal(Error::caused(error.kind(), what.clone(), error)))
        };
        read.await.map_err(|failure| (status.as_u16(), failure))
    }
}

#[derive(Deserialize)]
struct Answer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<i64>,
}

fn parse(body: &[u8], started: Instant) -> Result<Token> {
    let answer: Answer = serde_json::from_slice(body).map_err(|error| {
        Error::caused(ErrorKind::DataLoss, "bad answer of a token server", error)
    })?;
    let tokens = [answer.access_token, answer.token];
    let Some(token) = tokens.into_iter().flatten().find(|token| !token.is_empty()) else {
        return Err(Error::new(ErrorKind::PermissionDenied, "the token server gives no token"));
    };
    let seconds = answer.expires_in.and_then(|seconds| u64::try_from(seconds).ok());
    let life = seconds.filter(|seconds| *seconds > 0).map_or(LIFE, Duration::from_secs);
    // A host may claim any number; nobody lives a century.
    let life = life.min(Duration::from_secs(3600 * 24 * 365));
    let good_until = started + life / 10 * USABLE_TENTHS;
    Ok(Token { header: secret(&format!("Bearer {token}"))?, good_until })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_token_servers_are_read() {
        let now = Instant::now();
        let token = parse(br#"{"token":"a","access_token":"b","expires_in":100}"#, now).unwrap();
        assert_eq!(token.header, "Bearer b");
        assert!(token.header.is_sensitive());
        assert_eq!(token.good_until - now, Duration::from_secs(90));
        for body in [r#"{"token":"a"}"#, r#"{"token":"a","expires_in":-5,"x":[]}"#] {
            let token = parse(body.as_bytes(), now).unwrap();
            assert_eq!(token.good_until - now, Duration::from_secs(54), "{body}");
        }
        let far = parse(br#"{"token":"a","expires_in":9223372036854775807}"#, now);
        assert!(far.is_ok());
        for (body, kind) in [
            ("", ErrorKind::DataLoss),
            ("[]", ErrorKind::DataLoss),
            ("{}", ErrorKind::PermissionDenied),
            (r#"{"token":""}"#, ErrorKind::PermissionDenied),
            ("{\"token\":\"a\\nb\"}", ErrorKind::InvalidArgument),
        ] {
            assert_eq!(parse(body.as_bytes(), now).err().unwrap().kind(), kind, "{body}");
        }
    }
}
