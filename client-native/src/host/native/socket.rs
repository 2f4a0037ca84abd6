//! The network: how sockets are opened ([`Dialer`]) and one open [`Socket`], which reads and writes in one poll.
//!
//! A socket never waits for the network to accept writes before it reads, and it collects outbound messages
//! while messages are coming in, so that answers to messages that arrive together leave in one write. A socket knows
//! nothing of frames.

use std::{
    collections::VecDeque,
    future::poll_fn,
    task::{Context, Poll, ready},
    time::Duration,
};

use datasole_core::{Limits, SocketClose, frame::HEADER_LEN};
use futures_util::{Sink, SinkExt, Stream, StreamExt};
use http::{
    HeaderMap, HeaderValue, StatusCode, Uri,
    header::{CONTENT_TYPE, LOCATION, RETRY_AFTER, SEC_WEBSOCKET_PROTOCOL},
};
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream,
    tungstenite::{
        Error, Message,
        client::IntoClientRequest,
        error::{CapacityError, ProtocolError, SubProtocolError},
        handshake::client::Response,
        protocol::{CloseFrame, WebSocketConfig, frame::coding::CloseCode},
    },
};

use super::proxy::Proxying;
use crate::host::received::{MAX_UNSENT, Received};

/// The header by which a datasole server marks its own refusals.
const REFUSED: &str = "datasole-refused";

/// The longest body of a refusal that is told; bytes.
const MAX_TOLD: usize = 1_024;

/// Messages read in a row before what there is to send is written.
const READ_BURST: u32 = 64;

/// Tungstenite zero-fills its read buffer at every poll.
const READ_BUFFER: usize = 4 * 1024;

/// Bytes collected before tungstenite writes without being asked to.
const WRITE_BUFFER: usize = 16 * 1024;

/// The options of an attempt, without the URL.
#[derive(Clone)]
pub(crate) struct Dialer {
    pub(crate) headers: HeaderMap,
    pub(crate) limits: Limits,
    pub(crate) proxying: Proxying,
    #[cfg(feature = "__tls")]
    pub(crate) trust: super::tls::Trust,
}

impl Dialer {
    /// Opens a socket; also tells the subprotocol the server chose.
    pub(crate) async fn open(
        self,
        url: String,
        protocols: &'static [&'static str],
    ) -> Result<(Socket, Option<String>), SocketClose> {
        let (stream, response) = match self.handshake(self.reach(&url).await?, &url, protocols).await {
            // A server may ignore the offer; tungstenite then insists that there was none.
            Err(Error::Protocol(ProtocolError::SecWebSocketSubProtocolError(SubProtocolError::NoSubProtocol))) => {
                tracing::warn!(
                    "the server chose no subprotocol: version 1, without resume. If it speaks version 2, something in \
                     between strips Sec-WebSocket-Protocol"
                );
                self.handshake(self.reach(&url).await?, &url, &[]).await
            }
            outcome => outcome,
        }
        .map_err(refusal)?;
        let chosen = response.headers().get(SEC_WEBSOCKET_PROTOCOL).and_then(|name| name.to_str().ok());
        Ok((Socket::new(stream), chosen.map(str::to_owned)))
    }

    /// Connects to the server, through the proxy that there may be.
    async fn reach(&self, url: &str) -> Result<TcpStream, SocketClose> {
        let unreachable = |reason| SocketClose { reason, ..SocketClose::default() };
        let uri: Uri = url.parse().map_err(|_| unreachable("the URL is invalid".into()))?;
        let secure = uri.scheme_str() == Some("wss");
        let (host, port) = (uri.host().unwrap_or_default(), uri.port_u16().unwrap_or(if secure { 443 } else { 80 }));
        let target = format!("{host}:{port}");
        let proxy = self.proxying.choose(secure, host, port, |name| std::env::var(name).ok()).map_err(unreachable)?;
        let stream = match proxy {
            Some(proxy) => proxy.connect(&target).await.map_err(unreachable)?,
            None => TcpStream::connect(&target)
                .await
                .map_err(|error| unreachable(format!("cannot reach the server: {error}")))?,
        };
        // Without it messages are slower, and nothing else.
        let _ = stream.set_nodelay(true);
        Ok(stream)
    }

    async fn handshake(
        &self,
        stream: TcpStream,
        url: &str,
        protocols: &[&str],
    ) -> Result<(WebSocketStream<MaybeTlsStream<TcpStream>>, Response), Error> {
        let mut request = url.into_client_request()?;
        request.headers_mut().extend(self.headers.clone());
        if !protocols.is_empty() {
            let offer = HeaderValue::from_str(&protocols.join(", "))?;
            request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, offer);
        }
        let limits = self.limits;
        let longest = limits.max_compressed.max(HEADER_LEN + limits.max_payload.max(limits.max_received));
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            .write_buffer_size(WRITE_BUFFER)
            .max_message_size(Some(longest))
            .max_frame_size(Some(longest));
        #[cfg(feature = "__tls")]
        {
            use tokio_tungstenite::{Connector, client_async_tls_with_config};
            // Never tungstenite's own connector, which panics unless exactly one crypto provider is compiled in.
            let connector = if request.uri().scheme_str() == Some("wss") {
                Connector::Rustls(self.trust.config().await.map_err(std::io::Error::other)?)
            } else {
                Connector::Plain
            };
            client_async_tls_with_config(request, stream, Some(config), Some(connector)).await
        }
        #[cfg(not(feature = "__tls"))]
        tokio_tungstenite::client_async_with_config(request, MaybeTlsStream::Plain(stream), Some(config)).await
    }
}

