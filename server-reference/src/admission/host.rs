//! The check of the host that a request names. A page can let its own name point at this machine (DNS rebinding), and is
//! of the same origin then: a server for this machine alone answers only to this machine's names.

use std::net::IpAddr;

use http::{HeaderMap, StatusCode, header};

use super::{Kind, Origins, Rejection};

/// Where the socket of a request was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Listening {
    /// On an address that only this machine reaches.
    OnLoopback,
    /// Elsewhere, or not known.
    Elsewhere,
}

/// The names of this server; none are given by default.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hosts {
    listed: Vec<String>,
    any: bool,
}

impl Hosts {
    /// Allows a name like `app.example.org`, whatever its port, or any with `*`.
    pub(crate) fn allow(&mut self, host: &str) {
        match host {
            "*" => self.any = true,
            _ => self.listed.push(name(host).to_ascii_lowercase()),
        }
    }

    /// Checks a request. Where names are given, or on loopback (`bounded`), it must name one of them, this machine, or the
    /// host of an allowed origin. Programs that name no host are no pages.
    pub(super) fn admit(&self, headers: &HeaderMap, bounded: bool, origins: &Origins) -> Result<(), Rejection> {
        let mut named = headers.get_all(header::HOST).iter();
        let (host, second) = (named.next(), named.next());
        if second.is_some() {
            return Err(Rejection::new(StatusCode::BAD_REQUEST, Kind::Handshake, "more than one Host"));
        }
        if self.any || (self.listed.is_empty() && !bounded) || origins.admit_any() {
            return Ok(());
        }
        let Some(host) = host else { return Ok(()) };
        let host = String::from_utf8_lossy(host.as_bytes());
        let own = name(&host).to_ascii_lowercase();
        if own.is_empty() || is_loopback(&own) || self.listed.contains(&own) || origins.name(&own) {
            return Ok(());
        }
        let why = if bounded { "it listens on loopback only" } else { "it is not listed" };
        let text = format!(
            "host {host} is not this server's: {why}. Behind a proxy start it with --trust-proxy, or with --allow-host {own}"
        );
        Err(Rejection::new(StatusCode::FORBIDDEN, Kind::Host, text))
    }
}

/// A host without its port.
fn name(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !name.ends_with(':') => name,
        _ => host,
    }
}

/// True for the names by which only this machine is meant.
pub(super) fn is_loopback(name: &str) -> bool {
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    name == "localhost" || address.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admits(hosts: &Hosts, host: Option<&str>, bounded: bool) -> bool {
        let mut origins = Origins::default();
        origins.allow("https://origin.example:8443".parse().unwrap());
        let mut headers = HeaderMap::new();
        if let Some(host) = host {
            headers.insert(header::HOST, host.parse().unwrap());
        }
        hosts.admit(&headers, bounded, &origins).is_ok()
    }

    #[test]
    fn on_loopback_only_this_machines_names_count() {
        let none = Hosts::default();
        for own in ["localhost", "LOCALHOST:4000", "127.0.0.1", "127.0.0.1:4000", "127.9.9.9:1", "[::1]:4000", "[::1]"]
        {
            assert!(admits(&none, Some(own), true), "{own}");
        }
        assert!(admits(&none, None, true), "a program");
        assert!(admits(&none, Some("origin.example"), true), "an allowed origin's");
        for other in
            ["evil.example", "evil.example:4000", "localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.1"]
        {
            assert!(!admits(&none, Some(other), true), "{other}");
            assert!(admits(&none, Some(other), false), "{other} elsewhere");
        }
    }

    #[test]
    fn listed_names_bound_everywhere() {
        let mut hosts = Hosts::default();
        hosts.allow("App.example");
        for bounded in [true, false] {
            assert!(admits(&hosts, Some("app.example:8080"), bounded));
            assert!(admits(&hosts, Some("localhost"), bounded));
            assert!(!admits(&hosts, Some("evil.example"), bounded));
        }
        hosts.allow("*");
        assert!(admits(&hosts, Some("evil.example"), true));
    }

    #[test]
    fn two_hosts_are_no_request() {
        let mut headers = HeaderMap::new();
        headers.append(header::HOST, "localhost".parse().unwrap());
        headers.append(header::HOST, "evil.example".parse().unwrap());
        let mut hosts = Hosts::default();
        hosts.allow("*");
        let rejection = hosts.admit(&headers, false, &Origins::default()).unwrap_err();
        assert_eq!(rejection.status, StatusCode::BAD_REQUEST);
    }

    #[test]
    fn the_refusal_names_the_flags() {
        let headers = HeaderMap::from_iter([(header::HOST, "App.example:80".parse().unwrap())]);
        let rejection = Hosts::default().admit(&headers, true, &Origins::default()).unwrap_err();
        assert!(rejection.text.contains("host App.example:80 ") && rejection.text.contains("--allow-host app.example"));
        assert!(rejection.text.contains("--trust-proxy"), "{}", rejection.text);
    }
}
