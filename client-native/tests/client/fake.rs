//! A server that does only what a test tells it to, frame by frame, written by hand and not with our encoder.

use std::time::Duration;

use datasole_client::{Builder, Client, Reconnect};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_tungstenite::{
    WebSocketStream, accept_hdr_async,
    tungstenite::{
        Message,
        handshake::server::{ErrorResponse, Request, Response},
        protocol::CloseFrame,
    },
};

pub(crate) const RPC_REQ: u8 = 0x01;
pub(crate) const RPC_RES: u8 = 0x02;
pub(crate) const EVENT_C2S: u8 = 0x03;
pub(crate) const EVENT_S2C: u8 = 0x04;
pub(crate) const STATE_PATCH: u8 = 0x05;
pub(crate) const STATE_SNAPSHOT: u8 = 0x06;
pub(crate) const CRDT_OP: u8 = 0x0a;
pub(crate) const CRDT_STATE: u8 = 0x0b;
pub(crate) const ERROR: u8 = 0x09;
pub(crate) const HELLO: u8 = 0x10;
pub(crate) const SUBSCRIBE: u8 = 0x13;
pub(crate) const SUBSCRIBED: u8 = 0x14;
pub(crate) const UNSUBSCRIBE: u8 = 0x15;
pub(crate) const CANCEL: u8 = 0x16;
pub(crate) const ACK: u8 = 0x17;
pub(crate) const PRESENCE: u8 = 0x1a;
#[cfg(feature = "docs")]
pub(crate) const DOC: u8 = 0x1b;
pub(crate) const RPC_REQ_BIN: u8 = 0x20;
pub(crate) const RPC_RES_BIN: u8 = 0x21;

pub(crate) struct Fake {
    pub(crate) listener: TcpListener,
}

impl Fake {
    pub(crate) async fn listen() -> Self {
        Self { listener: TcpListener::bind("127.0.0.1:0").await.unwrap() }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/", self.listener.local_addr().unwrap())
    }

    /// A client that tries again without waiting.
    pub(crate) fn client(&self) -> Builder {
        let reconnect = Reconnect { base: 0, cap: 0, ..Reconnect::default() };
        Client::builder(self.url()).reconnect(reconnect).linger(Duration::ZERO)
    }

    /// Answers one upgrade with this HTTP response, and drops the connection.
    pub(crate) async fn answer(&self, response: &str) {
        let mut stream = self.accept_tcp().await;
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            request.push(stream.read_u8().await.unwrap());
        }
        stream.write_all(response.as_bytes()).await.unwrap();
    }

    pub(crate) async fn accept_tcp(&self) -> TcpStream {
        self.listener.accept().await.unwrap().0
    }

    /// Accepts, answering with this subprotocol, or none. What was requested is kept.
    pub(crate) async fn accept(&self, protocol: Option<&'static str>) -> Peer {
        self.try_accept(protocol).await.unwrap()
    }

    /// `None` when the client goes away during the handshake, as it may on an answer it does not like.
    pub(crate) async fn try_accept(&self, protocol: Option<&'static str>) -> Option<Peer> {
        let mut requested = None;
        // tungstenite's callback type.
        #[expect(clippy::result_large_err)]
        let answer = |request: &Request, mut response: Response| -> Result<Response, ErrorResponse> {
            if let Some(protocol) = protocol {
                response.headers_mut().insert("sec-websocket-protocol", protocol.parse().unwrap());
            }
            requested = Some(request.clone());
            Ok(response)
        };
        let stream = accept_hdr_async(self.accept_tcp().await, answer).await.ok()?;
        Some(Peer { stream, request: requested? })
    }

    /// Accepts as a version 2 server and says HELLO.
    pub(crate) async fn accept_v2(&self) -> Peer {
        let mut peer = self.accept(Some("datasole.v2")).await;
        peer.send(HELLO, 0, &hello()).await;
        peer
    }

    /// A connected pair on version 2.
    pub(crate) async fn pair(&self) -> (Client, Peer) {
        self.pair_with(self.client()).await
    }

    pub(crate) async fn pair_with(&self, client: Builder) -> (Client, Peer) {
        let (client, peer) = tokio::join!(client.connect(), self.accept_v2());
        (client.unwrap(), peer)
    }
}

pub(crate) fn hello() -> Value {
    json!({
        "protocol": 2, "connectionId": "c1", "userId": "ann", "epoch": 5, "heartbeat": 15000,
        "limits": {
            "maxPayload": 1048576, "compressAbove": 10000000, "maxSubscriptions": 100, "maxPendingCalls": 100,
            "maxEventName": 256
        }
    })
}

/// The server's end of one connection.
pub(crate) struct Peer {
    pub(crate) stream: WebSocketStream<TcpStream>,
    pub(crate) request: Request,
}

impl Peer {
    pub(crate) async fn send(&mut self, opcode: u8, correlation: u32, payload: &Value) {
        self.send_raw(opcode, correlation, payload.to_string().as_bytes()).await;
    }

    pub(crate) async fn send_raw(&mut self, opcode: u8, correlation: u32, payload: &[u8]) {
        let mut frame = vec![opcode];
        frame.extend(correlation.to_be_bytes());
        frame.extend((payload.len() as u32).to_be_bytes());
        frame.extend(payload);
        self.stream.send(Message::binary(frame)).await.unwrap();
    }

    /// The next frame: opcode, correlation id, payload.
    pub(crate) async fn expect_any(&mut self) -> (u8, u32, Vec<u8>) {
        let message = self.stream.next().await.expect("a frame, not the end").unwrap();
        let Message::Binary(frame) = message else { panic!("expected a frame, got {message:?}") };
        let number = |at: usize| u32::from_be_bytes(frame[at..at + 4].try_into().unwrap());
        assert_eq!(number(5) as usize, frame.len() - 9);
        (frame[0], number(1), frame[9..].to_vec())
    }

    /// The next frame, which must have this opcode.
    pub(crate) async fn expect_raw(&mut self, opcode: u8) -> (u32, Vec<u8>) {
        let (found, correlation, payload) = self.expect_any().await;
        assert_eq!(found, opcode, "{:?}", String::from_utf8_lossy(&payload));
        (correlation, payload)
    }

    pub(crate) async fn expect(&mut self, opcode: u8) -> (u32, Value) {
        let (correlation, payload) = self.expect_raw(opcode).await;
        (correlation, serde_json::from_slice(&payload).unwrap())
    }

    pub(crate) async fn expect_close(&mut self) -> CloseFrame {
        let frame = match self.stream.next().await {
            Some(Ok(Message::Close(Some(frame)))) => frame,
            other => panic!("expected a close frame, got {other:?}"),
        };
        // Sends the answer.
        assert!(self.stream.next().await.is_none());
        frame
    }

    /// Answers the SUBSCRIBE that must come for this stream.
    pub(crate) async fn accept_subscription(&mut self, kind: &str, key: &str, answer: Value) -> (u32, Value) {
        let (correlation, asked) = self.expect(SUBSCRIBE).await;
        assert_eq!((asked["kind"].as_str(), asked["key"].as_str()), (Some(kind), Some(key)));
        self.send(SUBSCRIBED, correlation, &answer).await;
        (correlation, asked)
    }
}
