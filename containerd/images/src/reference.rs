//! References: how images are named (distribution specification, "Pulling
//! manifests"; the forms are those of containerd and Docker).

use std::fmt;

use shim_protocol::{Error, Result};

use crate::Digest;

/// Longest path, as Docker has it.
const PATH_MAX_BYTES: usize = 255;
/// Longest host with its port: a DNS name has 253 bytes.
const HOST_MAX_BYTES: usize = 253 + 6;
/// Longest tag (distribution specification).
const TAG_MAX_BYTES: usize = 128;

/// Docker's registry, the host of names that have none.
const DOCKER_HOST: &str = "docker.io";
/// What Docker's registry was called once.
const DOCKER_HOST_OLD: &str = "index.docker.io";
/// Path of Docker's own images, which people leave away.
const DOCKER_PATH: &str = "library/";

/// A name such as `docker.io/library/redis:7` or
/// `localhost:5000/a/b@sha256:2c26b4…`: host, path, and behind them a tag, a
/// digest, or both. That all have the right form is checked when it is made.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    host: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// Reads a reference that begins with its host, as containerd names images.
    ///
    /// # Errors
    /// `InvalidArgument` when it has another form.
    pub fn parse(text: &str) -> Result<Self> {
        let (name, tag, digest) = split(text)?;
        let Some((host, path)) = name.split_once('/') else {
            return Err(refuse(text, "no path behind the host"));
        };
        Self::checked(text, host, path, tag, digest)
    }

    /// Reads a reference as people write them for Docker: without a host it is
    /// one of docker.io, and without a folder there it is in `library`.
    ///
    /// # Errors
    /// `InvalidArgument` when it has another form.
    pub fn parse_short(text: &str) -> Result<Self> {
        let (name, tag, digest) = split(text)?;
        if tag.is_none() && digest.is_none() && is_hash(name) {
            return Err(refuse(text, "the same as the id of an image"));
        }
        let (host, path) = match name.split_once('/') {
            Some((host, path)) if is_host(host) => (host, path),
            _ => (DOCKER_HOST, name),
        };
        let host = if host == DOCKER_HOST_OLD { DOCKER_HOST } else { host };
        if host == DOCKER_HOST && !path.contains('/') {
            return Self::checked(text, host, &format!("{DOCKER_PATH}{path}"), tag, digest);
        }
        Self::checked(text, host, path, tag, digest)
    }

    fn checked(
        text: &str,
        host: &str,
        path: &str,
        tag: Option<&str>,
        digest: Option<Digest>,
    ) -> Result<Self> {
        if !good_host(host) {
            return Err(refuse(text, "bad host"));
        }
        if !good_path(path) {
            return Err(refuse(text, "bad path"));
        }
        if tag.is_some_and(|tag| !good_tag(tag)) {
            return Err(refuse(text, "bad tag"));
        }
        let (host, path) = (host.to_owned(), path.to_owned());
        Ok(Self { host, path, tag: tag.map(str::to_owned), digest })
    }

    /// The host, with its port if one is named: `localhost:5000`.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The repository at the host: `library/redis`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Host and path: `docker.io/library/redis`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.host, self.path)
    }

    /// The tag, if one is named.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if one is named. It counts, and the tag beside it does not.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// The same repository with another tag, and no digest.
    ///
    /// # Errors
    /// `InvalidArgument` when a tag may not be so.
    pub fn with_tag(&self, tag: &str) -> Result<Self> {
        if !good_tag(tag) {
            return Err(refuse(tag, "bad tag"));
        }
        Ok(Self { tag: Some(tag.to_owned()), digest: None, ..self.clone() })
    }

    /// The same with another digest.
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self { digest: Some(digest), ..self.clone() }
    }

    /// The same, with the tag `latest` if neither tag nor digest is named.
    pub fn or_latest(mut self) -> Self {
        if self.tag.is_none() && self.digest.is_none() {
            self.tag = Some("latest".to_owned());
        }
        self
    }

    /// What a manifest's address ends with: the digest, or else the tag.
    ///
    /// # Errors
    /// `InvalidArgument` when neither is named.
    pub fn object(&self) -> Result<String> {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => Ok(digest.to_string()),
            (None, Some(tag)) => Ok(tag.clone()),
            (None, None) => Err(refuse(&self.to_string(), "neither tag nor digest")),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.path)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        match &self.digest {
            Some(digest) => write!(f, "@{digest}"),
            None => Ok(()),
        }
    }
}

