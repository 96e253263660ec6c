//! Debian's registry, at a free port, with its storage in a temporary folder.

use std::{
    io::{BufRead, BufReader},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::JoinHandle,
};

/// Name and password that a guarded registry takes.
pub const USER: (&str, &str) = ("somebody", "secret");
/// The same as `htpasswd -B` writes it.
const HTPASSWD: &str = "somebody:$2b$04$xcfIP057FZYcsXMI9cBqCu/iryEGxD6xl9rXaAmz1LtrIbYLBTX8C\n";

/// A running registry; it ends when it is dropped.
pub struct Distribution {
    pub host: String,
    pub folder: tempfile::TempDir,
    child: Child,
    log: Option<JoinHandle<()>>,
}

impl Distribution {
    /// Without TLS, for anybody.
    pub fn plain() -> Self {
        Self::start("", |_| String::new())
    }

    /// For [`USER`] only.
    pub fn guarded() -> Self {
        Self::start("", |folder| {
            let file = folder.join("htpasswd");
            std::fs::write(&file, HTPASSWD).unwrap();
            format!("auth:\n  htpasswd:\n    realm: r\n    path: {}\n", file.display())
        })
    }

    /// With TLS, and a certificate of an authority that nobody knows; if
    /// `client` is set, only for those who have one, too.
    pub fn with_tls(client: bool) -> Self {
        let certificates = tempfile::tempdir().unwrap();
        let path = certificates.path().to_owned();
        make_certificates(&path);
        let mut tls = format!(
            "  tls:\n    certificate: {}\n    key: {}\n",
            path.join("server.crt").display(),
            path.join("server.key").display()
        );
        if client {
            tls += &format!("    clientcas:\n      - {}\n", path.join("ca.crt").display());
        }
        let made = Self::start(&tls, |_| String::new());
        // The registry has read them; the test still wants them.
        for name in ["ca.crt", "client.crt", "client.key"] {
            std::fs::copy(path.join(name), made.file(name)).unwrap();
        }
        made
    }

    /// A file beside the registry's own.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn start(http: &str, more: impl Fn(&Path) -> String) -> Self {
        // Somebody else may take the port between our look and its bind.
        for _ in 0..5 {
            let folder = tempfile::tempdir().unwrap();
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let host = format!("127.0.0.1:{port}");
            let config = folder.path().join("config.yml");
            let text = format!(
                "version: 0.1\nlog:\n  level: info\nstorage:\n  filesystem:\n    rootdirectory: {}\n\
                 http:\n  addr: {host}\n{http}{}",
                folder.path().join("data").display(),
                more(folder.path())
            );
            std::fs::write(&config, text).unwrap();
            let mut child = Command::new("docker-registry")
                .arg("serve")
                .arg(&config)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .expect("docker-registry of Debian");
            let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
            let ready = lines.any(|line| line.is_ok_and(|line| line.contains("listening on")));
            if ready {
                // Read on, or it would wait for us.
                let log = std::thread::spawn(move || lines.for_each(drop));
                return Self { host, folder, child, log: Some(log) };
            }
            child.wait().unwrap();
        }
        panic!("docker-registry does not begin to listen");
    }
}

impl Drop for Distribution {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(log) = self.log.take() {
            let _ = log.join();
        }
    }
}

/// Makes an authority, and certificates of a server and a client.
fn make_certificates(folder: &Path) {
    let file = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let curve = "ec_paramgen_curve:P-256";
    let key = ["-newkey", "ec", "-pkeyopt", curve, "-nodes", "-days", "2"];
    let openssl = |arguments: &[&str]| {
        let output = Command::new("openssl").args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    let (ca, ca_key) = (file("ca.crt"), file("ca.key"));
    let req = [&["req", "-x509"], &key[..]].concat();
    openssl(&[&req[..], &["-subj", "/CN=authority", "-keyout", &ca_key, "-out", &ca]].concat());
    for name in ["server", "client"] {
        let (own_key, certificate) = (file(&format!("{name}.key")), file(&format!("{name}.crt")));
        let subject = format!("/CN={name}");
        let own = [
            &req[..],
            &["-subj", &subject, "-keyout", &own_key, "-out", &certificate],
            &["-CA", &ca, "-CAkey", &ca_key],
            &["-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"],
            &["-addext", "basicConstraints=critical,CA:FALSE"],
        ]
        .concat();
        openssl(&own);
    }
}
