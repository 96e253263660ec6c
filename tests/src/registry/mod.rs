//! Debian's `docker-registry` on a free port of loopback, with a storage of its
//! own, and what a test puts before it to make things go wrong.

mod certificates;
mod faults;
mod proxy;

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, ChildStderr, Command, Stdio},
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread::{self, JoinHandle},
};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

pub use certificates::{Certificates, HOST};
pub use faults::{Fault, Rule};
pub use proxy::{Proxy, Seen};

use crate::DEADLINE;

const REGISTRY: &str = "/usr/bin/docker-registry";

/// Who may use a registry that asks for a password.
pub const USER: &str = "user";
/// The password of [`USER`].
pub const PASSWORD: &str = "secret";

/// `USER:` and the bcrypt hash of [`PASSWORD`]: the registry takes no other, and
/// four rounds are the fewest that there can be.
const PASSWORD_FILE: &str = "user:$2y$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW\n";

/// What is asked of a registry.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// It wants [`USER`] and [`PASSWORD`].
    pub password: bool,
    /// It speaks TLS only, with a certificate of [`Registry::certificates`].
    pub tls: bool,
    /// It wants a certificate of its clients, too.
    pub client_certificate: bool,
}

/// A running registry; dropping it ends it and removes what it has.
pub struct Registry {
    process: Child,
    address: String,
    options: Options,
    certificates: Option<Certificates>,
    log: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
    /// After the process, so that it is dropped after it.
    folder: TempDir,
}

impl Registry {
    /// Starts one without TLS and passwords.
    ///
    /// # Errors
    /// It is not installed, or does not become ready.
    pub fn start() -> Result<Self> {
        Self::start_with(Options::default())
    }

    /// Starts one, and returns when it listens.
    ///
    /// # Errors
    /// It is not installed, or does not become ready.
    pub fn start_with(options: Options) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("ct-registry-").tempdir_in("/tmp")?;
        let certificates = match options.tls {
            true => Some(Certificates::make(folder.path())?),
            false => None,
        };
        let config = folder.path().join("config.yml");
        fs::write(&config, configuration(folder.path(), options, certificates.as_ref())?)?;
        let mut process = Command::new(REGISTRY)
            .arg("serve")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context(REGISTRY)?;
        let stderr = process.stderr.take().context("standard error")?;
        let log = Arc::new(Mutex::new(String::new()));
        let (found, address) = mpsc::channel();
        let kept = Arc::clone(&log);
        let reader = thread::spawn(move || read_log(stderr, &kept, &found));
        let mut registry = Self {
            process,
            address: String::new(),
            options,
            certificates,
            log,
            reader: Some(reader),
            folder,
        };
        // The port is the kernel's choice, so no other test can be faster.
        match address.recv_timeout(DEADLINE) {
            Ok(address) => registry.address = address,
            Err(_) => bail!("the registry did not start:\n{}", registry.log()),
        }
        Ok(registry)
    }

    /// Its address and port, as it stands before the name of an image.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The full reference of an image in it.
    pub fn image(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }

    /// The same by [`HOST`].
    pub fn image_by_name(&self, name: &str) -> String {
        let (_, port) = self.address.rsplit_once(':').unwrap_or_default();
        format!("{HOST}:{port}/{name}")
    }

    /// What it was asked for.
    pub fn options(&self) -> Options {
        self.options
    }

    /// The certificates, if it speaks TLS.
    pub fn certificates(&self) -> Option<&Certificates> {
        self.certificates.as_ref()
    }

    /// Something to put before it. The registry must not speak TLS.
    ///
    /// # Errors
    /// There is no port to be had.
    pub async fn proxy(&self) -> Result<Proxy> {
        Proxy::start(&self.address).await
    }

    /// The folder with its blobs; of one whose hex digits are `abc...` the bytes
    /// are in `ab/abc.../data`.
    pub fn blobs(&self) -> PathBuf {
        self.folder.path().join("storage/docker/registry/v2/blobs/sha256")
    }

    /// The file in which it keeps the bytes of `digest`.
    pub fn blob(&self, digest: &str) -> PathBuf {
        let hex = digest.split_once(':').map_or(digest, |(_, hex)| hex);
        self.blobs().join(hex.get(..2).unwrap_or_default()).join(hex).join("data")
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let ended = self.process.kill().and_then(|()| self.process.wait());
        if let Err(error) = ended {
            eprintln!("cannot end the registry: {error}");
        }
        // Its standard error is closed now.
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

/// Reads the log to its end, and tells the address that stands in it.
fn read_log(stderr: ChildStderr, log: &Mutex<String>, found: &mpsc::Sender<String>) {
    for line in BufReader::new(stderr).lines() {
        let Ok(line) = line else { return };
        if let Some((_, rest)) = line.split_once("listening on ") {
            let address = rest.split(['"', ',', ' ']).next().unwrap_or_default();
            let _ = found.send(address.to_owned());
        }
        let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
        log.push_str(&line);
        log.push('\n');
    }
}

fn configuration(
    folder: &Path,
    options: Options,
    certificates: Option<&Certificates>,
) -> Result<String> {
    let mut text = format!(
        "version: 0.1\n\
         log: {{level: info, formatter: json, accesslog: {{disabled: true}}}}\n\
         storage:\n\
        \x20 filesystem: {{rootdirectory: {:?}}}\n\
        \x20 delete: {{enabled: true}}\n\
        \x20 maintenance: {{uploadpurging: {{enabled: false}}}}\n",
        folder.join("storage")
    );
    if options.password {
        let file = folder.join("htpasswd");
        fs::write(&file, PASSWORD_FILE)?;
        text += &format!("auth: {{htpasswd: {{realm: tests, path: {file:?}}}}}\n");
    }
    text += "http:\n  addr: \"127.0.0.1:0\"\n  secret: tests\n";
    if let Some(certificates) = certificates {
        let Certificates { ca, certificate, key, .. } = certificates;
        text += &format!("  tls:\n    certificate: {certificate:?}\n    key: {key:?}\n");
        if options.client_certificate {
            text += &format!("    clientcas: [{ca:?}]\n");
        }
    }
    Ok(text)
}
