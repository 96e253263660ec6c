//! `hosts.toml`: which hosts stand in for one, and how each is reached
//! (containerd's docs/hosts.md).

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use serde::de::DeserializeOwned;
use shim_protocol::{Error, ErrorKind, Result};
use toml::de::{DeTable, DeValue};

use super::{Capabilities, Configured};
use crate::registry::{Scheme, Tls};

/// Largest file that is read, in bytes.
const FILE_MAX_BYTES: usize = 1 << 20;

/// What a `hosts.toml` in `folder` says: the mirrors in the order of the file,
/// and last the host itself.
///
/// # Errors
/// `FailedPrecondition` when it says something that cannot be.
pub(in crate::registry) fn parse(text: &str, folder: &Path) -> Result<Vec<Configured>> {
    let refuse = |why: String| Error::precondition(why);
    if text.len() > FILE_MAX_BYTES {
        return Err(refuse(format!("more than {FILE_MAX_BYTES} bytes")));
    }
    let document = DeTable::parse(text)
        .map_err(|error| Error::caused(ErrorKind::FailedPrecondition, "not TOML", error))?;
    let root = document.get_ref();
    let mut hosts = Vec::new();
    if let Some(mirrors) = root.get("host") {
        let DeValue::Table(mirrors) = mirrors.get_ref() else {
            return Err(refuse("host: not a table".to_owned()));
        };
        // The table forgets the order; the keys know where they stood.
        let mut ordered: Vec<_> = mirrors.iter().collect();
        ordered.sort_by_key(|(name, _)| name.span().start);
        for (name, table) in ordered {
            let name = name.get_ref();
            let DeValue::Table(table) = table.get_ref() else {
                return Err(refuse(format!("host {name:?}: not a table")));
            };
            hosts.push(
                host(name, table, folder).map_err(|error| {
                    Error::caused(error.kind(), format!("host {name:?}"), error)
                })?,
            );
        }
    }
    let server: Option<String> = value(root, "server")?;
    hosts.push(host(server.as_deref().unwrap_or_default(), root, folder)?);
    Ok(hosts)
}

/// One host: a table of its own, or the root of the file.
fn host(address: &str, table: &DeTable<'_>, folder: &Path) -> Result<Configured> {
    let mut host = Configured::default();
    let override_path = value(table, "override_path")?.unwrap_or(false);
    if !address.is_empty() {
        parse_address(address, override_path, &mut host)?;
    }
    let skip_verify: Option<bool> = value(table, "skip_verify")?;
    let ca: Option<OneOrMany> = value(table, "ca")?;
    let client: Option<Clients> = value(table, "client")?;
    if skip_verify.is_some() || ca.is_some() || client.is_some() {
        host.tls = Some(Tls {
            skip_verify: skip_verify.unwrap_or(false),
            ca: ca
                .map(OneOrMany::into_vec)
                .unwrap_or_default()
                .iter()
                .map(|f| folder.join(f))
                .collect(),
            client: client.map(|client| client.pairs(folder)).transpose()?.unwrap_or_default(),
        });
    }
    let capabilities: Option<Vec<String>> = value(table, "capabilities")?;
    if let Some(names) = capabilities.filter(|names| !names.is_empty()) {
        host.capabilities = Capabilities::parse(&names)?;
    }
    if let Some(headers) = table.get("header") {
        let DeValue::Table(headers) = headers.get_ref() else {
            return Err(Error::precondition("header: not a table"));
        };
        for name in headers.keys() {
            let name = name.get_ref().as_ref();
            let values: Option<OneOrMany> = value(headers, name)?;
            let values = values.map(OneOrMany::into_vec).unwrap_or_default();
            host.headers.extend(values.into_iter().map(|value| (name.to_owned(), value)));
        }
    }
    let timeout: Option<String> = value(table, "dial_timeout")?;
    if let Some(timeout) = timeout {
        let Some(duration) = parse_duration(&timeout) else {
            return Err(Error::precondition(format!("dial_timeout: bad duration {timeout:?}")));
        };
        host.dial_timeout = Some(duration);
    }
    Ok(host)
}

/// Reads the value of a key, if it is there.
fn value<T: DeserializeOwned>(table: &DeTable<'_>, key: &str) -> Result<Option<T>> {
    let Some(value) = table.get(key) else { return Ok(None) };
    let deserializer = toml::de::ValueDeserializer::from(value.clone());
    T::deserialize(deserializer).map(Some).map_err(|error| {
        Error::caused(ErrorKind::FailedPrecondition, format!("bad value of {key:?}"), error)
    })
}

#[derive(serde::Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    fn into_vec(self) -> Vec<String> {
        match self {
            Self::One(one) => vec![one],
            Self::Many(many) => many,
        }
    }
}

/// `"file"`, `["file", …]` or `[["certificate", "key"], …]`.
#[derive(serde::Deserialize)]
#[serde(untagged)]
enum Clients {
    One(String),
    Many(Vec<OneOrMany>),
}

impl Clients {
    fn pairs(self, folder: &Path) -> Result<Vec<(PathBuf, Option<PathBuf>)>> {
        let many = match self {
            Self::One(one) => vec![OneOrMany::One(one)],
            Self::Many(many) => many,
        };
        many.into_iter()
            .map(|client| match client.into_vec().as_slice() {
                [certificate] => Ok((folder.join(certificate), None)),
                [certificate, key] => Ok((folder.join(certificate), Some(folder.join(key)))),
                _ => Err(Error::precondition("client: a pair has a certificate and a key")),
            })
            .collect()
    }
}

