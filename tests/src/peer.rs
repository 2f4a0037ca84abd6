//! A client with no manners: plain TCP, HTTP and WebSocket frames by hand, so that a test can send anything.
//!
//! It answers nothing by itself, neither pings nor closes, and reads only when it is told to.

use std::{net::SocketAddr, time::Duration};

use datasole_core::{
    Limits,
    frame::{Codec, Opcode},
};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// Far above what any answer takes; without it a server that says nothing would look like a hanging machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// The headers of a good upgrade, beside `Host`.
pub const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                           Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
/// Offers version 2, as our clients do.
pub const V2: &str = "Sec-WebSocket-Protocol: datasole.v1, datasole.v2\r\n";
/// Offers nothing: version 1.
pub const V1: &str = "";

/// What came.
#[derive(Clone, Debug, PartialEq)]
pub enum Received {
    /// A datasole frame: opcode, correlation id, payload.
    Frame(Opcode, u32, Vec<u8>),
    /// A WebSocket ping.
    Ping,
    /// A WebSocket pong and its payload.
    Pong(Vec<u8>),
    /// A WebSocket close and its code.
    Close(u16),
    /// The end of the TCP stream, in order or by reset.
    End,
}

/// A TCP connection, and what was read from it too early.
#[derive(Debug)]
pub struct Peer {
    socket: TcpStream,
    ahead: Vec<u8>,
    codec: Codec,
}

impl Peer {
    /// Connects and says nothing.
    pub async fn connect(address: SocketAddr) -> Self {
        let socket = TcpStream::connect(address).await.unwrap();
        socket.set_nodelay(true).unwrap();
        Self { socket, ahead: Vec::new(), codec: Codec::default() }
    }

    /// Asks for an upgrade of `/__ds` with this query (`""`, or `?…`) and these headers beside `Host`; the status.
    pub async fn upgrade(address: SocketAddr, query: &str, headers: &str) -> (u16, Self) {
        let mut peer = Self::connect(address).await;
        peer.write(format!("GET /__ds{query} HTTP/1.1\r\nHost: {address}\r\n{headers}\r\n").as_bytes()).await;
        (peer.status().await, peer)
    }

    /// An open version 1 connection.
    pub async fn v1(address: SocketAddr) -> Self {
        let (status, peer) = Self::upgrade(address, "", &format!("{UPGRADE}{V1}")).await;
        assert_eq!(status, 101);
        peer
    }

    /// An open version 2 connection; its HELLO has been read.
    pub async fn v2(address: SocketAddr) -> Self {
        let (status, mut peer) = Self::upgrade(address, "", &format!("{UPGRADE}{V2}")).await;
        assert_eq!(status, 101);
        peer.expect(Opcode::Hello, 0).await;
        peer
    }

    /// Writes bytes as they are. A peer that has gone is no error: what it said before is still to be read.
    pub async fn write(&mut self, bytes: &[u8]) {
        let _ = timeout(PATIENCE, self.socket.write_all(bytes)).await.expect("the server reads");
    }

    /// Writes as much as the socket takes at once; how much.
    pub fn try_write(&mut self, bytes: &[u8]) -> usize {
        self.socket.try_write(bytes).unwrap_or(0)
    }

    /// Sends a WebSocket message of one frame; `first` is its first byte.
    pub async fn message(&mut self, first: u8, payload: &[u8]) {
        self.write(&masked(first, payload)).await;
    }

    /// Sends a datasole frame, never compressed.
    pub async fn send(&mut self, opcode: Opcode, correlation: u32, payload: impl AsRef<[u8]>) {
        self.message(0x82, &frame(opcode as u8, correlation, payload.as_ref())).await;
    }

    /// Calls a method and returns the answer's payload.
    pub async fn call(&mut self, correlation: u32, method: &str, params: &str) -> Value {
        self.begin(correlation, method, params).await;
        self.expect(Opcode::RpcResponse, correlation).await
    }

