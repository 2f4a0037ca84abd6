//! Who may reach the endpoint: pages by their origin, requests by the host they name, addresses behind trusted proxies;
//! and the words for those that may not.

mod cuts;
mod forwarded;
#[cfg(any(test, feature = "arbitrary"))]
pub(crate) mod fuzz;
mod guesses;
mod host;
mod origin;
mod places;
mod rejection;

use std::sync::Arc;

use http::HeaderMap;

use self::{cuts::Cuts, guesses::Guesses};

pub use self::{
    forwarded::{Network, NetworkError},
    origin::{Origin, OriginError},
};
pub(crate) use self::{
    forwarded::{Proxies, Requester},
    host::{Hosts, Listening},
    origin::Origins,
    places::{Full, Places, Seat, Source, counted},
    rejection::{Kind, Rejection, Rejections},
};

/// The rules of one server, and what it has said of those it refused.
#[derive(Debug, Default)]
pub(crate) struct Admission {
    pub(crate) origins: Origins,
    pub(crate) hosts: Hosts,
    pub(crate) proxies: Proxies,
    pub(crate) places: Arc<Places>,
    pub(crate) guesses: Guesses,
    pub(crate) cuts: Cuts,
    pub(crate) rejections: Rejections,
}

impl Admission {
    /// Checks the host that a request names. Programs may name none.
    pub(crate) fn host(&self, headers: &HeaderMap, listening: Listening) -> Result<(), Rejection> {
        let bounded = listening == Listening::OnLoopback && self.proxies.is_empty();
        self.hosts.admit(headers, bounded, &self.origins)
    }
}
