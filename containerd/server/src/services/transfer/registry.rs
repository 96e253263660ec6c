//! How a client wants a registry to be spoken to.

use std::sync::Arc;

use containerd_api::{from_any, to_any, types::transfer as wire};
use containerd_images::{
    Reference,
    registry::{CredentialProvider, Credentials, Registry, RegistryConfig, Scheme},
};
use shim_protocol::{Error, ErrorKind, Id, Result};
use tokio::sync::Mutex;

use super::Service;
use crate::services::streaming::Stream;

impl Service {
    /// The registry that a client means, and the image there.
    pub(super) fn registry(
        &self,
        namespace: &Id,
        source: wire::OciRegistry,
    ) -> Result<(Registry, Reference)> {
        let reference = Reference::parse(&source.reference)?;
        let resolver = source.resolver.unwrap_or_default();
        let default_scheme = match resolver.default_scheme.as_str() {
            "" => None,
            "http" => Some(Scheme::Http),
            "https" => Some(Scheme::Https),
            other => return Err(Error::invalid(format!("no registry is spoken to by {other:?}"))),
        };
        let hosts_dirs = match resolver.host_dir.as_str() {
            "" => self.hosts_dirs.clone(),
            folder => vec![folder.into()],
        };
        let credentials: Option<Arc<dyn CredentialProvider>> = match resolver.auth_stream.as_str() {
            "" => None,
            id => {
                let stream = self.streams.take(namespace, id)?;
                Some(Arc::new(Asking { stream: Mutex::new(stream), image: source.reference }))
            }
        };
        if !resolver.logs_stream.is_empty() {
            // Requests are in the daemon's own log; the client gets the end.
            drop(self.streams.take(namespace, &resolver.logs_stream)?);
        }
        let config = RegistryConfig {
            hosts_dirs,
            default_scheme,
            headers: resolver.headers.into_iter().collect(),
            credentials,
            ..RegistryConfig::default()
        };
        Ok((Registry::new(config), reference))
    }
}

/// Asks the client who it is.
struct Asking {
    /// One question after the other.
    stream: Mutex<Stream>,
    image: String,
}

#[tonic::async_trait]
impl CredentialProvider for Asking {
    async fn credentials(
        &self,
        host: &str,
        _reference: &str,
        challenges: &[String],
    ) -> Result<Credentials> {
        let question = wire::AuthRequest {
            host: host.to_owned(),
            reference: self.image.clone(),
            wwwauthenticate: challenges.to_vec(),
        };
        let mut stream = self.stream.lock().await;
        stream.send(to_any(&question)).await?;
        let answer = stream.receive().await?;
        let answer =
            answer.ok_or_else(|| Error::new(ErrorKind::Cancelled, "the client answers no more"))?;
        let answer: wire::AuthResponse = from_any(&answer).map_err(|e| {
            Error::caused(ErrorKind::InvalidArgument, "answer about credentials", e)
        })?;
        Ok(credentials(answer))
    }
}

fn credentials(answer: wire::AuthResponse) -> Credentials {
    let wire::AuthResponse { auth_type, secret, username, .. } = answer;
    match wire::AuthType::try_from(auth_type) {
        Ok(wire::AuthType::Credentials) if !(username.is_empty() && secret.is_empty()) => {
            Credentials::Basic { username, password: secret }
        }
        // Clients without credentials answer with an empty one.
        Ok(wire::AuthType::Refresh) if !secret.is_empty() => Credentials::RefreshToken(secret),
        Ok(wire::AuthType::Header) if !secret.is_empty() => Credentials::Header(secret),
        _ => Credentials::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_sort_of_answer_is_understood() {
        let answer = |auth_type: wire::AuthType, username: &str, secret: &str| {
            credentials(wire::AuthResponse {
                auth_type: auth_type.into(),
                username: username.into(),
                secret: secret.into(),
                expire_at: None,
            })
        };
        let basic = Credentials::Basic { username: "a".into(), password: "b".into() };
        assert!(answer(wire::AuthType::Credentials, "a", "b") == basic);
        let refresh = Credentials::RefreshToken("b".into());
        assert!(answer(wire::AuthType::Refresh, "", "b") == refresh);
        assert!(answer(wire::AuthType::Header, "", "b") == Credentials::Header("b".into()));
        for (kind, secret) in [
            (wire::AuthType::None, "b"),
            (wire::AuthType::Refresh, ""),
            (wire::AuthType::Header, ""),
        ] {
            assert!(answer(kind, "", secret) == Credentials::None, "{kind:?}");
        }
    }
}
