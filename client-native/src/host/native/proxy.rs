//! The way to a server through an HTTP proxy: which proxy, if any, and the tunnel that CONNECT makes.

use std::{fmt, net::IpAddr};

use data_encoding::BASE64;
use http::uri::Authority;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};

/// The longest answer to CONNECT; bytes.
const MAX_ANSWER: usize = 8 * 1024;

/// Whose choice the proxy is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Proxying {
    /// That of the variables `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`, in either case.
    #[default]
    Environment,
    /// The program's: none.
    Direct,
    /// The program's: this one.
    Through(String),
}

impl Proxying {
    /// The proxy for a server; the error names what cannot be used.
    pub(crate) fn choose(
        &self,
        secure: bool,
        host: &str,
        port: u16,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Proxy>, String> {
        let (name, url) = match self {
            Self::Direct => return Ok(None),
            Self::Through(url) => ("the proxy", url.clone()),
            Self::Environment => {
                // CGI programs are handed the header `Proxy` of strangers as HTTP_PROXY.
                let cgi = variable("REQUEST_METHOD").is_some();
                let names: &[&str] = match (secure, cgi) {
                    (true, _) => &["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"],
                    (false, false) => &["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"],
                    (false, true) => &["http_proxy", "all_proxy", "ALL_PROXY"],
                };
                let set = |name| variable(name).filter(|value| !value.is_empty()).map(|value| (name, value));
                let Some((name, url)) = names.iter().copied().find_map(set) else { return Ok(None) };
                let except = variable("no_proxy").or_else(|| variable("NO_PROXY")).unwrap_or_default();
                if is_local(host) || except.split(',').any(|entry| covers(entry.trim(), host, port)) {
                    return Ok(None);
                }
                (name, url)
            }
        };
        match Proxy::parse(&url) {
            Some(proxy) => Ok(Some(proxy)),
            None => Err(format!("{name} must be http://[USER:PASSWORD@]HOST[:PORT]")),
        }
    }
}

/// An HTTP proxy.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Proxy {
    /// Host and port.
    address: String,
    /// The value of `Proxy-Authorization`.
    credentials: Option<String>,
}

impl Proxy {
    fn parse(url: &str) -> Option<Self> {
        let rest = match url.split_once("://") {
            Some((scheme, rest)) => scheme.eq_ignore_ascii_case("http").then_some(rest)?,
            None => url,
        };
        let rest = rest.split(['/', '?', '#']).next()?;
        let (user, address) = rest.rsplit_once('@').map_or((None, rest), |(user, address)| (Some(user), address));
        let authority: Authority = address.parse().ok()?;
        if authority.host().is_empty() {
            return None;
        }
        let address = format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(80));
        let credentials = user.map(|user| format!("Basic {}", BASE64.encode(&percent_decoded(user))));
        Some(Self { address, credentials })
    }

    /// Connects to `target`, a host and port.
    pub(crate) async fn connect(&self, target: &str) -> Result<TcpStream, String> {
        let mut stream =
            TcpStream::connect(&self.address).await.map_err(|error| format!("cannot reach the proxy: {error}"))?;
        self.tunnel(&mut stream, target).await?;
        Ok(stream)
    }

    async fn tunnel<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: &mut S, target: &str) -> Result<(), String> {
        let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n");
        if let Some(credentials) = &self.credentials {
            request.push_str(&format!("Proxy-Authorization: {credentials}\r\n"));
        }
        request.push_str("\r\n");
        let lost = |error| format!("the proxy did not answer: {error}");
        stream.write_all(request.as_bytes()).await.map_err(lost)?;
        // The bytes after the head are the server's, and servers do not speak first.
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            if head.len() >= MAX_ANSWER {
                return Err("the proxy's answer is too long".into());
            }
            head.push(stream.read_u8().await.map_err(lost)?);
        }
        let head = String::from_utf8_lossy(&head);
        let line = head.lines().next().unwrap_or_default();
        match line.split_once(' ').map(|(version, status)| (version.starts_with("HTTP/1."), status)) {
            Some((true, status)) if status.starts_with('2') => Ok(()),
            Some((true, status)) if status.starts_with("407") => Err("the proxy wants a user and a password".into()),
            Some((true, status)) => Err(format!("the proxy refuses: {status}")),
            _ => Err("the proxy does not speak HTTP".into()),
        }
    }
}