/// An open WebSocket with its unsent messages.
#[derive(Debug)]
pub(crate) struct Socket<S = WebSocketStream<MaybeTlsStream<TcpStream>>> {
    stream: S,
    outbox: VecDeque<Vec<u8>>,
    unsent: usize,
    told_full: bool,
    burst: u32,
    /// The close code, if this side objects.
    objection: Option<u16>,
}

impl<S> Socket<S>
where
    S: Stream<Item = Result<Message, Error>> + Sink<Message, Error = Error> + Unpin,
{
    pub(crate) fn new(stream: S) -> Self {
        Self { stream, outbox: VecDeque::new(), unsent: 0, told_full: false, burst: 0, objection: None }
    }

    /// Sent by the following calls of [`next`](Self::next), or by [`close`](Self::close).
    pub(crate) fn send(&mut self, message: Vec<u8>) {
        self.unsent += message.len();
        self.told_full |= self.unsent >= MAX_UNSENT;
        self.outbox.push_back(message);
    }

    /// Bytes of messages that wait.
    pub(crate) fn unsent(&self) -> usize {
        self.unsent
    }

    /// Reads and writes until there is something to tell. Cancel safe.
    pub(crate) async fn next(&mut self) -> Received {
        poll_fn(|cx| self.poll(cx)).await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Received> {
        if self.burst >= READ_BURST
            && let Poll::Ready(Err(error)) = self.poll_write(cx)
        {
            return Poll::Ready(self.lost(&error));
        }
        loop {
            match self.stream.poll_next_unpin(cx) {
                Poll::Ready(Some(Ok(Message::Binary(bytes)))) => {
                    self.burst += 1;
                    return Poll::Ready(Received::Message(bytes));
                }
                // Tungstenite answers pings itself.
                Poll::Ready(Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)))) => {}
                Poll::Ready(Some(Ok(Message::Text(_)))) => {
                    return Poll::Ready(self.object(1003, "text message".into()));
                }
                Poll::Ready(Some(Ok(Message::Close(frame)))) => {
                    return Poll::Ready(Received::Closed(closed_by_peer(frame)));
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(self.lost(&error)),
                Poll::Ready(None) => return Poll::Ready(Received::Closed(SocketClose::default())),
                Poll::Pending => break,
            }
        }
        if let Poll::Ready(Err(error)) = self.poll_write(cx) {
            return Poll::Ready(self.lost(&error));
        }
        if self.told_full && self.unsent < MAX_UNSENT {
            self.told_full = false;
            return Poll::Ready(Received::Room);
        }
        Poll::Pending
    }

    /// Writes as much as the network takes.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.burst = 0;
        loop {
            while !self.outbox.is_empty() {
                ready!(self.stream.poll_ready_unpin(cx))?;
                if let Some(message) = self.outbox.pop_front() {
                    self.unsent -= message.len();
                    self.stream.start_send_unpin(Message::binary(message))?;
                }
            }
            ready!(self.stream.poll_flush_unpin(cx))?;
            if self.outbox.is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }

    fn object(&mut self, code: u16, reason: String) -> Received {
        self.objection = Some(code);
        Received::Closed(SocketClose { code: Some(code), reason, ..SocketClose::default() })
    }

    /// The connection ended without a close frame.
    fn lost(&mut self, error: &Error) -> Received {
        let mut reason = words(error);
        match error {
            // It is how connections are lost, and nobody's violation.
            Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => reason.clear(),
            Error::Capacity(CapacityError::MessageTooLong { .. }) => return self.object(1009, reason),
            Error::Utf8(_) => return self.object(1007, reason),
            Error::Protocol(_) => return self.object(1002, reason),
            _ => {}
        }
        Received::Closed(SocketClose { code: Some(1006), reason, ..SocketClose::default() })
    }

    /// Sends what waits and closes, waiting so long for the peer to agree.
    pub(crate) async fn close(mut self, code: u16, reason: &str, patience: Duration) {
        let frame = CloseFrame { code: CloseCode::from(code), reason: reason.into() };
        let handshake = async {
            while let Some(message) = self.outbox.pop_front() {
                self.stream.feed(Message::binary(message)).await?;
            }
            self.stream.send(Message::Close(Some(frame))).await?;
            while let Some(message) = self.stream.next().await {
                if let Message::Close(_) = message? {
                    break;
                }
            }
            Ok::<(), Error>(())
        };
        // Whether the peer agreed changes nothing: nobody waits for this socket any more.
        let _ = timeout(patience, handshake).await;
    }

    /// After [`Received::Closed`]: answers the peer's close, or tells the peer our objection.
    pub(crate) async fn end(mut self, patience: Duration) {
        match self.objection {
            Some(code) => {
                self.outbox.clear();
                self.close(code, "", patience).await;
            }
            // Tungstenite has queued the answer, if there is one to give.
            None => {
                let _ = timeout(patience, self.stream.flush()).await;
            }
        }
    }
}

