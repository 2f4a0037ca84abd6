//! The check of web pages' origins. Browsers send `Origin` and let any page open a WebSocket to anywhere: without this
//! check, a page elsewhere could act with the cookies of its visitors.

use std::str::FromStr;

use http::{HeaderMap, HeaderValue, StatusCode, header};

use super::{
    Kind, Rejection, Requester,
    forwarded::{self, list},
    host::is_loopback,
};

/// The origin of web pages: a scheme, a host and, if it is not the scheme's own, a port.
///
/// ```
/// use datasole_server::Origin;
/// assert!("https://app.example.org".parse::<Origin>().is_ok());
/// assert!("https://*.example.org".parse::<Origin>().is_err());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin(String);

/// The reason why a text is no origin: no page ever sends it, or every page may.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OriginError {
    /// The scheme is missing.
    #[error("{0:?} is no origin: it begins with a scheme, as in https://{0}")]
    NoScheme(String),
    /// A part of the host is left open.
    #[error("{0:?} matches nothing: name each origin, or allow every origin with *")]
    Wildcard(String),
    /// Every sandboxed page and every file has this origin.
    #[error("the origin null is that of every sandboxed page: it cannot be allowed by itself")]
    Null,
    /// The host is missing, or something follows it.
    #[error("{0:?} is no origin: it is a scheme, a host and perhaps a port, as in https://app.example.org")]
    NotAnOrigin(String),
}

impl FromStr for Origin {
    type Err = OriginError;

    fn from_str(text: &str) -> Result<Self, OriginError> {
        if text.eq_ignore_ascii_case("null") {
            return Err(OriginError::Null);
        }
        if text.contains('*') {
            return Err(OriginError::Wildcard(text.to_owned()));
        }
        let Some((scheme, host)) = text.split_once("://") else { return Err(OriginError::NoScheme(text.to_owned())) };
        let host = host.strip_suffix('/').unwrap_or(host);
        let is_scheme = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
        let is_host = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'/' | b'?' | b'#' | b'@' | b',');
        let fits = !scheme.is_empty() && !host.is_empty() && scheme.bytes().all(is_scheme) && host.bytes().all(is_host);
        if fits { Ok(Self(normal(text))) } else { Err(OriginError::NotAnOrigin(text.to_owned())) }
    }
}

/// Pages of the same origin, and those listed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Origins {
    listed: Vec<Origin>,
    any: bool,
    loopback: bool,
}

impl Origins {
    pub(crate) fn allow(&mut self, origin: Origin) {
        self.listed.push(origin);
    }

    pub(crate) fn allow_any(&mut self) {
        self.any = true;
    }

    /// Allows every page of this machine, whatever its port.
    pub(crate) fn allow_loopback(&mut self) {
        self.loopback = true;
    }

    /// True if every page may connect.
    pub(super) fn admit_any(&self) -> bool {
        self.any
    }

    /// True if a listed origin has this host.
    pub(super) fn name(&self, host: &str) -> bool {
        self.listed.iter().any(|origin| origin.0.split_once("://").is_some_and(|(_, own)| without_port(own) == host))
    }

    /// Checks an upgrade. Programs that are no browsers send no `Origin` and are allowed: this protects users, not the
    /// server.
    pub(crate) fn admit(&self, headers: &HeaderMap, requester: &Requester) -> Result<(), Rejection> {
        // No page can set this header on a WebSocket: it needs no trust.
        self.check(headers, requester, list(headers, &forwarded::HOST).next())
    }

    /// Checks a request that a page may read the answer to; the value of `Access-Control-Allow-Origin`, if there is to be one.
    pub(crate) fn admit_reader(
        &self,
        headers: &HeaderMap,
        requester: &Requester,
    ) -> Result<Option<HeaderValue>, Rejection> {
        self.check(headers, requester, None)?;
        let own = headers.get(header::ORIGIN);
        Ok(own.map(|own| if self.any { HeaderValue::from_static("*") } else { own.clone() }))
    }

    fn check(&self, headers: &HeaderMap, requester: &Requester, forwarded: Option<&str>) -> Result<(), Rejection> {
        let mut sent = headers.get_all(header::ORIGIN).iter();
        let Some(origin) = sent.next() else { return Ok(()) };
        if sent.next().is_some() {
            return Err(Rejection::new(StatusCode::BAD_REQUEST, Kind::Handshake, "more than one Origin"));
        }
        if self.any {
            return Ok(());
        }
        let shown = String::from_utf8_lossy(origin.as_bytes());
        let origin = normal(&shown);
        if self.listed.iter().any(|listed| listed.0 == origin) {
            return Ok(());
        }
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        if let Some((scheme @ ("http" | "https"), authority)) = origin.split_once("://") {
            if self.loopback && is_loopback(without_port(authority)) {
                return Ok(());
            }
            // A proxy may have ended TLS: the page's scheme decides which port is implied, unless the proxy tells.
            let same_scheme = requester.secure.is_none_or(|secure| secure == (scheme == "https"));
            let own = [requester.host.as_deref(), Some(host), forwarded].into_iter().flatten();
            // A slash is part of no host, and would be trimmed from an origin.
            let mut own = own.filter(|host| !host.contains('/'));
            if same_scheme && own.any(|host| normal(&format!("{scheme}://{host}")) == origin) {
                return Ok(());
            }
        }
        let text = match requester.secure {
            Some(true) if origin.starts_with("http:") => {
                format!("origin {shown} is not this server's, which is reached by https; or --allow-origin {shown}")
            }
            _ => format!(
                "origin {shown} is not this server's (Host is {host}). Pass Host on (nginx: proxy_set_header Host \
                 $http_host), or --allow-origin {shown}"
            ),
        };
        Err(Rejection::new(StatusCode::FORBIDDEN, Kind::Origin, text))
    }
}

fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => authority,
    }
}

/// Lower case, without a trailing slash and the scheme's own port.
fn normal(origin: &str) -> String {
    let origin = origin.trim_end_matches('/').to_ascii_lowercase();
    let implied = if origin.starts_with("https://") { ":443" } else { ":80" };
    origin.strip_suffix(implied).unwrap_or(&origin).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(origin: Option<&str>, host: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, host.parse().unwrap());
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, origin.parse().unwrap());
        }
        headers
    }

    #[test]
    fn same_origin_and_listed_ones() {
        let check = |origin: Option<&str>, host: &str, admitted: bool| {
            let mut origins = Origins::default();
            origins.allow("https://listed.example/".parse().unwrap());
            origins.allow("tauri://localhost".parse().unwrap());
            let verdict = origins.admit(&headers(origin, host), &Requester::default());
            assert_eq!(verdict.is_ok(), admitted, "{origin:?} to {host}");
        };
        check(None, "app.example", true);
        check(Some("https://app.example"), "app.example", true);
        check(Some("https://app.example"), "app.example:443", true);
        check(Some("http://app.example:80"), "APP.example", true);
        check(Some("http://localhost:4000"), "localhost:4000", true);
        check(Some("http://localhost:4001"), "localhost:4000", false);
        check(Some("https://evil.example"), "app.example", false);
        check(Some("https://app.example.evil"), "app.example", false);
        check(Some("https://listed.example"), "app.example", true);
        check(Some("http://listed.example"), "app.example", false);
        check(Some("tauri://localhost"), "app.example", true);
        check(Some("null"), "app.example", false);
        check(Some("https://["), "[", true);
        check(Some("://"), "[", false);
        check(Some("https://app.example"), "app.example/", false);
        // No page of the web: an extension or a file may call itself as it likes.
        check(Some("moz-extension://app.example"), "app.example", false);
        check(Some("file://app.example"), "app.example", false);
    }

    #[test]
    fn a_star_admits_all() {
        let mut origins = Origins::default();
        origins.allow_any();
        assert!(origins.admit(&headers(Some("null"), "app.example"), &Requester::default()).is_ok());
    }

    #[test]
    fn two_origins_are_no_request() {
        let mut two = headers(Some("https://app.example"), "app.example");
        two.append(header::ORIGIN, "https://app.example".parse().unwrap());
        let rejection = Origins::default().admit(&two, &Requester::default()).unwrap_err();
        assert_eq!(rejection.status, StatusCode::BAD_REQUEST);
    }

    #[test]
    fn what_no_page_sends_cannot_be_listed() {
        for (text, error) in [
            ("a.example", OriginError::NoScheme("a.example".into())),
            ("https://*.app.example", OriginError::Wildcard("https://*.app.example".into())),
            ("null", OriginError::Null),
            ("https://", OriginError::NotAnOrigin("https://".into())),
            ("https://a.example/page", OriginError::NotAnOrigin("https://a.example/page".into())),
            ("https://ann@a.example", OriginError::NotAnOrigin("https://ann@a.example".into())),
        ] {
            assert_eq!(text.parse::<Origin>(), Err(error));
        }
    }

    #[test]
    fn the_host_that_a_proxy_was_asked_for_is_the_pages_own() {
        let mut behind = headers(Some("https://app.example"), "127.0.0.1:4000");
        behind.insert(forwarded::HOST, "app.example, inner".parse().unwrap());
        let check = |secure| {
            let requester = Requester { secure, ..Requester::default() };
            Origins::default().admit(&behind, &requester).map_err(|rejection| rejection.text)
        };
        assert_eq!(check(None), Ok(()));
        assert_eq!(check(Some(true)), Ok(()));
        assert!(check(Some(false)).is_err(), "an https page is not that of an http server");
        let plain = headers(Some("http://app.example"), "app.example");
        let tls = Requester { secure: Some(true), ..Requester::default() };
        let why = Origins::default().admit(&plain, &tls).unwrap_err().text;
        assert!(why.contains("reached by https"), "{why}");
    }

    #[test]
    fn development_admits_every_page_of_this_machine() {
        let mut origins = Origins::default();
        origins.allow_loopback();
        for (origin, admitted) in [
            ("http://localhost:5173", true),
            ("https://127.0.0.1", true),
            ("http://[::1]:3000", true),
            ("http://localhost.evil.example", false),
            ("http://10.0.0.1:5173", false),
        ] {
            let verdict = origins.admit(&headers(Some(origin), "app.example"), &Requester::default());
            assert_eq!(verdict.is_ok(), admitted, "{origin}");
        }
    }

    #[test]
    fn the_refusal_says_what_to_do() {
        let refused = headers(Some("http://app:8080"), "127.0.0.1:4000");
        let text = Origins::default().admit(&refused, &Requester::default()).unwrap_err().text;
        assert_eq!(
            text,
            "origin http://app:8080 is not this server's (Host is 127.0.0.1:4000). Pass Host on (nginx: proxy_set_header \
             Host $http_host), or --allow-origin http://app:8080"
        );
    }
}
