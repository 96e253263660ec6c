//! Where the REST API is served.

use std::{net::IpAddr, path::PathBuf};

use shim_protocol::{Error, Result};

use crate::config::Rest;

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    /// A unix socket.
    Unix(PathBuf),
    /// A port of this host.
    Tcp { host: String, port: u16 },
}

impl Address {
    /// What the configuration says; none if the API is not to be served.
    ///
    /// # Errors
    /// `InvalidArgument` when it is no address, or one that other hosts can
    /// reach although that is not allowed.
    pub(crate) fn of(config: &Rest) -> Result<Option<Self>> {
        let text = config.address.as_str();
        if text.is_empty() {
            return Ok(None);
        }
        let invalid = |why: &str| {
            Error::invalid(format!("key address of io.containerd.legacy.v1.rest: {text:?} {why}"))
        };
        if let Some(path) = text.strip_prefix("unix://") {
            let path = PathBuf::from(path);
            return match path.is_absolute() {
                true => Ok(Some(Self::Unix(path))),
                false => Err(invalid("has no absolute path")),
            };
        }
        let form = "is neither host:port nor unix:///path";
        let (host, port) = text.rsplit_once(':').ok_or_else(|| invalid(form))?;
        let port = port.parse().map_err(|_| invalid(form))?;
        let host = match host {
            "" => "0.0.0.0",
            host => host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host),
        };
        if host.contains(['/', '[', ']']) {
            return Err(invalid(form));
        }
        if !config.allow_remote && !is_of_this_host(host) {
            return Err(invalid(
                "can be reached from other hosts, and whoever reaches it owns this one: that \
                 takes allow_remote = true",
            ));
        }
        Ok(Some(Self::Tcp { host: host.to_owned(), port }))
    }
}

/// A name other than the usual one may be anybody's.
fn is_of_this_host(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(address: &str, allow_remote: bool) -> Result<Option<Address>> {
        Address::of(&Rest { address: address.into(), allow_remote })
    }

    #[test]
    fn addresses_of_this_host() {
        assert_eq!(of("", false).unwrap(), None);
        assert_eq!(of("unix:///a/b", false).unwrap(), Some(Address::Unix("/a/b".into())));
        for host in ["127.0.0.1", "localhost", "127.1.2.3"] {
            let wanted = Address::Tcp { host: host.into(), port: 8888 };
            assert_eq!(of(&format!("{host}:8888"), false).unwrap(), Some(wanted));
        }
        let wanted = Address::Tcp { host: "::1".into(), port: 1 };
        assert_eq!(of("[::1]:1", false).unwrap(), Some(wanted));
    }

    #[test]
    fn others_take_a_word() {
        for address in ["0.0.0.0:1", ":1", "[::]:1", "192.0.2.1:1", "example.org:1"] {
            let error = of(address, false).unwrap_err().to_string();
            assert!(error.contains("allow_remote"), "{error}");
            of(address, true).unwrap().unwrap();
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for address in ["a", "unix://a", "localhost:", "localhost:70000", "http://localhost:1"] {
            of(address, true).unwrap_err();
        }
    }
}
