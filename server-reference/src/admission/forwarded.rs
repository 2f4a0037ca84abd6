//! The requester behind trusted proxies: `X-Forwarded-For`, `-Proto` and `-Host` count if a trusted proxy sent them.

use std::{
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use http::{HeaderMap, HeaderName};

const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
pub(super) const HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// A network in CIDR notation, such as `10.0.0.0/8`, `fd00::/8` or one address.
///
/// ```
/// use datasole_server::Network;
/// let network: Network = "10.0.0.0/8".parse().unwrap();
/// assert!(network.contains("10.1.2.3".parse().unwrap()));
/// assert!("10.0.0.0/33".parse::<Network>().is_err());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// With zeros behind the prefix.
    bits: u128,
    /// The mask of the prefix; addresses of version 4 are mapped into version 6.
    mask: u128,
}

/// The reason why a text is no network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no network: give an address, or one with a prefix length such as 10.0.0.0/8")]
pub struct NetworkError(String);

impl Network {
    /// True if the network has this address.
    pub fn contains(&self, address: IpAddr) -> bool {
        bits(address) & self.mask == self.bits
    }
}

impl From<IpAddr> for Network {
    fn from(address: IpAddr) -> Self {
        Self { bits: bits(address), mask: u128::MAX }
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let error = || NetworkError(text.to_owned());
        let (address, length) = text.split_once('/').map_or((text, None), |(address, length)| (address, Some(length)));
        let address: IpAddr = address.parse().map_err(|_| error())?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let length: u32 = length.map_or(Ok(longest), str::parse).map_err(|_| error())?;
        let free = longest.checked_sub(length).ok_or_else(error)?;
        let mask = u128::MAX.checked_shl(free).unwrap_or(0);
        Ok(Self { bits: bits(address) & mask, mask })
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// The networks of proxies whose headers count.
#[derive(Clone, Debug, Default)]
pub(crate) struct Proxies(Vec<Network>);

/// The sender of a request, as far as it can be trusted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Requester {
    /// The client's own address; a proxy's if that is not trusted. Port 0 where a proxy named it.
    pub(crate) remote: Option<SocketAddr>,
    /// Whether a trusted proxy was reached by TLS.
    pub(crate) secure: Option<bool>,
    /// The host that a trusted proxy was asked for.
    pub(crate) host: Option<String>,
}

impl Proxies {
    pub(crate) fn trust(&mut self, network: Network) {
        self.0.push(network);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn has(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(address))
    }

    /// The requester behind the peer of the socket.
    pub(crate) fn requester(&self, peer: Option<SocketAddr>, headers: &HeaderMap) -> Requester {
        let Some(peer) = peer.filter(|peer| self.has(peer.ip())) else {
            return Requester { remote: peer, ..Requester::default() };
        };
        // Each proxy appends the peer that it saw: the last one that is no proxy of ours is the client.
        let mut remote = peer;
        for address in list(headers, &FOR).rev() {
            let Some(address) = address_of(address) else { break };
            remote = SocketAddr::new(address, 0);
            if !self.has(address) {
                break;
            }
        }
        Requester {
            remote: Some(remote),
            secure: list(headers, &PROTO).next().map(|scheme| matches!(scheme, "https" | "wss")),
            host: list(headers, &HOST).next().map(str::to_owned),
        }
    }
}

/// The parts of a header that is a list, on one line or several.
pub(super) fn list<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl DoubleEndedIterator<Item = &'a str> {
    let lines: Vec<&str> = headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).collect();
    lines.into_iter().flat_map(|line| line.split(',')).map(str::trim).filter(|part| !part.is_empty())
}

/// An address with or without a port.
fn address_of(text: &str) -> Option<IpAddr> {
    let address = text.parse().or_else(|_| text.parse::<SocketAddr>().map(|address| address.ip())).ok();
    address.or_else(|| text.strip_prefix('[')?.strip_suffix(']')?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_have_the_addresses_of_their_prefix() {
        for (network, address, inside) in [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("10.1.2.3", "10.1.2.3", true),
            ("10.1.2.3", "10.1.2.4", false),
            ("10.1.2.3/8", "10.9.9.9", true),
            ("0.0.0.0/0", "1.2.3.4", true),
            ("0.0.0.0/0", "2001:db8::1", false),
            ("0.0.0.0/0", "::ffff:1.2.3.4", true),
            ("::/0", "1.2.3.4", true),
            ("2001:db8::/32", "2001:db8:1::1", true),
            ("2001:db8::/32", "2001:db9::1", false),
            ("127.0.0.0/31", "127.0.0.1", true),
            ("127.0.0.0/31", "127.0.0.2", false),
        ] {
            let (parsed, address): (Network, IpAddr) = (network.parse().unwrap(), address.parse().unwrap());
            assert_eq!(parsed.contains(address), inside, "{address} in {network}");
        }
        for wrong in ["", "10.0.0.0/", "10.0.0.0/33", "10.0.0/8", "::/129", "app.example", "10.0.0.0/-1"] {
            assert_eq!(wrong.parse::<Network>(), Err(NetworkError(wrong.to_owned())));
        }
    }

    #[test]
    fn headers_count_only_from_trusted_proxies() {
        let mut proxies = Proxies::default();
        proxies.trust("127.0.0.0/8".parse().unwrap());
        proxies.trust("10.0.0.0/8".parse().unwrap());
        for (peer, forwarded, expected) in [
            ("203.0.113.9:5", &["1.2.3.4"][..], "203.0.113.9:5"),
            ("127.0.0.1:5", &[], "127.0.0.1:5"),
            ("127.0.0.1:5", &["203.0.113.7"], "203.0.113.7:0"),
            ("127.0.0.1:5", &["203.0.113.7:99"], "203.0.113.7:0"),
            ("127.0.0.1:5", &["[2001:db8::1]:99"], "[2001:db8::1]:0"),
            ("127.0.0.1:5", &["[2001:db8::1]"], "[2001:db8::1]:0"),
            // Whatever the client wrote itself stands in front.
            ("127.0.0.1:5", &["6.6.6.6, 203.0.113.7, 10.0.0.1"], "203.0.113.7:0"),
            ("127.0.0.1:5", &["6.6.6.6", "203.0.113.7"], "203.0.113.7:0"),
            ("127.0.0.1:5", &["6.6.6.6, unknown, 10.0.0.1"], "10.0.0.1:0"),
            ("127.0.0.1:5", &["nonsense"], "127.0.0.1:5"),
            ("[::ffff:127.0.0.1]:5", &["203.0.113.7"], "203.0.113.7:0"),
        ] {
            let mut headers = HeaderMap::new();
            for line in forwarded {
                headers.append(FOR, line.parse().unwrap());
            }
            let requester = proxies.requester(Some(peer.parse().unwrap()), &headers);
            assert_eq!(requester.remote, Some(expected.parse().unwrap()), "{peer} {forwarded:?}");
        }
        let headers = HeaderMap::from_iter([(PROTO, "https".parse().unwrap()), (HOST, "a.example".parse().unwrap())]);
        let trusted = proxies.requester(Some("10.0.0.1:1".parse().unwrap()), &headers);
        assert_eq!((trusted.secure, trusted.host.as_deref()), (Some(true), Some("a.example")));
        let stranger = proxies.requester(Some("203.0.113.9:5".parse().unwrap()), &headers);
        assert_eq!((stranger.secure, stranger.host), (None, None));
    }
}
