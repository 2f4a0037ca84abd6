//! Who may reach the endpoint: pages by their origin, requests by the host they name, addresses behind trusted proxies;
//! and the words for those that may not.

mod forwarded;
mod host;
mod origin;
mod rejection;

use http::HeaderMap;

pub use self::{
    forwarded::{Network, NetworkError},
    origin::{Origin, OriginError},
};
pub(crate) use self::{
    forwarded::{Proxies, Requester},
    host::{Hosts, Listening},
    origin::Origins,
    rejection::{Kind, Rejection, Rejections},
};

/// The rules of one server, and what it has said of those it refused.
#[derive(Debug, Default)]
pub(crate) struct Admission {
    pub(crate) origins: Origins,
    pub(crate) hosts: Hosts,
    pub(crate) proxies: Proxies,
    pub(crate) rejections: Rejections,
}

impl Admission {
    /// Checks the host that a request names. Programs may name none.
    pub(crate) fn host(&self, headers: &HeaderMap, listening: Listening) -> Result<(), Rejection> {
        let bounded = listening == Listening::OnLoopback && self.proxies.is_empty();
        self.hosts.admit(headers, bounded, &self.origins)
    }
}
