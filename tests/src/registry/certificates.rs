//! A certificate authority of the test's own, and what it has signed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

/// A name of this machine that the certificates are good for; the programs of a
/// test know it after [`Sandbox::name_this_machine`](crate::Sandbox).
pub const HOST: &str = "registry.test";

/// Files in PEM format.
#[derive(Clone, Debug)]
pub struct Certificates {
    /// The authority, which no machine trusts by itself.
    pub ca: PathBuf,
    /// Of the server, for 127.0.0.1 and localhost.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Of a client.
    pub client_certificate: PathBuf,
    /// Its key.
    pub client_key: PathBuf,
}

impl Certificates {
    /// Makes all of them in `folder`.
    ///
    /// # Errors
    /// There is no `openssl`, or it fails.
    pub(crate) fn make(folder: &Path) -> Result<Self> {
        let made = Self {
            ca: folder.join("ca.crt"),
            certificate: folder.join("server.crt"),
            key: folder.join("server.key"),
            client_certificate: folder.join("client.crt"),
            client_key: folder.join("client.key"),
        };
        let ca_key = folder.join("ca.key");
        openssl(&[
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=tests",
            "-keyout",
            text(&ca_key)?,
            "-out",
            text(&made.ca)?,
        ])?;
        let sign = |name: &str, usage: &str, key: &Path, certificate: &Path| -> Result<()> {
            let extensions = folder.join(format!("{name}.ext"));
            fs::write(
                &extensions,
                format!(
                    "subjectAltName=IP:127.0.0.1,DNS:localhost,DNS:{HOST}\n\
                     basicConstraints=critical,CA:FALSE\nextendedKeyUsage={usage}\n"
                ),
            )?;
            let request = folder.join(format!("{name}.csr"));
            let subject = format!("/CN={name}");
            openssl(&[
                "req",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
                "-subj",
                &subject,
                "-keyout",
                text(key)?,
                "-out",
                text(&request)?,
            ])?;
            openssl(&[
                "x509",
                "-req",
                "-in",
                text(&request)?,
                "-CA",
                text(&made.ca)?,
                "-CAkey",
                text(&ca_key)?,
                "-CAcreateserial",
                "-days",
                "2",
                "-extfile",
                text(&extensions)?,
                "-out",
                text(certificate)?,
            ])
        };
        sign("server", "serverAuth", &made.key, &made.certificate)?;
        sign("client", "clientAuth", &made.client_key, &made.client_certificate)?;
        Ok(made)
    }
}

fn openssl(arguments: &[&str]) -> Result<()> {
    let output = Command::new("openssl").args(arguments).output().context("openssl")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "openssl {}: {said}", arguments.join(" "));
    Ok(())
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is no text")
}
