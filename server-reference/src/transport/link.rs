//! One connection's loop: drain what has come, answer it in one write, pass on what others have queued.
//!
//! tungstenite parses what comes in; what goes out is framed by [`message`](crate::message) and written in batches
//! straight to the stream. The two never interleave: nothing is read while a batch is partly written, and a pong that
//! tungstenite owes is flushed before the next batch.

use std::{
    cell::Cell,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{Sink, SinkExt, StreamExt, future::poll_fn};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::{Instant, Sleep, sleep_until, timeout},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Error as WsError, Message,
        error::ProtocolError,
        protocol::{Role, WebSocketConfig},
    },
};

use super::heard::Heard;
use crate::{
    mailbox::Close,
    message,
    metrics::Metrics,
    server::{Place, Server},
    session::Session,
};

/// Messages taken before their answers are written.
const BATCH: usize = 64;
/// Bytes gathered for one write, roughly.
const ROOM: usize = 64 * 1024;
/// The read and write buffers of an idle connection: tungstenite zero-fills and keeps its own (ARCHITECTURE,
/// "Decisions").
const BUFFER: usize = 1024;

thread_local! {
    /// The output buffer of whichever connection runs on this thread: idle ones have none.
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// How a connection came to its end.
enum End {
    /// The peer said goodbye; tungstenite has the answer ready.
    Goodbye,
    /// We say goodbye, and why.
    Close(Close),
    /// The socket is gone.
    Lost,
}

struct Link<S> {
    socket: WebSocketStream<Heard<S>>,
    session: Session,
    server: Server,
    /// Framed and not yet written.
    out: Vec<u8>,
    written: usize,
    /// The socket took no more: when it does again, the peer has read.
    blocked: bool,
    /// tungstenite may have a pong in its buffer.
    owes_pong: bool,
    /// Something came, or was read at the other end: the peer is there.
    alive: Instant,
    pinged: bool,
    timer: Pin<Box<Sleep>>,
    /// Until when the first AUTH must have been accepted.
    auth_deadline: Option<Instant>,
    /// Given back when the connection is gone.
    _place: Place,
}

/// Serves one connection until it has ended. `read` is what came behind the upgrade request.
///
/// These futures are most of an idle connection's memory, so what only its beginning and its end need is boxed by itself.
pub(super) async fn run<S>(stream: S, read: Bytes, server: Server, session: Session, place: Place)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut link = Box::pin(Link::open(stream, read, server, session, place)).await;
    let end = poll_fn(|cx| link.poll(cx)).await;
    Box::pin(link.finish(end)).await;
}

/// Ends a session: the connection leaves every stream and room.
pub(crate) async fn end(server: &Server, mut session: Session) {
    let streams = session.end();
    server.hub().leave(session.connection());
    for stream in streams {
        server.hub().release(stream).await;
    }
}

/// Closes a socket for which there is no place.
pub(super) async fn turn_away<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, server: &Server) {
    let mut out = Vec::new();
    message::close(&mut out, 1013, "too many connections");
    let goodbye = async {
        stream.write_all(&out).await?;
        drain(&mut stream).await
    };
    if timeout(Duration::from_secs(1).min(server.limits().close_timeout), goodbye).await.is_err() {
        tracing::debug!("a peer that was turned away lingered");
    }
}

async fn goodbye<S>(
    mut socket: WebSocketStream<S>,
    end: End,
    out: &[u8],
    written: usize,
    server: &Server,
) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    match end {
        End::Lost => Ok(()),
        End::Goodbye => socket.flush().await.map_err(|error| io::Error::other(error.to_string())),
        End::Close(Close { code, reason }) => {
            if code == datasole_core::wire::CLOSE_FELL_BEHIND {
                Metrics::add(&server.metrics().fell_behind, 1);
            }
            if written == 0 {
                // Half a pong may have been written. What else fails here fails again below.
                let _ = socket.flush().await;
            }
            let mut last = out[written..].to_vec();
            message::close(&mut last, code, &reason);
            let stream = socket.get_mut();
            stream.write_all(&last).await?;
            drain(stream).await
        }
    }
}

/// Ends our half, for which WebSocket clients wait, and reads to the end, so that closing does not reset the connection
/// before the peer has read our close frame.
async fn drain<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) -> io::Result<()> {
    stream.shutdown().await?;
    let mut sink = [0; 512];
    while stream.read(&mut sink).await? > 0 {}
    Ok(())
}

fn unauthorized(reason: &str) -> End {
    End::Close(Close { code: datasole_core::wire::CLOSE_UNAUTHORIZED, reason: reason.to_owned() })
}

