//! Refuses what comes by way of a browser: any page can make one send requests
//! to this host.

use std::net::IpAddr;

use axum::{
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::failure::plain;

/// Which names of this host clients may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hosts {
    /// Those that only stand for itself. A page could have another one lead
    /// here, and would then be of the same origin as we are.
    Own,
    /// Any.
    Any,
}

pub(super) async fn guard(State(hosts): State<Hosts>, request: Request, next: Next) -> Response {
    match refuse(hosts, request.headers()) {
        Some(why) => plain(StatusCode::FORBIDDEN, why).into_response(),
        None => next.run(request).await,
    }
}

fn refuse(hosts: Hosts, headers: &HeaderMap) -> Option<&'static str> {
    if headers.contains_key(header::ORIGIN) || headers.contains_key("sec-fetch-site") {
        return Some("requests of browsers are refused");
    }
    let host = headers.get(header::HOST)?;
    let is_own = host.to_str().is_ok_and(is_own);
    (hosts == Hosts::Own && !is_own).then_some("requests for another host are refused")
}

/// The host of `host:port`, `[address]:port`, or either without a port.
fn is_own(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::HeaderName::from_static(name), value.parse().unwrap())])
    }

    #[test]
    fn browsers_are_refused() {
        for (name, value) in
            [("origin", "null"), ("origin", "http://localhost:8888"), ("sec-fetch-site", "none")]
        {
            assert!(refuse(Hosts::Any, &headers(name, value)).is_some(), "{name}: {value}");
        }
        assert_eq!(refuse(Hosts::Own, &HeaderMap::new()), None);
    }

    #[test]
    fn only_names_of_this_host_lead_here() {
        for own in ["localhost", "LOCALHOST:8888", "127.0.0.1:1", "127.1.2.3", "[::1]:2", "[::1]"] {
            assert_eq!(refuse(Hosts::Own, &headers("host", own)), None, "{own}");
        }
        for other in ["example.org", "example.org:8888", "192.0.2.1", "[2001:db8::1]:1", ""] {
            assert!(refuse(Hosts::Own, &headers("host", other)).is_some(), "{other}");
            assert_eq!(refuse(Hosts::Any, &headers("host", other)), None);
        }
    }
}
