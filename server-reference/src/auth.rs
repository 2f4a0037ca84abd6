//! Authentication: the request as the hook sees it, and the identity it answers with.

use std::{net::SocketAddr, time::Duration};

use futures_util::future::BoxFuture;
use http::{HeaderMap, Uri, header};
use serde_json::Value;

/// The request that the hook decides on. When a token is renewed on an open connection, only `token` is there.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct AuthRequest {
    /// The token: of an AUTH frame, else of `?token=`, else of an `Authorization: Bearer` header.
    pub token: Option<String>,
    /// The upgrade request's URI.
    pub uri: Uri,
    /// The upgrade request's headers.
    pub headers: HeaderMap,
    /// The client's address: the peer of the socket or, behind a trusted proxy
    /// ([`Builder::trust_proxy`](crate::Builder::trust_proxy)), the one that the proxy names, with port 0.
    pub remote: Option<SocketAddr>,
}

impl AuthRequest {
    pub(crate) fn new(uri: Uri, headers: HeaderMap, remote: Option<SocketAddr>) -> Self {
        let bearer = || Some(headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")?.to_owned());
        let token = query(&uri, "token").or_else(bearer);
        Self { token, uri, headers, remote }
    }

    /// An AUTH frame on a connection that is open already: there is no request, only a token.
    pub(crate) fn renewal() -> Self {
        Self { token: None, uri: Uri::default(), headers: HeaderMap::new(), remote: None }
    }

    /// A parameter of the URI's query, percent-decoded.
    pub fn query(&self, name: &str) -> Option<String> {
        query(&self.uri, name)
    }
}

/// The user that a connection belongs to.
///
/// ```
/// use datasole_server::Identity;
/// let ann = Identity::user("ann").role("admin");
/// assert!(ann.has_role("admin"));
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Identity {
    /// The user's id; an anonymous user gets one of its own, unlike any other's.
    pub user_id: String,
    /// True if the hook authenticated the user.
    pub authenticated: bool,
    /// The application's roles.
    pub roles: Vec<String>,
    /// The application's data.
    pub metadata: Value,
    /// After this time the connection is closed with 4002, unless an AUTH frame renews it.
    pub expires_in: Option<Duration>,
}

impl Identity {
    /// An authenticated user.
    pub fn user(id: impl Into<String>) -> Self {
        Self { user_id: id.into(), authenticated: true, ..Self::default() }
    }

    /// An anonymous identity; the server fills in a fresh user id.
    pub fn anonymous() -> Self {
        Self::default()
    }

    /// Adds a role.
    #[must_use]
    pub fn role(mut self, role: impl Into<String>) -> Self {
        self.roles.push(role.into());
        self
    }

    /// Sets the application's data.
    #[must_use]
    pub fn metadata(mut self, metadata: Value) -> Self {
        self.metadata = metadata;
        self
    }

    /// Sets the time after which the identity must be renewed.
    #[must_use]
    pub fn expires_in(mut self, time: Duration) -> Self {
        self.expires_in = Some(time);
        self
    }

    /// True if the identity has a role.
    pub fn has_role(&self, role: &str) -> bool {
        self.roles.iter().any(|own| own == role)
    }
}

/// The reason why a hook gave no identity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AuthError {
    /// The credentials are missing or wrong: HTTP 401, or close code 4002.
    #[error("unauthorized: {0}")]
    Refused(String),
    /// The hook failed; nothing is known of the credentials: HTTP 500, or close code 1011.
    #[error("authentication failed: {0}")]
    Failed(String),
    /// The hook took longer than [`Limits::auth_timeout`](crate::Limits::auth_timeout): HTTP 408, or close code 4002.
    #[error("authentication timed out")]
    TimedOut,
}

impl AuthError {
    /// Refuses the credentials; the text goes to the server's log only.
    pub fn refused(why: impl Into<String>) -> Self {
        Self::Refused(why.into())
    }
}

pub(crate) type AuthHook = Box<dyn Fn(AuthRequest) -> BoxFuture<'static, Result<Identity, AuthError>> + Send + Sync>;

fn query(uri: &Uri, name: &str) -> Option<String> {
    uri.query()?.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (percent_decode(key) == name).then(|| percent_decode(value))
    })
}

/// `application/x-www-form-urlencoded`, as URL parsers write queries. Broken escapes stand for themselves.
fn percent_decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = |at: usize| bytes.get(at).and_then(|&byte| (byte as char).to_digit(16));
        match (bytes[at], hex(at + 1), hex(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                at += 3;
                continue;
            }
            (b'+', ..) => out.push(b' '),
            (byte, ..) => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_token() {
        let check = |uri: &str, header: Option<&str>, token: Option<&str>| {
            let mut headers = HeaderMap::new();
            if let Some(header) = header {
                headers.insert(header::AUTHORIZATION, header.parse().unwrap());
            }
            let request = AuthRequest::new(uri.parse().unwrap(), headers, None);
            assert_eq!(request.token.as_deref(), token, "{uri} {header:?}");
        };
        check("/__ds", None, None);
        check("/__ds?token=abc", None, Some("abc"));
        check("/__ds?a=b&token=a%20b%2Bc+d", None, Some("a b+c d"));
        check("/__ds?token=%", None, Some("%"));
        check("/__ds?token=%f", None, Some("%f"));
        check("/__ds?token=%ff", None, Some("\u{fffd}"));
        check("/__ds?token", None, Some(""));
        check("/__ds", Some("Bearer xyz"), Some("xyz"));
        check("/__ds", Some("Basic xyz"), None);
        check("/__ds?token=url", Some("Bearer header"), Some("url"));
    }
}
