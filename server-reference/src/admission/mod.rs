//! Who may reach the endpoint: pages by their origin, requests by the host they name, addresses behind trusted proxies;
//! and the words for those that may not.

mod cuts;
mod forwarded;
#[cfg(any(test, feature = "arbitrary"))]
pub(crate) mod fuzz;
mod host;
mod origin;
mod pace;
mod places;
mod rejection;

use std::{num::NonZeroU32, sync::Arc};

use http::HeaderMap;

use self::{cuts::Cuts, pace::Pace};

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

/// Wrong tokens that one address may send in a row, and by the second.
const GUESSES: (f64, f64) = (10.0, 1.0);

/// The rules of one server, and what it has said of those it refused.
#[derive(Debug)]
pub(crate) struct Admission {
    pub(crate) origins: Origins,
    pub(crate) hosts: Hosts,
    pub(crate) proxies: Proxies,
    pub(crate) places: Arc<Places>,
    /// Bytes of answers to those who read without a connection.
    pub(crate) answers: Arc<Places>,
    /// Wrong tokens.
    pub(crate) guesses: Pace,
    /// Bytes of answers by the second, where their rate is bounded.
    pub(crate) reads: Option<Pace>,
    pub(crate) cuts: Cuts,
    pub(crate) rejections: Rejections,
}

impl Default for Admission {
    fn default() -> Self {
        Self {
            origins: Origins::default(),
            hosts: Hosts::default(),
            proxies: Proxies::default(),
            places: Arc::default(),
            answers: Arc::default(),
            guesses: Pace::new(GUESSES.0, GUESSES.1),
            reads: None,
            cuts: Cuts::default(),
            rejections: Rejections::default(),
        }
    }
}

impl Admission {
    /// Bounds the bytes that one address may read in a second.
    pub(crate) fn bound_reads(&mut self, rate: Option<NonZeroU32>) {
        self.reads = rate.map(|rate| f64::from(rate.get())).map(|rate| Pace::new(rate, rate));
    }

    /// Checks the host that a request names. Programs may name none.
    pub(crate) fn host(&self, headers: &HeaderMap, listening: Listening) -> Result<(), Rejection> {
        let bounded = listening == Listening::OnLoopback && self.proxies.is_empty();
        self.hosts.admit(headers, bounded, &self.origins)
    }
}
