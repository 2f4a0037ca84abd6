//! What a page sends, by hand: a page of any host, through the proxy.

use std::net::SocketAddr;

use datasole_core::frame::Opcode;
use datasole_tests::peer::{Peer, UPGRADE, V2};

pub(crate) struct Visitor {
    proxy: SocketAddr,
}

impl Visitor {
    pub(crate) fn of(proxy: SocketAddr) -> Self {
        Self { proxy }
    }

    /// Connects as a page of `origin` at `host`, seen from `address` by the proxy before this one; the address that the
    /// server knows.
    pub(crate) async fn open_page(&self, origin: &str, host: &str, address: &str) -> String {
        let headers = format!("Host: {host}\r\nOrigin: {origin}\r\nX-Forwarded-For: {address}\r\n");
        let mut peer = self.open(&headers).await.unwrap_or_else(|answer| panic!("{answer}"));
        peer.expect(Opcode::Hello, 0).await;
        peer.call(1, "remote", "null").await["result"].as_str().unwrap().to_owned()
    }

    /// Asks for an upgrade with these headers; the whole answer in lower case if that is refused.
    pub(crate) async fn open(&self, headers: &str) -> Result<Peer, String> {
        let mut peer = Peer::connect(self.proxy).await;
        peer.write(format!("GET /__ds HTTP/1.1\r\n{headers}{UPGRADE}{V2}\r\n").as_bytes()).await;
        let head = peer.head().await.to_lowercase();
        if head.starts_with("http/1.1 101 ") {
            return Ok(peer);
        }
        let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next()?.parse().ok());
        let body = peer.body(length.unwrap_or(0)).await;
        Err(format!("{head}{}", String::from_utf8_lossy(&body).to_lowercase()))
    }

    /// The whole answer to a GET in lower case.
    pub(crate) async fn get(&self, path: &str) -> String {
        let mut peer = Peer::connect(self.proxy).await;
        let host = self.proxy;
        peer.write(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").as_bytes()).await;
        String::from_utf8_lossy(&peer.rest().await).to_lowercase()
    }
}
