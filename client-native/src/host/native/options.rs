//! [`Options`] of the opening handshake, checked when connecting.

use std::fmt;

use datasole_core::Limits;
use http::{HeaderMap, HeaderName, HeaderValue, Uri, header};

use super::{proxy::Proxying, socket::Dialer};
use crate::error::ConnectError;

/// Headers of the WebSocket handshake, which are not the program's to set.
const RESERVED: [HeaderName; 6] = [
    header::CONNECTION,
    header::UPGRADE,
    header::SEC_WEBSOCKET_KEY,
    header::SEC_WEBSOCKET_VERSION,
    header::SEC_WEBSOCKET_PROTOCOL,
    header::SEC_WEBSOCKET_EXTENSIONS,
];

/// Headers, proxy and trust.
#[derive(Clone)]
pub(crate) struct Options {
    /// Or the name of one that cannot be sent.
    headers: Result<HeaderMap, String>,
    pub(crate) proxying: Proxying,
    #[cfg(feature = "__tls")]
    pub(crate) trust: super::tls::Trust,
}

impl Options {
    pub(crate) fn new() -> Self {
        Self {
            headers: Ok(HeaderMap::new()),
            proxying: Proxying::default(),
            #[cfg(feature = "__tls")]
            trust: super::tls::Trust::default(),
        }
    }

    pub(crate) fn header(&mut self, name: &str, value: &str) {
        if let Ok(headers) = &mut self.headers {
            match (name.parse::<HeaderName>(), value.parse::<HeaderValue>()) {
                (Ok(name), Ok(mut value)) if !RESERVED.contains(&name) => {
                    value.set_sensitive(true);
                    headers.append(name, value);
                }
                _ => self.headers = Err(name.into()),
            }
        }
    }

    /// The dialer of sockets to these endpoints.
    pub(crate) fn dialer(self, limits: Limits, endpoints: &[String]) -> Result<Dialer, ConnectError> {
        for endpoint in endpoints {
            let uri: Uri = endpoint.parse().map_err(|_| ConnectError::Url)?;
            let secure = uri.scheme_str() == Some("wss");
            if cfg!(not(feature = "__tls")) && secure {
                return Err(ConnectError::Tls("not compiled in".into()));
            }
            let (host, port) = (uri.host().unwrap_or_default(), uri.port_u16().unwrap_or_default());
            let variable = |name: &str| std::env::var(name).ok();
            self.proxying.choose(secure, host, port, variable).map_err(ConnectError::Proxy)?;
        }
        Ok(Dialer {
            headers: self.headers.map_err(ConnectError::Header)?,
            limits,
            proxying: self.proxying,
            #[cfg(feature = "__tls")]
            trust: self.trust,
        })
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options").field("headers", &self.headers).finish_non_exhaustive()
    }
}