    /// Calls a method and does not wait.
    pub async fn begin(&mut self, correlation: u32, method: &str, params: &str) {
        let call = format!(r#"{{"method":{method:?},"params":{params},"correlationId":{correlation}}}"#);
        self.send(Opcode::RpcRequest, correlation, call).await;
    }

    /// The next frame, which must be this; its JSON.
    pub async fn expect(&mut self, opcode: Opcode, correlation: u32) -> Value {
        match self.receive().await {
            Received::Frame(got, id, payload) if (got, id) == (opcode, correlation) => {
                serde_json::from_slice(&payload).unwrap()
            }
            other => panic!("{opcode:?} {correlation} expected, {other:?} came"),
        }
    }

    /// The next frame must be an ERROR with this code.
    pub async fn expect_error(&mut self, correlation: u32, code: i32) {
        let error = self.expect(Opcode::Error, correlation).await;
        assert_eq!(error["code"], code, "{error}");
    }

    /// The next thing must be the end, with this close code.
    pub async fn expect_close(&mut self, code: u16) {
        assert_eq!(self.receive().await, Received::Close(code));
    }

    /// What comes next, without pings, which are answered: on a slow machine they come at any time.
    pub async fn receive(&mut self) -> Received {
        loop {
            match self.hear().await {
                Received::Ping => self.message(0x8a, b"").await,
                other => return other,
            }
        }
    }

    /// What comes next; a ping is told, and not answered.
    pub async fn hear(&mut self) -> Received {
        let Some((first, payload)) = self.websocket_frame().await else { return Received::End };
        match first {
            0x82 => {
                let frame = self.codec.decode(&payload, &Limits::default()).unwrap();
                Received::Frame(frame.opcode, frame.correlation, frame.payload.to_vec())
            }
            0x88 => Received::Close(payload.first_chunk().map_or(1005, |code| u16::from_be_bytes(*code))),
            0x89 => Received::Ping,
            0x8a => Received::Pong(payload),
            other => panic!("no server sends a frame {other:#x}"),
        }
    }

    /// The next WebSocket frame, which must be a binary message; its payload as it is.
    pub async fn binary(&mut self) -> Vec<u8> {
        loop {
            let (first, payload) = self.websocket_frame().await.expect("a message");
            if first != 0x89 {
                assert_eq!(first, 0x82);
                return payload;
            }
            self.message(0x8a, b"").await;
        }
    }

    /// The status of the HTTP answer; 0 when the connection ends instead.
    pub async fn status(&mut self) -> u16 {
        let head = self.head().await;
        head.get(9..12).and_then(|status| status.parse().ok()).unwrap_or(0)
    }

    /// The head of the HTTP answer, with its empty line.
    pub async fn head(&mut self) -> String {
        loop {
            if let Some(end) = self.ahead.windows(4).position(|four| four == b"\r\n\r\n") {
                return String::from_utf8(self.ahead.drain(..end + 4).collect()).unwrap();
            }
            if !self.more().await {
                return String::new();
            }
        }
    }

    /// So many bytes of a body; fewer if the connection ends before.
    pub async fn body(&mut self, length: usize) -> Vec<u8> {
        match self.exactly(length).await {
            Some(body) => body,
            None => std::mem::take(&mut self.ahead),
        }
    }

    /// Everything up to the end of the connection: the body of an answer that closes it.
    pub async fn rest(&mut self) -> Vec<u8> {
        while self.more().await {}
        std::mem::take(&mut self.ahead)
    }

    /// Reads to the end of the connection, in order or by reset.
    pub async fn end(&mut self) {
        while self.more().await {
            self.ahead.clear();
        }
    }

    /// Resets the connection.
    pub fn reset(self) {
        self.socket.set_zero_linger().unwrap();
    }

    /// Takes a frame when all of it is there: cancelled, it has taken nothing.
    async fn websocket_frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let extended = match self.filled(2).await?[1] {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let head = self.filled(2 + extended).await?;
        let length = match extended {
            0 => usize::from(head[1]),
            _ => head[2..].iter().fold(0, |n, &byte| n << 8 | usize::from(byte)),
        };
        let frame = self.exactly(2 + extended + length).await?;
        Some((frame[0], frame[2 + extended..].to_vec()))
    }

    /// The next bytes, which stay.
    async fn filled(&mut self, length: usize) -> Option<&[u8]> {
        while self.ahead.len() < length {
            if !self.more().await {
                return None;
            }
        }
        Some(&self.ahead[..length])
    }

    async fn exactly(&mut self, length: usize) -> Option<Vec<u8>> {
        self.filled(length).await?;
        Some(self.ahead.drain(..length).collect())
    }

    async fn more(&mut self) -> bool {
        let read = self.socket.read_buf(&mut self.ahead);
        timeout(PATIENCE, read).await.expect("the server says something or ends").unwrap_or(0) > 0
    }
}

/// A WebSocket frame with a mask, as clients must send them.
pub fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x12, 0x34, 0x56, 0x78];
    let mut out = vec![first];
    match payload.len() {
        length @ 0..=125 => out.push(0x80 | length as u8),
        length @ 126..=0xffff => {
            out.push(0x80 | 126);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&MASK);
    out.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    out
}

/// A datasole frame, whatever its first byte.
pub fn frame(opcode: u8, correlation: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![opcode];
    out.extend_from_slice(&correlation.to_be_bytes());
    out.extend_from_slice(&(payload.len() as u32).to_be_bytes());
    out.extend_from_slice(payload);
    out
}
