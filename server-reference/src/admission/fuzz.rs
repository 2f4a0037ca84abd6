//! Body of the fuzz target `header`: no request passes for another's.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use http::{HeaderMap, HeaderName, HeaderValue, Uri, header};

use super::{Hosts, Network, Origin, Origins, Proxies, forwarded};
use crate::auth::AuthRequest;

const PROXY: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
const STRANGER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

/// A target and, line by line, the headers of a request: who has sent it, whom it names and which page it comes from. A
/// stranger's word on addresses counts nothing; only pages of a host that the request names are of the same origin; only
/// names of this machine are let in on loopback. The texts are read as networks and origins, too.
///
/// # Panics
///
/// Panics if a promise is broken.
pub fn header(data: &[u8]) {
    let mut lines = data.split(|&byte| byte == b'\n');
    let target = lines.next().unwrap_or_default();
    let headers: HeaderMap = lines.filter_map(line).collect();
    for text in headers.values().filter_map(|value| value.to_str().ok()) {
        config(text);
    }

    let mut proxies = Proxies::default();
    proxies.trust(Network::from(PROXY));
    let peer = SocketAddr::new(STRANGER, 1);
    let requester = proxies.requester(Some(peer), &headers);
    assert!(requester.remote == Some(peer) && requester.host.is_none(), "a stranger was believed");
    let requester = proxies.requester(Some(SocketAddr::new(PROXY, 1)), &headers);
    let alone = !headers.contains_key("x-forwarded-for");
    assert!(!alone || requester.remote == Some(SocketAddr::new(PROXY, 1)), "an address from nowhere");

    if let (Ok(()), Some(origin)) = (Origins::default().admit(&headers, &requester), headers.get(header::ORIGIN)) {
        let origin = origin.as_bytes().to_ascii_lowercase();
        let names = [header::HOST, forwarded::HOST];
        let names = names.iter().flat_map(|name| headers.get_all(name));
        let own = names.flat_map(|value| value.as_bytes().split(|&byte| byte == b',')).any(|host| {
            let host = host.trim_ascii().to_ascii_lowercase();
            let host = host.strip_suffix(b":443").or_else(|| host.strip_suffix(b":80")).unwrap_or(&host);
            origin.strip_prefix(b"http").is_some_and(|rest| rest.windows(host.len().max(1)).any(|part| part == host))
        });
        assert!(own, "a page of elsewhere is of the same origin");
    }
    if let (Ok(()), Some(host)) =
        (Hosts::default().admit(&headers, true, &Origins::default()), headers.get(header::HOST))
    {
        let host = host.as_bytes().to_ascii_lowercase();
        let local = |name: &[u8]| host.windows(name.len()).any(|part| part == name);
        let local = [&b"localhost"[..], b"127.", b"::", b"7f"].into_iter().any(local);
        assert!(local || host.is_empty() || host.starts_with(b":"), "a name of elsewhere on loopback");
    }
    if let Ok(uri) = Uri::try_from(target) {
        let request = AuthRequest::new(uri, headers, None);
        let longest = target.len().max(request.headers.values().map(HeaderValue::len).max().unwrap_or(0));
        assert!(request.token.is_none_or(|token| token.len() <= 3 * longest), "a token from nowhere");
    }
}

/// What is configured by texts reads them again as it writes them.
fn config(text: &str) {
    if let Ok(origin) = text.parse::<Origin>() {
        let mut origins = Origins::default();
        origins.allow(origin);
        let Ok(value) = text.parse::<HeaderValue>() else { return };
        let headers = HeaderMap::from_iter([(header::ORIGIN, value)]);
        assert!(origins.admit(&headers, &super::Requester::default()).is_ok(), "a listed origin is refused");
    }
    if let (Ok(network), Some((address, _))) = (text.parse::<Network>(), text.split_once('/')) {
        let address = address.parse::<IpAddr>();
        assert!(address.is_ok_and(|address| network.contains(address)), "a network without its address");
    }
}

fn line(line: &[u8]) -> Option<(HeaderName, HeaderValue)> {
    let colon = line.iter().position(|&byte| byte == b':')?;
    let (name, value) = line.split_at(colon);
    Some((HeaderName::from_bytes(name.trim_ascii()).ok()?, HeaderValue::from_bytes(value.get(1..)?.trim_ascii()).ok()?))
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    /// Runs the committed corpus, and beginnings of each file.
    #[test]
    fn header_corpus() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/header");
        let mut files = 0;
        for entry in fs::read_dir(&folder).unwrap() {
            let data = fs::read(entry.unwrap().path()).unwrap();
            for end in 0..=data.len() {
                super::header(&data[..end]);
            }
            files += 1;
        }
        assert!(files >= 12, "{} holds {files} files only", folder.display());
    }
}