impl fmt::Debug for Proxy {
    /// Omits the credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy").field("address", &self.address).finish_non_exhaustive()
    }
}

/// A server on this machine is never asked for through the environment's proxy.
fn is_local(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || address(host).is_some_and(|address| address.is_loopback())
}

fn address(host: &str) -> Option<IpAddr> {
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

/// True if an entry of `NO_PROXY` covers a host: `*`, a domain with its subdomains, an address or a block of addresses;
/// a domain may have a port.
fn covers(entry: &str, host: &str, port: u16) -> bool {
    if entry == "*" {
        return true;
    }
    if let Some(address) = address(host) {
        return match entry.split_once('/') {
            Some((block, bits)) => in_block(address, block, bits),
            None => self::address(entry) == Some(address),
        };
    }
    let (domain, only) = entry.rsplit_once(':').map_or((entry, None), |(domain, port)| (domain, Some(port)));
    let domain = domain.trim_start_matches('*').trim_start_matches('.').to_ascii_lowercase();
    let host = host.to_ascii_lowercase();
    let matches =
        !domain.is_empty() && host.strip_suffix(&domain).is_some_and(|sub| sub.is_empty() || sub.ends_with('.'));
    matches && only.is_none_or(|only| only.parse() == Ok(port))
}

fn in_block(address: IpAddr, block: &str, bits: &str) -> bool {
    let Ok(bits) = bits.parse::<u32>() else { return false };
    match (address, self::address(block)) {
        (IpAddr::V4(address), Some(IpAddr::V4(block))) if bits <= 32 => {
            (address.to_bits() ^ block.to_bits()).checked_shr(32 - bits).unwrap_or(0) == 0
        }
        (IpAddr::V6(address), Some(IpAddr::V6(block))) if bits <= 128 => {
            (address.to_bits() ^ block.to_bits()).checked_shr(128 - bits).unwrap_or(0) == 0
        }
        _ => false,
    }
}

fn percent_decoded(text: &str) -> Vec<u8> {
    let mut bytes = text.bytes();
    let mut out = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        let hex = |at| bytes.clone().nth(at).and_then(|digit| char::from(digit).to_digit(16));
        match (byte, hex(0), hex(1)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                bytes.nth(1);
            }
            _ => out.push(byte),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(variables: &[(&str, &str)], url: (bool, &str, u16)) -> Result<Option<String>, String> {
        let (secure, host, port) = url;
        let variable =
            |name: &str| variables.iter().find(|(own, _)| *own == name).map(|(_, value)| (*value).to_owned());
        Ok(Proxying::Environment.choose(secure, host, port, variable)?.map(|proxy| proxy.address))
    }

    #[test]
    fn the_environment_chooses_by_scheme() {
        let both = [("HTTP_PROXY", "http://plain:1"), ("HTTPS_PROXY", "secure:2"), ("ALL_PROXY", "http://all")];
        for (variables, secure, address) in [
            (&both[..], false, Some("plain:1")),
            (&both[..], true, Some("secure:2")),
            (&both[2..], true, Some("all:80")),
            (&both[..1], true, None),
            (&[], true, None),
            (&[("HTTPS_PROXY", "")], true, None),
            (&[("https_proxy", "low:1"), ("HTTPS_PROXY", "up:1")], true, Some("low:1")),
            (&[("HTTP_PROXY", "stranger:1"), ("REQUEST_METHOD", "GET")], false, None),
            (&[("http_proxy", "own:1"), ("REQUEST_METHOD", "GET")], false, Some("own:1")),
        ] {
            assert_eq!(chosen(variables, (secure, "a.example", 443)), Ok(address.map(str::to_owned)), "{variables:?}");
        }
        for wrong in ["socks5://a:1", "https://a", "http://", "a b"] {
            let error = chosen(&[("HTTPS_PROXY", wrong)], (true, "a.example", 443)).unwrap_err();
            assert!(error.starts_with("HTTPS_PROXY must be"), "{error}");
        }
    }

    #[test]
    fn exceptions_are_domains_addresses_and_blocks() {
        for (except, host, direct) in [
            ("*", "a.example", true),
            ("example", "a.example", true),
            (".example", "a.example", true),
            ("*.example", "A.Example", true),
            ("b.example, a.example", "a.example", true),
            ("a.example:443", "a.example", true),
            ("a.example:80", "a.example", false),
            ("a.example", "ba.example", false),
            ("", "a.example", false),
            ("10.0.0.0/8", "10.9.9.9", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("0.0.0.0/0", "11.0.0.1", true),
            ("10.0.0.1/32", "10.0.0.1", true),
            ("10.0.0.1/33", "10.0.0.1", false),
            ("10.0.0.1", "10.0.0.1", true),
            ("fd00::/8", "[fd00::7]", true),
            ("fd00::/8", "[fe00::7]", false),
            ("", "localhost", true),
            ("", "127.0.0.1", true),
            ("", "[::1]", true),
        ] {
            let proxy = chosen(&[("HTTPS_PROXY", "p:1"), ("NO_PROXY", except)], (true, host, 443)).unwrap();
            assert_eq!(proxy.is_none(), direct, "{except:?} {host}");
        }
        let explicit = Proxying::Through("http://p".into());
        assert!(explicit.choose(true, "localhost", 1, |_| None).unwrap().is_some(), "the program's word counts");
        assert_eq!(Proxying::Direct.choose(true, "a.example", 1, |_| Some("http://p".into())), Ok(None));
    }

    #[tokio::test]
    async fn a_tunnel_is_asked_for_with_credentials_and_answers_are_told() {
        for (answer, told) in [
            ("HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\n", Ok(())),
            ("HTTP/1.0 200 OK\r\n\r\n", Ok(())),
            ("HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", Err("the proxy wants a user and a password")),
            ("HTTP/1.1 403 Forbidden\r\n\r\n", Err("the proxy refuses: 403 Forbidden")),
            ("SSH-2.0\r\n\r\n", Err("the proxy does not speak HTTP")),
            ("HTTP/1.1 200", Err("the proxy did not answer: unexpected end of file")),
        ] {
            let (mut ours, mut theirs) = tokio::io::duplex(1024);
            let proxy = Proxy::parse("http://ann:p%40ss%zz@proxy:3128/").unwrap();
            assert_eq!(proxy.address, "proxy:3128");
            assert!(!format!("{proxy:?}").contains("Basic"));
            let tunnel = async {
                let outcome = proxy.tunnel(&mut ours, "a.example:443").await;
                drop(ours);
                outcome
            };
            let server = async {
                theirs.write_all(answer.as_bytes()).await.unwrap();
                theirs.shutdown().await.unwrap();
                let mut request = String::new();
                theirs.read_to_string(&mut request).await.unwrap();
                request
            };
            let (outcome, request) = tokio::join!(tunnel, server);
            assert_eq!(outcome, told.map_err(str::to_owned), "{answer}");
            // ann:p@ss%zz
            assert_eq!(
                request,
                "CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\nProxy-Authorization: Basic YW5uOnBAc3Mleno=\r\n\r\n",
            );
        }
        let endless = "HTTP/1.1 200 OK\r\n".repeat(MAX_ANSWER / 16);
        let (mut ours, mut theirs) = tokio::io::duplex(2 * MAX_ANSWER);
        theirs.write_all(endless.as_bytes()).await.unwrap();
        let outcome = Proxy::parse("p").unwrap().tunnel(&mut ours, "a:1").await;
        assert_eq!(outcome, Err("the proxy's answer is too long".into()));
    }
}