/// Whether a registry at this machine is meant: `localhost` or an address of
/// the loopback interface, with or without port.
pub(crate) fn is_localhost(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.trim_start_matches('[').trim_end_matches(']');
    name == "localhost" || address.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
}

/// Shows as much of `text` as one wants to read in a message.
fn refuse(text: &str, why: &str) -> Error {
    const SHOWN_CHARS: usize = 300;
    let shown: String = text.chars().take(SHOWN_CHARS).collect();
    Error::invalid(format!("reference {shown:?}: {why}"))
}

/// Parts name, tag and digest. A colon before the last slash belongs to a port.
fn split(text: &str) -> Result<(&str, Option<&str>, Option<Digest>)> {
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => match Digest::parse(digest) {
            Ok(digest) => (rest, Some(digest)),
            Err(error) => {
                return Err(Error::caused(
                    error.kind(),
                    refuse(text, "bad digest").to_string(),
                    error,
                ));
            }
        },
        None => (text, None),
    };
    let path_at = rest.rfind('/').map_or(0, |slash| slash + 1);
    match rest[path_at..].find(':') {
        Some(colon) => {
            let (name, tag) = rest.split_at(path_at + colon);
            Ok((name, Some(&tag[1..]), digest))
        }
        None => Ok((rest, None, digest)),
    }
}

/// Docker's rule for what is a host and not the first folder of a path.
fn is_host(first: &str) -> bool {
    first.contains(['.', ':']) || first == "localhost" || first.chars().any(char::is_uppercase)
}

fn is_hash(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn good_host(host: &str) -> bool {
    if host.len() > HOST_MAX_BYTES {
        return false;
    }
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => {
            let Some((address, rest)) = rest.split_once(']') else { return false };
            let good = address.parse::<std::net::Ipv6Addr>().is_ok();
            return good && rest.strip_prefix(':').map_or(rest.is_empty(), good_port);
        }
        None => match host.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (host, None),
        },
    };
    let good_label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.split('.').all(good_label) && port.is_none_or(good_port)
}

fn good_port(port: &str) -> bool {
    // Parsing alone would let a sign pass.
    port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port != 0)
}

/// Folders of lower-case letters and digits, with `.`, `_`, `__` or any number
/// of `-` between them.
fn good_path(path: &str) -> bool {
    path.len() <= PATH_MAX_BYTES && path.split('/').all(good_folder)
}

fn good_folder(folder: &str) -> bool {
    let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = folder.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    if !word(*first) || !word(*last) {
        return false;
    }
    bytes.split(|b| word(*b)).all(|between| {
        matches!(between, b"" | b"." | b"_" | b"__") || between.iter().all(|b| *b == b'-')
    })
}

