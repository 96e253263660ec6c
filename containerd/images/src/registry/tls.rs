//! TLS: which hosts are believed, and with which certificate we show who we
//! are.

use std::{path::Path, sync::Arc};

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
};
use shim_protocol::{Context, Error, ErrorKind, Result};

use super::Tls;

/// Makes the settings of one host. Reads files.
///
/// # Errors
/// `FailedPrecondition` when a file is not what it must be.
pub(super) fn configure(tls: &Tls) -> Result<ClientConfig> {
    // Named here and not set for the whole process: that is for programs to do.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::caused(ErrorKind::Internal, "set up TLS", error))?;
    let builder = if tls.skip_verify {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyHost(provider.clone())))
    } else {
        builder.with_root_certificates(roots(&tls.ca)?)
    };
    // Go has several to choose from, by what the host asks for; one is what
    // people have.
    let Some((certificate, key)) = tls.client.first() else {
        return Ok(with_protocols(builder.with_no_client_auth()));
    };
    let chain = certificates(certificate)?;
    let key_file = key.as_ref().unwrap_or(certificate);
    let key = PrivateKeyDer::from_pem_slice(&read(key_file)?)
        .map_err(|error| bad_file("find a key in", key_file, error))?;
    builder
        .with_client_auth_cert(chain, key)
        .map(with_protocols)
        .map_err(|error| bad_file("use the certificate", certificate, error))
}

fn with_protocols(mut config: ClientConfig) -> ClientConfig {
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config
}

/// The authorities of the system, and those in `files`.
fn roots(files: &[std::path::PathBuf]) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    for error in found.errors {
        tracing::debug!(%error, "a certificate of the system cannot be read");
    }
    // Some of a system's certificates are always too old or odd to be used.
    roots.add_parsable_certificates(found.certs);
    for file in files {
        for certificate in certificates(file)? {
            roots.add(certificate).map_err(|error| bad_file("use the certificate", file, error))?;
        }
    }
    Ok(roots)
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let found = CertificateDer::pem_slice_iter(&read(file)?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| bad_file("read", file, error))?;
    if found.is_empty() {
        return Err(Error::precondition(format!("no certificate in {}", file.display())));
    }
    Ok(found)
}

fn read(file: &Path) -> Result<Vec<u8>> {
    std::fs::read(file).context_as(ErrorKind::FailedPrecondition, "read", file.display())
}

fn bad_file(
    action: &str,
    file: &Path,
    error: impl std::error::Error + Send + Sync + 'static,
) -> Error {
    Error::caused(ErrorKind::FailedPrecondition, format!("{action} {}", file.display()), error)
}

/// Takes any host for the one that is meant, as `skip_verify` asks for. That
/// the host has the key of the certificate it shows is checked all the same.
#[derive(Debug)]
struct AnyHost(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyHost {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