/// Reads `host`, `host:port`, `http://host` or `https://host/path`. The path of
/// the API follows, unless it is there or the given one is all.
fn parse_address(address: &str, override_path: bool, host: &mut Configured) -> Result<()> {
    let refuse = || Error::precondition(format!("bad address {address:?}"));
    let full = match address.split_once("://") {
        Some(("http" | "https", _)) => address.to_owned(),
        Some(_) => return Err(refuse()),
        None => format!("https://{address}"),
    };
    let url = reqwest::Url::parse(&full).map_err(|_| refuse())?;
    let named = !url.username().is_empty() || url.password().is_some();
    if named || url.query().is_some() || url.fragment().is_some() {
        return Err(refuse());
    }
    host.scheme = Some(if url.scheme() == "http" { Scheme::Http } else { Scheme::Https });
    if url.host_str().is_none_or(str::is_empty) {
        return Err(refuse());
    }
    // As written: reading it drops a port that the scheme says as well, and it
    // counts here whether somebody wrote it.
    let authority = full.split_once("://").map_or("", |(_, rest)| rest);
    let authority = authority.split('/').next().unwrap_or_default();
    authority.clone_into(&mut host.host);
    let path = url.path().trim_end_matches('/');
    host.path = match override_path {
        true => path.to_owned(),
        false if path.ends_with("/v2") => path.to_owned(),
        false => format!("{path}/v2"),
    };
    Ok(())
}

/// Reads a duration as Go writes it: `1m30s`, `500ms`, `1.5h`.
fn parse_duration(text: &str) -> Option<Duration> {
    const UNITS: [(&str, f64); 7] = [
        ("ns", 1e-9),
        ("us", 1e-6),
        ("µs", 1e-6),
        ("ms", 1e-3),
        ("s", 1.0),
        ("m", 60.0),
        ("h", 3600.0),
    ];
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..end].parse().ok()?;
        rest = &rest[end..];
        let unit_end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let (_, unit) = UNITS.iter().find(|(name, _)| *name == &rest[..unit_end])?;
        seconds += number * unit;
        rest = &rest[unit_end..];
    }
    if text.is_empty() { None } else { Duration::try_from_secs_f64(seconds).ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<Configured> {
        parse(text, Path::new("/etc/certs.d/h.io")).unwrap()
    }

    #[test]
    fn mirrors_keep_their_order_and_the_server_is_last() {
        let hosts = read(
            r#"
            server = "https://h.io"
            [host."http://z:5000"]
            capabilities = ["pull", "Resolve"]
            [host."https://m.io/v2/proxy"]
            override_path = true
            [host."https://m.io/v2/proxy".header]
            x-a = "1"
            x-b = ["2", "3"]
            [host."a.io/sub/"]
            dial_timeout = "1m1.5s"
            "#,
        );
        let names: Vec<(&str, &str)> =
            hosts.iter().map(|h| (h.host.as_str(), h.path.as_str())).collect();
        assert_eq!(
            names,
            [("z:5000", "/v2"), ("m.io", "/v2/proxy"), ("a.io", "/sub/v2"), ("h.io", "/v2")]
        );
        assert_eq!(hosts[0].scheme, Some(Scheme::Http));
        let all = Capabilities::default();
        let some = Capabilities { push: false, referrers: false, ..all };
        assert_eq!((hosts[0].capabilities, hosts[1].capabilities), (some, all));
        let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(hosts[1].headers, [header("x-a", "1"), header("x-b", "2"), header("x-b", "3")]);
        assert_eq!(hosts[2].dial_timeout, Some(Duration::from_millis(61_500)));
        assert_eq!(hosts[3].tls, None);
    }

    #[test]
    fn files_stand_beside_the_file() {
        let hosts = read(
            r#"
            ca = "ca.crt"
            client = [["c.cert", "/k.key"], ["both.pem"], "one.pem"]
            [host."a"]
            ca = ["1", "/2"]
            client = "c"
            skip_verify = false
            "#,
        );
        let folder = Path::new("/etc/certs.d/h.io");
        let mirror = hosts[0].tls.as_ref().unwrap();
        assert_eq!(mirror.ca, [folder.join("1"), PathBuf::from("/2")]);
        assert_eq!(mirror.client, [(folder.join("c"), None)]);
        let server = hosts[1].tls.as_ref().unwrap();
        assert_eq!(server.ca, [folder.join("ca.crt")]);
        let pairs = [
            (folder.join("c.cert"), Some(PathBuf::from("/k.key"))),
            (folder.join("both.pem"), None),
            (folder.join("one.pem"), None),
        ];
        assert_eq!(server.client, pairs);
        assert!(hosts[1].host.is_empty());
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for text in [
            "server = 1",
            "server = \"ftp://a\"",
            "server = \"https://\"",
            "server = \"https://u:p@a\"",
            "server = \"https://a?b\"",
            "server",
            "host = 1",
            "host.a = 1",
            "capabilities = [\"fly\"]",
            "capabilities = \"pull\"",
            "ca = 1",
            "ca = [1]",
            "client = [[\"a\",\"b\",\"c\"]]",
            "client = [[]]",
            "skip_verify = \"yes\"",
            "header = 1",
            "[header]\na = 1",
            "dial_timeout = 3",
            "dial_timeout = \"3\"",
            "dial_timeout = \"-3s\"",
            "dial_timeout = \"1e400s\"",
            "[host.\"a\"]\n[host.\"a\"]",
        ] {
            let error = parse(text, Path::new("/")).expect_err(text);
            assert_eq!(error.kind(), ErrorKind::FailedPrecondition, "{text}");
        }
    }
}