fn good_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let bytes = tag.as_bytes();
    bytes.len() <= TAG_MAX_BYTES
        && bytes.first().is_some_and(|b| word(*b))
        && bytes.iter().all(|b| word(*b) || matches!(b, b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use shim_protocol::ErrorKind;

    use super::*;

    const HEX: &str = "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae";

    #[test]
    fn parts_are_told_apart() {
        let digest = format!("sha256:{HEX}");
        type Parts<'a> = (&'a str, &'a str, Option<&'a str>, Option<&'a str>);
        let cases: [(String, Parts<'_>); 7] = [
            ("docker.io/library/redis:7".into(), ("docker.io", "library/redis", Some("7"), None)),
            ("localhost:5000/a".into(), ("localhost:5000", "a", None, None)),
            ("library/redis".into(), ("library", "redis", None, None)),
            ("[::1]:5000/a:b".into(), ("[::1]:5000", "a", Some("b"), None)),
            (format!("h.io/a/b@{digest}"), ("h.io", "a/b", None, Some(&digest))),
            (format!("h.io/a:1.0-x@{digest}"), ("h.io", "a", Some("1.0-x"), Some(&digest))),
            ("H-1.io/a--b/c__d/e.f_g:_".into(), ("H-1.io", "a--b/c__d/e.f_g", Some("_"), None)),
        ];
        for (text, (host, path, tag, digest)) in cases {
            let reference = Reference::parse(&text).unwrap();
            assert_eq!((reference.host(), reference.path(), reference.tag()), (host, path, tag));
            assert_eq!(reference.digest().map(Digest::to_string).as_deref(), digest);
            assert_eq!(reference.to_string(), text);
        }
    }

    #[test]
    fn short_names_are_completed() {
        for (short, full) in [
            ("redis", "docker.io/library/redis"),
            ("redis:7", "docker.io/library/redis:7"),
            ("a/b", "docker.io/a/b"),
            ("docker.io/redis", "docker.io/library/redis"),
            ("index.docker.io/redis", "docker.io/library/redis"),
            ("localhost/redis", "localhost/redis"),
            ("localhost:5000/redis", "localhost:5000/redis"),
            ("ghcr.io/a/b:c", "ghcr.io/a/b:c"),
            ("Host/redis", "Host/redis"),
        ] {
            let reference = Reference::parse_short(short).unwrap();
            assert_eq!(reference.to_string(), full);
            assert_eq!(Reference::parse(full).unwrap(), reference);
            assert_eq!(Reference::parse_short(full).unwrap(), reference);
        }
        assert!(Reference::parse_short(HEX).is_err());
    }

    #[test]
    fn other_forms_are_refused() {
        let long_path = format!("h.io/{}", "a".repeat(PATH_MAX_BYTES + 1));
        let long_tag = format!("h.io/a:{}", "a".repeat(TAG_MAX_BYTES + 1));
        let long_host = format!("{}/a", "a".repeat(HOST_MAX_BYTES + 1));
        let two_digests = format!("h.io/a@sha256:{HEX}@sha256:{HEX}");
        for text in [
            "",
            "/",
            "redis",
            "h.io/",
            "h.io/A",
            "h.io/a/",
            "h.io//a",
            "h.io/../a",
            "h.io/a___b",
            "h.io/a..b",
            "h.io/-a",
            "h.io/a:",
            "h.io/a:-b",
            "h.io/a:b/c",
            "h.io/a:b:c",
            "h.io/a b",
            "http://h.io/a",
            "-h.io/a",
            "h..io/a",
            "h.io:/a",
            "h.io:0/a",
            "h.io:+1/a",
            "h.io:70000/a",
            "[::1/a",
            "[::1]5/a",
            "u@h.io/a",
            "h.io/a@sha256:00",
            "h.io/a@",
            "h_o/a",
            "h.io/ä",
            "h.io/a\n",
            "h.io/a?b",
            "h.io/a#b",
            "h.io/a%2f",
            &long_path,
            &long_tag,
            &long_host,
            &two_digests,
        ] {
            let error = Reference::parse(text).expect_err(text);
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{text}");
        }
    }

    #[test]
    fn tag_and_digest_can_be_exchanged() {
        let reference = Reference::parse("h.io/a").unwrap();
        assert_eq!(reference.object().unwrap_err().kind(), ErrorKind::InvalidArgument);
        assert_eq!(reference.clone().or_latest().object().unwrap(), "latest");
        let tagged = reference.with_tag("b").unwrap();
        assert_eq!(tagged.clone().or_latest().object().unwrap(), "b");
        let digest = Digest::of(crate::Algorithm::Sha256, b"foo");
        let both = tagged.with_digest(digest.clone());
        assert_eq!(both.to_string(), format!("h.io/a:b@{digest}"));
        assert_eq!(both.object().unwrap(), digest.to_string());
        assert_eq!(both.with_tag("c").unwrap().to_string(), "h.io/a:c");
        assert!(both.with_tag("c/d").is_err());
    }

    #[test]
    fn hosts_of_this_machine_are_known() {
        for host in ["localhost", "localhost:5000", "127.0.0.1:1", "127.9.9.9", "[::1]", "[::1]:5"]
        {
            assert!(is_localhost(host), "{host}");
        }
        for host in ["localhost.io", "10.0.0.1", "docker.io:5000", "[::2]:5", "[fe80::1]"] {
            assert!(!is_localhost(host), "{host}");
        }
    }
}
