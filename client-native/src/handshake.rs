//! Options of the opening handshake: headers, proxy and trust. A page has none of them: its browser decides.

use crate::builder::Builder;

impl Builder {
    /// Adds a header to the opening request, such as `Authorization`. Several of one name are all sent.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.host.header(name, value);
        self
    }

    /// Sets the HTTP proxy, `http://[USER:PASSWORD@]HOST[:PORT]`: the connection goes through a tunnel made by `CONNECT`.
    /// Without it the variables `HTTPS_PROXY` (for `wss`), `HTTP_PROXY` (for `ws`), `ALL_PROXY` and `NO_PROXY` hold, except
    /// for servers on this machine.
    pub fn proxy(mut self, url: &str) -> Self {
        self.host.proxying = crate::host::Proxying::Through(url.into());
        self
    }

    /// Connects without a proxy, whatever the environment says.
    pub fn no_proxy(mut self) -> Self {
        self.host.proxying = crate::host::Proxying::Direct;
        self
    }

    /// Sets trust and client certificates for `wss`, instead of the root certificates this crate was built with.
    #[cfg(feature = "__tls")]
    pub fn tls_config(mut self, config: impl Into<std::sync::Arc<rustls::ClientConfig>>) -> Self {
        self.host.trust = config.into().into();
        self
    }
}