fn closed_by_peer(frame: Option<CloseFrame>) -> SocketClose {
    match frame {
        Some(frame) => {
            SocketClose { code: Some(frame.code.into()), reason: frame.reason.to_string(), ..SocketClose::default() }
        }
        None => SocketClose { code: Some(1005), ..SocketClose::default() },
    }
}

/// The reason why an attempt failed.
fn refusal(error: Error) -> SocketClose {
    match error {
        Error::Http(response) => {
            let header = |name: http::HeaderName| response.headers().get(name).and_then(|value| value.to_str().ok());
            let by_datasole = response.headers().contains_key(REFUSED);
            let body = response.body().as_deref().filter(|body| body.len() <= MAX_TOLD);
            let body = body.and_then(|body| std::str::from_utf8(body).ok()).unwrap_or_default().trim();
            let location = header(LOCATION).map(|to| to.split('?').next().unwrap_or_default());
            let reason = refused_with(response.status(), by_datasole.then_some(body), location, header(CONTENT_TYPE));
            let retry_after = header(RETRY_AFTER).and_then(|seconds| seconds.trim().parse::<u64>().ok());
            SocketClose {
                code: None,
                reason,
                http_status: Some(response.status().as_u16()),
                by_datasole,
                retry_after: retry_after.map(|seconds| seconds.saturating_mul(1_000)),
            }
        }
        // Whatever else answered there, it was not a WebSocket that could have said a code.
        error => SocketClose { reason: words(&error), ..SocketClose::default() },
    }
}

/// A refused upgrade in words; `ours` is the body of a datasole server's refusal. Queries are not told: tokens travel there.
fn refused_with(status: StatusCode, ours: Option<&str>, location: Option<&str>, content: Option<&str>) -> String {
    let answered = format!("the server answered {status}");
    match (ours, status.as_u16()) {
        (Some(""), _) => answered,
        (Some(body), _) => format!("{answered}: {body}"),
        (None, 300..=399) => format!("{answered} to {} instead of upgrading", location.unwrap_or("nowhere")),
        (None, 200..=299) => {
            let content = content.map(|content| format!(" with {content}")).unwrap_or_default();
            format!("{answered}{content} instead of upgrading: is the path passed on to the datasole server?")
        }
        (None, 401 | 403) => format!("{answered}, and is no datasole server: something in between refuses"),
        (None, 426) => format!("{answered}: a proxy in front may not pass the upgrade on"),
        (None, _) => answered,
    }
}

