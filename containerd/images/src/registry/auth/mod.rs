//! Authentication at one host: what it asks for, who we are, and the tokens
//! that we have been given.

pub mod challenge;
mod token;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use reqwest::{Response, Url, header, header::HeaderValue};
use shim_protocol::{Error, ErrorKind, Result};
use tokio::sync::OnceCell;

use self::{challenge::Challenge, token::Tokens};
use super::{
    CredentialProvider, Credentials,
    http::{Http, same_origin},
};

/// How to convince one host.
pub(super) struct Auth {
    host: String,
    provider: Option<Arc<dyn CredentialProvider>>,
    /// Asked for once: it may be a person.
    credentials: OnceCell<Credentials>,
    way: Mutex<Way>,
}

/// What a host asked for.
#[derive(Clone)]
enum Way {
    /// Nothing so far.
    Nothing,
    /// This, each time.
    Always(HeaderValue),
    /// A token for what is to be done.
    Tokens(Arc<Tokens>),
}

impl Auth {
    /// The host has asked for nothing so far.
    pub(super) fn new(host: &str, provider: Option<Arc<dyn CredentialProvider>>) -> Self {
        let (host, credentials) = (host.to_owned(), OnceCell::new());
        Self { host, provider, credentials, way: Mutex::new(Way::Nothing) }
    }

    fn way(&self) -> MutexGuard<'_, Way> {
        // A value replaced as a whole has no half states.
        self.way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What `Authorization` has to say to do what `scopes` tell; none if nothing
    /// was asked for yet.
    pub(super) async fn header(
        &self,
        http: &Http,
        scopes: &[String],
    ) -> Result<Option<HeaderValue>> {
        let way = self.way().clone();
        match way {
            Way::Nothing => Ok(None),
            Way::Always(value) => Ok(Some(value)),
            Way::Tokens(tokens) => tokens.header(http, scopes).await.map(Some),
        }
    }

    /// Learns from an answer that `used` (if anything) did not convince the
    /// host. Answers what else it wants to be allowed.
    ///
    /// # Errors
    /// `PermissionDenied` when nothing that we know could convince it.
    pub(super) async fn learn(
        &self,
        response: &Response,
        origin: &Url,
        reference: &str,
        scopes: &[String],
        used: Option<&HeaderValue>,
    ) -> Result<Vec<String>> {
        let denied = |why: &str| {
            Error::new(ErrorKind::PermissionDenied, format!("authorize at {}: {why}", self.host))
        };
        if !same_origin(response.url(), origin) {
            return Err(denied("another host asks for it, to which we were sent on"));
        }
        let headers: Vec<String> = response
            .headers()
            .get_all(header::WWW_AUTHENTICATE)
            .iter()
            .filter_map(|value| value.to_str().ok().map(str::to_owned))
            .collect();
        let challenges = challenge::parse(headers.iter().map(String::as_str));
        let find = |scheme: &str| challenges.iter().find(|one| one.scheme == scheme);
        let credentials = self.credentials(reference, &headers).await?;
        if let Credentials::Header(value) = credentials {
            if used.is_some() {
                return Err(denied("what we say of ourselves does not convince it"));
            }
            *self.way() = Way::Always(secret(value)?);
            return Ok(Vec::new());
        }
        if let Some(challenge) = find("bearer") {
            return self.learn_bearer(challenge, credentials, origin, scopes, used);
        }
        if find("basic").is_none() {
            return Err(denied("it asks for nothing that we could do"));
        }
        let Credentials::Basic { username, password } = credentials else {
            return Err(denied("it wants a name and a password"));
        };
        if used.is_some() {
            return Err(denied("name or password do not convince it"));
        }
        *self.way() = Way::Always(basic(username, password)?);
        Ok(Vec::new())
    }

    fn learn_bearer(
        &self,
        challenge: &Challenge,
        credentials: &Credentials,
        origin: &Url,
        scopes: &[String],
        used: Option<&HeaderValue>,
    ) -> Result<Vec<String>> {
        let more = challenge.parameter("scope").unwrap_or_default();
        let more: Vec<String> = more.split_ascii_whitespace().map(str::to_owned).collect();
        let mut way = self.way();
        let known = match &*way {
            Way::Tokens(tokens) if tokens.is_of(challenge) => Some(tokens.clone()),
            _ => None,
        };
        match known {
            // Others may have fetched a new one meanwhile, which stays.
            Some(tokens) => tokens.forget(scopes, used),
            None => {
                *way = Way::Tokens(Arc::new(Tokens::new(challenge, credentials, origin)?));
            }
        }
        Ok(more)
    }

    async fn credentials(&self, reference: &str, challenges: &[String]) -> Result<&Credentials> {
        self.credentials
            .get_or_try_init(|| async {
                match &self.provider {
                    Some(provider) => provider.credentials(&self.host, reference, challenges).await,
                    None => Ok(Credentials::None),
                }
            })
            .await
    }
}

/// A header that no log shows.
fn secret(value: &str) -> Result<HeaderValue> {
    let mut value = HeaderValue::from_str(value)
        .map_err(|_| Error::invalid("authorize: a secret with characters that cannot be sent"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// The header for name and password (RFC 7617).
fn basic(username: &str, password: &str) -> Result<HeaderValue> {
    secret(&format!("Basic {}", base64(format!("{username}:{password}").as_bytes())))
}

/// RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let byte = |at: usize| u32::from(group.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for at in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * at)) as usize & 63];
            text.push(if at <= group.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_rfc() {
        for (plain, coded) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
        assert_eq!(base64(&[0xff, 0xfe, 0xfb]), "//77");
    }
}