impl<S: AsyncRead + AsyncWrite + Unpin> Link<S> {
    async fn open(stream: S, read: Bytes, server: Server, session: Session, place: Place) -> Box<Self> {
        let config = WebSocketConfig::default()
            .read_buffer_size(BUFFER)
            .write_buffer_size(BUFFER)
            .max_message_size(Some(server.limits().max_message))
            .max_frame_size(Some(server.limits().max_message));
        let (stream, read) = (Heard::new(stream), read.to_vec());
        let socket = if read.is_empty() {
            WebSocketStream::from_raw_socket(stream, Role::Server, Some(config)).await
        } else {
            WebSocketStream::from_partially_read(stream, read, Role::Server, Some(config)).await
        };
        let now = Instant::now();
        let deferred = session.connection().identity().is_none();
        Box::new(Self {
            socket,
            session,
            out: Vec::new(),
            written: 0,
            blocked: false,
            owes_pong: false,
            alive: now,
            pinged: false,
            timer: Box::pin(sleep_until(now)),
            auth_deadline: deferred.then(|| now + server.limits().auth_timeout),
            server,
            _place: place,
        })
    }

    /// Ends the session, says goodbye and waits a while for the peer's, as RFC 6455 wants it.
    async fn finish(self: Box<Self>, end: End) {
        let Self { socket, session, server, out, written, _place, .. } = *self;
        self::end(&server, session).await;
        let goodbye = goodbye(socket, end, &out, written, &server);
        match timeout(server.limits().close_timeout, goodbye).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "a closing handshake failed"),
            Err(_) => tracing::debug!("a closing handshake took too long"),
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        if self.out.capacity() == 0 {
            self.out = SCRATCH.take();
        }
        let polled = self.poll_loop(cx);
        if self.out.is_empty() && polled.is_pending() {
            SCRATCH.set(std::mem::take(&mut self.out));
        }
        polled
    }

    fn poll_loop(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        // Registered before looking, so that nothing queued in between is missed.
        self.session.connection().mailbox().register(cx.waker());
        loop {
            match self.poll_write(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(End::Lost),
                // A peer that does not read is not read from; only time and the mailbox can end this.
                Poll::Pending => {
                    if let Some(close) = self.session.connection().mailbox().closing() {
                        return Poll::Ready(End::Close(close));
                    }
                    return self.poll_timer(cx);
                }
            }
            let replaying = self.session.connection().mailbox().is_replaying();
            let more = replaying
                || match self.poll_read(cx) {
                    Poll::Ready(Ok(())) => true,
                    Poll::Ready(Err(end)) => return Poll::Ready(end),
                    Poll::Pending => false,
                };
            let mailbox = self.session.connection().mailbox();
            if mailbox.is_filled() {
                mailbox.drain(&mut self.out, ROOM);
                if self.out.len() < ROOM
                    && let Some(close) = mailbox.closing()
                {
                    return Poll::Ready(End::Close(close));
                }
            }
            if self.out.is_empty() && !more {
                return self.poll_timer(cx);
            }
        }
    }

    /// Takes up to a batch of messages: ready when a whole batch was there, and there may be more.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        for taken in 0..BATCH {
            let received = match self.socket.poll_next_unpin(cx) {
                Poll::Ready(received) => received,
                Poll::Pending => {
                    if taken == 0 && self.socket.get_mut().take() {
                        self.alive = Instant::now();
                        self.pinged = false;
                    }
                    return Poll::Pending;
                }
            };
            if taken == 0 {
                self.alive = Instant::now();
                self.pinged = false;
                // Here, because a client that never pauses never lets the timer be looked at.
                if self.session.connection().expires().is_some_and(|at| at <= self.alive) {
                    return Poll::Ready(Err(unauthorized("expired")));
                }
            }
            match received {
                Some(Ok(Message::Binary(bytes))) => {
                    if let Some(task) = self.session.receive(&bytes, &mut self.out) {
                        tokio::spawn(task);
                    }
                    if self.out.len() >= ROOM || self.session.connection().mailbox().is_replaying() {
                        break;
                    }
                }
                Some(Ok(Message::Ping(_))) => self.owes_pong = true,
                Some(Ok(Message::Pong(_) | Message::Frame(_))) => {}
                Some(Ok(Message::Text(_))) => {
                    return Poll::Ready(Err(self.violation(1003, "binary messages only")));
                }
                Some(Ok(Message::Close(_))) => return Poll::Ready(Err(End::Goodbye)),
                Some(Err(error)) => return Poll::Ready(Err(self.failure(&error))),
                None => return Poll::Ready(Err(End::Lost)),
            }
        }
        Poll::Ready(Ok(()))
    }

    fn failure(&self, error: &WsError) -> End {
        match error {
            WsError::Capacity(_) => self.violation(1009, "message too big"),
            WsError::Utf8(_) => self.violation(1007, "not UTF-8"),
            WsError::Protocol(ProtocolError::ResetWithoutClosingHandshake) => End::Lost,
            WsError::Protocol(_) => self.violation(1002, "WebSocket protocol violation"),
            _ => End::Lost,
        }
    }

    fn violation(&self, code: u16, reason: &str) -> End {
        Metrics::add(&self.server.metrics().malformed, 1);
        End::Close(Close { code, reason: reason.to_owned() })
    }

    /// Writes a pong that is owed, then all of `out`; ready when there is nothing left.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.owes_pong {
            let flushed = ready!(Pin::new(&mut self.socket).poll_flush(cx));
            flushed.map_err(|error| io::Error::other(error.to_string()))?;
            self.owes_pong = false;
        }
        if self.out.is_empty() {
            return Poll::Ready(Ok(()));
        }
        let mut stream = Pin::new(self.socket.get_mut());
        while self.written < self.out.len() {
            let Poll::Ready(n) = stream.as_mut().poll_write(cx, &self.out[self.written..])? else {
                self.blocked = true;
                return Poll::Pending;
            };
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += n;
            if std::mem::take(&mut self.blocked) {
                self.alive = Instant::now();
            }
        }
        ready!(stream.poll_flush(cx))?;
        Metrics::add(&self.server.metrics().bytes_out, self.out.len() as u64);
        self.written = 0;
        self.out.clear();
        if self.out.capacity() > 4 * ROOM {
            self.out = Vec::new();
        }
        Poll::Ready(Ok(()))
    }

    /// Signs of life, and the identity's time; pending until the next look at them.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let expires = self.session.connection().expires();
        // An AUTH may have brought an identity that ends before the next look.
        if let Some(at) = expires.filter(|at| *at < self.timer.deadline()) {
            self.timer.as_mut().reset(at);
        }
        loop {
            ready!(self.timer.as_mut().poll(cx));
            let now = Instant::now();
            let heartbeat = self.server.limits().heartbeat;
            if self.session.connection().identity().is_some() {
                self.auth_deadline = None;
            } else if self.auth_deadline.is_some_and(|deadline| deadline <= now) {
                return Poll::Ready(unauthorized("no AUTH in time"));
            }
            if expires.is_some_and(|at| at <= now) {
                return Poll::Ready(unauthorized("expired"));
            }
            if self.alive + heartbeat * 2 <= now {
                return Poll::Ready(End::Lost);
            }
            let quiet = self.alive + heartbeat <= now;
            if quiet && !self.pinged && self.out.is_empty() {
                self.pinged = true;
                message::ping(&mut self.out);
            }
            let mut next = self.alive + if quiet { heartbeat * 2 } else { heartbeat };
            if let Some(deadline) = self.auth_deadline {
                next = next.min(deadline);
            }
            if let Some(at) = expires {
                next = next.min(at);
            }
            self.timer.as_mut().reset(next);
            if !self.out.is_empty() && self.written == 0 {
                match self.poll_write(cx) {
                    Poll::Ready(Ok(())) | Poll::Pending => {}
                    Poll::Ready(Err(_)) => return Poll::Ready(End::Lost),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{SinkExt, StreamExt};
    use serde_json::json;
    use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

    use super::*;
    use crate::{AuthRequest, Identity, Limits, Protocol};

    /// The server looks at the time once an hour: only the identity's own end can close this.
    #[tokio::test]
    async fn an_identity_from_an_auth_frame_expires_on_time() {
        let hour = Duration::from_secs(3600);
        let server = Server::builder()
            .limits(Limits { heartbeat: hour, auth_timeout: hour, ..Limits::default() })
            .auth(|_: AuthRequest| async {
                // Longer than it takes until the loop has looked at its timer, and rests.
                tokio::time::sleep(Duration::from_millis(20)).await;
                Ok(Identity::user("ann").expires_in(Duration::from_millis(20)))
            })
            .build();
        let (ours, theirs) = tokio::io::duplex(4096);
        let upgrade = Some(Box::new(AuthRequest::renewal()));
        let session = Session::new(server.clone(), server.connection(Protocol::V2), upgrade);
        let place = server.admit_socket().unwrap();
        let served = tokio::spawn(run(ours, Bytes::new(), server, session, place));

        let mut client = WebSocketStream::from_raw_socket(theirs, Role::Client, None).await;
        let token = json!({ "token": "x" }).to_string();
        let mut frame = vec![datasole_core::frame::Opcode::Auth as u8, 0, 0, 0, 1, 0, 0, 0, token.len() as u8];
        frame.extend_from_slice(token.as_bytes());
        client.send(Message::Binary(frame.into())).await.unwrap();
        let mut last = None;
        while let Some(Ok(message)) = client.next().await {
            last = Some(message);
        }
        let Some(Message::Close(Some(close))) = last else { panic!("{last:?}") };
        assert_eq!(close.code, CloseCode::Library(4002));
        drop(client);
        served.await.unwrap();
    }
}
