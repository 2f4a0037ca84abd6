//! The check of web pages' origins. Browsers send `Origin` and let any page open a WebSocket to anywhere: without this
//! check, a page elsewhere could act with the cookies of its visitors.

use http::{HeaderMap, header};

/// Pages of the same origin, and those listed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Origins {
    listed: Vec<String>,
    any: bool,
}

impl Origins {
    /// Allows an origin like `https://app.example.org`, or any with `*`.
    pub(crate) fn allow(&mut self, origin: &str) {
        match origin {
            "*" => self.any = true,
            _ => self.listed.push(normal(origin)),
        }
    }

    /// Programs that are no browsers send no `Origin` and are allowed: this protects users, not the server.
    pub(crate) fn admit(&self, headers: &HeaderMap) -> bool {
        let Some(origin) = headers.get(header::ORIGIN) else { return true };
        let Ok(origin) = origin.to_str() else { return false };
        let origin = normal(origin);
        if self.any || self.listed.contains(&origin) {
            return true;
        }
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
        let Some((host, (scheme, authority))) = host.zip(origin.split_once("://")) else { return false };
        // A proxy may have ended TLS: the page's scheme decides which port is implied.
        normal(&format!("{scheme}://{host}")) == format!("{scheme}://{authority}")
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

    #[test]
    fn same_origin_and_listed_ones() {
        let check = |origin: Option<&str>, host: &str, admitted: bool| {
            let mut origins = Origins::default();
            origins.allow("https://listed.example/");
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, host.parse().unwrap());
            if let Some(origin) = origin {
                headers.insert(header::ORIGIN, origin.parse().unwrap());
            }
            assert_eq!(origins.admit(&headers), admitted, "{origin:?} to {host}");
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
        check(Some("null"), "app.example", false);
        check(Some("https://["), "[", true);
        check(Some("://"), "[", false);
    }

    #[test]
    fn a_star_admits_all() {
        let mut origins = Origins::default();
        origins.allow("*");
        let mut headers = HeaderMap::new();
        headers.insert(header::ORIGIN, "null".parse().unwrap());
        assert!(origins.admit(&headers));
    }
}