/// An error of the connection in words.
fn words(error: &Error) -> String {
    let Error::Io(error) = error else { return error.to_string() };
    #[cfg(feature = "__tls")]
    if let Some(tls) = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>()) {
        return match tls {
            rustls::Error::InvalidCertificate(why) => {
                format!(
                    "TLS: the server's certificate is not trusted ({why:?}); `Builder::tls_config` takes other roots"
                )
            }
            rustls::Error::InvalidMessage(_) => format!("TLS: {tls}; does the server speak TLS on this port?"),
            _ => format!("TLS: {tls}"),
        };
    }
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{io, pin::Pin};
    use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, duplex};
    use tokio_tungstenite::tungstenite::protocol::Role;

    /// Counts writes.
    struct Counted {
        stream: DuplexStream,
        writes: usize,
    }

    impl AsyncRead for Counted {
        fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.stream).poll_read(cx, buffer)
        }
    }

    impl AsyncWrite for Counted {
        fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            self.writes += 1;
            Pin::new(&mut self.stream).poll_write(cx, bytes)
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.stream).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.stream).poll_shutdown(cx)
        }
    }

    type Ours = Socket<WebSocketStream<Counted>>;
    type Theirs = WebSocketStream<DuplexStream>;

    /// Both ends of a connection that holds `capacity` bytes each way.
    async fn pair(capacity: usize) -> (Ours, Theirs) {
        let (ours, theirs) = duplex(capacity);
        let ours = Counted { stream: ours, writes: 0 };
        (
            Socket::new(WebSocketStream::from_raw_socket(ours, Role::Client, None).await),
            WebSocketStream::from_raw_socket(theirs, Role::Server, None).await,
        )
    }

    #[tokio::test]
    async fn answers_to_messages_that_came_together_leave_in_one_write() {
        let (mut ours, mut theirs) = pair(64 * 1024).await;
        for _ in 0..10 {
            theirs.send(Message::binary(vec![1])).await.unwrap();
        }
        for _ in 0..10 {
            assert!(matches!(ours.next().await, Received::Message(_)));
            ours.send(vec![2]);
        }
        assert_eq!(ours.stream.get_ref().writes, 0);
        tokio::select! {
            received = ours.next() => panic!("{received:?}"),
            _ = theirs.next() => {}
        }
        assert_eq!(ours.stream.get_ref().writes, 1);
    }

    #[tokio::test]
    async fn endless_messages_do_not_keep_it_from_writing() {
        let (mut ours, mut theirs) = pair(64 * 1024).await;
        ours.send(vec![2]);
        for (messages, written) in [(READ_BURST, 0), (1, 1)] {
            for _ in 0..messages {
                theirs.send(Message::binary(vec![1])).await.unwrap();
                assert!(matches!(ours.next().await, Received::Message(_)));
            }
            assert_eq!(ours.stream.get_ref().writes, written);
        }
    }

    #[tokio::test]
    async fn room_is_told_only_after_there_was_none() {
        for (bytes, told) in [(MAX_UNSENT - 1, false), (MAX_UNSENT, true), (MAX_UNSENT + 1, true)] {
            let (mut ours, mut theirs) = pair(2 * MAX_UNSENT).await;
            ours.send(vec![0; bytes - 1]);
            ours.send(vec![0]);
            assert_eq!(ours.unsent(), bytes);
            let reading = async { while let Some(Ok(_)) = theirs.next().await {} };
            tokio::select! {
                biased;
                received = ours.next() => {
                    assert!(told && matches!(received, Received::Room), "{bytes}: {received:?}");
                }
                () = reading => {}
                () = async {} => assert!(!told, "{bytes}"),
            }
            assert_eq!(ours.unsent(), 0);
        }
    }

    #[tokio::test]
    async fn how_it_ended_is_told() {
        let (mut ours, theirs) = pair(1024).await;
        drop(theirs);
        let Received::Closed(close) = ours.next().await else { panic!() };
        assert_eq!(close.code, Some(1006));

        let (mut ours, mut theirs) = pair(1024).await;
        theirs.send(Message::Close(None)).await.unwrap();
        let Received::Closed(close) = ours.next().await else { panic!() };
        assert_eq!(close.code, Some(1005));
        let ((), answer) = tokio::join!(ours.end(Duration::from_secs(5)), async {
            let answer = theirs.next().await;
            drop(theirs);
            answer
        });
        assert!(matches!(answer, Some(Ok(Message::Close(_)))), "{answer:?}");
    }

    #[tokio::test]
    async fn an_oversized_message_is_refused_with_1009() {
        for (bytes, accepted) in [(99, true), (100, true), (101, false)] {
            let (ours, theirs) = duplex(1024);
            let config = WebSocketConfig::default().max_message_size(Some(100)).max_frame_size(Some(100));
            let mut ours = Socket::new(WebSocketStream::from_raw_socket(ours, Role::Client, Some(config)).await);
            let mut theirs = WebSocketStream::from_raw_socket(theirs, Role::Server, None).await;
            theirs.send(Message::binary(vec![0; bytes])).await.unwrap();
            match ours.next().await {
                Received::Message(message) => assert!(accepted && message.len() == bytes, "{bytes}"),
                Received::Closed(close) => assert!(!accepted && close.code == Some(1009), "{bytes}: {close:?}"),
                Received::Room => panic!("{bytes}"),
            }
        }
    }
}
