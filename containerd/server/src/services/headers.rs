//! What requests say beside their message.

use containerd_api::{LEASE_HEADER, NAMESPACE_HEADER};
use shim_protocol::{Error, Id, Result};
use tonic::{Request, metadata::MetadataMap, transport::server::UdsConnectInfo};

/// The namespace that a request is about.
///
/// # Errors
/// `FailedPrecondition` when there is none (containerd, `pkg/namespaces`);
/// `InvalidArgument` when it is malformed.
pub(super) fn namespace(metadata: &MetadataMap) -> Result<Id> {
    match text(metadata, NAMESPACE_HEADER)? {
        None | Some("") => Err(Error::precondition("namespace is required")),
        Some(name) => Id::new("namespace", name),
    }
}

/// The lease that holds what a request creates, if there is one.
///
/// # Errors
/// `InvalidArgument` when it is malformed.
pub(super) fn lease(metadata: &MetadataMap) -> Result<Option<&str>> {
    Ok(text(metadata, LEASE_HEADER)?.filter(|id| !id.is_empty()))
}

/// The process at the other end of the connection.
pub(super) fn peer<T>(request: &Request<T>) -> Option<i32> {
    request.extensions().get::<UdsConnectInfo>()?.peer_cred?.pid()
}

/// A header's value. The first one counts if it is there more than once.
///
/// # Errors
/// `InvalidArgument` when it is no text.
pub(super) fn text<'a>(metadata: &'a MetadataMap, key: &str) -> Result<Option<&'a str>> {
    let Some(value) = metadata.get(key) else { return Ok(None) };
    let text =
        value.to_str().map_err(|_| Error::invalid(format!("header {key:?} is not plain text")))?;
    Ok(Some(text))
}

#[cfg(test)]
mod tests {
    use shim_protocol::ErrorKind;

    use super::*;

    fn with(value: &'static str) -> MetadataMap {
        let mut metadata = MetadataMap::new();
        metadata.insert(NAMESPACE_HEADER, value.parse().unwrap());
        metadata
    }

    #[test]
    fn a_namespace_is_checked() {
        assert_eq!(namespace(&with("k8s.io")).unwrap().as_str(), "k8s.io");
        let error = namespace(&with("a/b")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    }

    #[test]
    fn a_missing_namespace_is_a_precondition() {
        for metadata in [MetadataMap::new(), with("")] {
            let error = namespace(&metadata).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
            assert_eq!(error.to_string(), "namespace is required");
        }
    }
}
