//! [`Peer`]: one client of the server, over a transport of the host's own.
//!
//! It does for any transport what `transport` does for WebSockets, without a socket and without waiting. Signs of life
//! are the host's: a peer never grows tired of a silent client.

use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered, task::noop_waker_ref};
use tokio::time::Instant;

use super::Server;
use crate::{
    auth::Identity,
    connection::Protocol,
    message::Outgoing,
    protocol::{Seat, Session},
    task::Task,
};

/// One client of a [`Server`], over a transport of your own: pass what it sends to [`receive`](Self::receive), then send
/// it what [`poll_message`](Self::poll_message) yields until there is nothing, then look at [`closing`](Self::closing).
/// Dropping it ends the connection.
///
/// Nothing wakes the host: other clients, handlers under way and the application may have queued a message at any time,
/// so it asks again after whatever may have. Handlers that use tokio's timers or sockets need its runtime around these
/// calls.
///
/// ```
/// use datasole_core::frame::{Codec, Opcode};
/// use datasole_server::{Context, Identity, Protocol, Server};
///
/// let server = Server::builder().rpc("double", |_: Context, n: i64| async move { Ok(2 * n) }).build();
/// let mut peer = server.peer(Protocol::V1, Identity::user("ann"));
/// let call = br#"{"method":"double","params":21,"correlationId":1}"#;
/// peer.receive(&Codec::default().encode(Opcode::RpcRequest, 1, call, 256));
///
/// let answer = peer.poll_message().unwrap_or_default();
/// let frame = datasole_core::frame::decode(&answer, 1_024)?;
/// assert_eq!((frame.opcode, frame.correlation), (Opcode::RpcResponse, 1));
/// assert_eq!(frame.payload, br#"{"correlationId":1,"result":42}"#);
/// assert!(peer.poll_message().is_none() && peer.closing().is_none());
/// # Ok::<(), datasole_core::frame::FrameError>(())
/// ```
pub struct Peer {
    session: Session,
    /// Handlers under way.
    tasks: FuturesUnordered<Task>,
    /// Messages, each behind its length, as the session and its mailbox hand them out.
    out: Outgoing,
    /// How much of `out` has been yielded.
    taken: usize,
    /// Given back when the connection is gone.
    _seat: Option<Seat>,
}

impl std::fmt::Debug for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peer").field("connection", self.session.connection()).finish_non_exhaustive()
    }
}

impl Server {
    /// Connects a client that has been authenticated. Where there is no place for it
    /// ([`Limits::max_connections`](crate::Limits::max_connections)) or the server is shutting down, it is told to close
    /// at once.
    pub fn peer(&self, protocol: Protocol, identity: Identity) -> Peer {
        let node = self.node().clone();
        let connection = node.connection(protocol, None);
        let seat = node.seat();
        let mut tasks = FuturesUnordered::new();
        if seat.is_some() {
            tasks.extend(node.welcome(&connection, identity));
        } else {
            connection.mailbox().close(1013, "too many connections");
        }
        Peer { session: Session::new(node, connection, None), tasks, out: Outgoing::new(length), taken: 0, _seat: seat }
    }
}

/// Writes a length before each message.
fn length(out: &mut Vec<u8>, length: usize) {
    out.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
}

impl Peer {
    /// Takes one message of the client: one datasole frame, compressed or not. A message that makes no sense is answered
    /// or dropped, as the protocol wants it.
    ///
    /// The answers are not bounded by [`Limits::max_queue`](crate::Limits::max_queue): do not read on from a client that
    /// does not read them.
    pub fn receive(&mut self, message: &[u8]) {
        let spawn = &mut |task| self.tasks.push(task);
        self.session.receive(message, &mut self.out, spawn);
        while self.session.is_busy() {
            self.session.go_on(&mut self.out, spawn);
        }
        self.run_tasks();
    }

    /// The next message for the client. What it has not been given yet waits within
    /// [`Limits::max_queue`](crate::Limits::max_queue).
    pub fn poll_message(&mut self) -> Option<Vec<u8>> {
        self.run_tasks();
        if self.taken == self.out.len() {
            self.out.bytes.clear();
            self.taken = 0;
            // Room for one byte: one message. The rest stays where it can be conflated.
            self.session.connection().mailbox().drain(&mut self.out, 1);
        }
        let (length, rest) = self.out.bytes[self.taken..].split_first_chunk::<4>()?;
        let message = rest.get(..u32::from_be_bytes(*length) as usize)?.to_vec();
        self.taken += 4 + message.len();
        Some(message)
    }

    /// Whether to close the connection: the code and the reason. What [`poll_message`](Self::poll_message) still yields
    /// comes before.
    pub fn closing(&self) -> Option<(u16, String)> {
        let connection = self.session.connection();
        if connection.expires().is_some_and(|at| at <= Instant::now()) {
            return Some((datasole_core::wire::CLOSE_UNAUTHORIZED, "expired".into()));
        }
        connection.mailbox().closing().map(|close| (close.code, close.reason))
    }

    /// The connection's id, as HELLO tells it the client.
    pub fn connection_id(&self) -> String {
        self.session.connection().id()
    }

    /// Ends the connection: it leaves every stream and room, and the handlers of its calls are dropped. Dropping the peer
    /// does the same, but does not wait for a backend that takes its time to let go of a stream.
    pub async fn end(mut self) {
        if let Some(task) = self.session.end().await {
            task.await;
        }
    }

    /// Runs handlers as far as they come.
    fn run_tasks(&mut self) {
        let mut cx = std::task::Context::from_waker(noop_waker_ref());
        while let std::task::Poll::Ready(Some(())) = self.tasks.poll_next_unpin(&mut cx) {}
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // After `end` there is nothing left to let go of.
        let _ = self.session.end().now_or_never();
    }
}

#[cfg(test)]
mod tests {
    use datasole_core::{
        StreamKind,
        frame::{Codec, Opcode},
    };
    use serde_json::json;

    use super::*;
    use crate::{Context, Limits};

    fn opcodes(peer: &mut Peer) -> Vec<Opcode> {
        std::iter::from_fn(|| peer.poll_message())
            .map(|message| {
                crate::message::with_codec(|codec| {
                    codec.decode(&message, &datasole_core::Limits::default()).unwrap().opcode
                })
            })
            .collect()
    }

    fn send(peer: &mut Peer, opcode: Opcode, correlation: u32, payload: &[u8]) {
        peer.receive(&Codec::default().encode(opcode, correlation, payload, 256));
    }

    #[test]
    fn messages_of_every_length_come_one_by_one() {
        let server = Server::builder().rpc("echo", |_: Context, x: serde_json::Value| async move { Ok(x) }).build();
        let mut peer = server.peer(Protocol::V1, Identity::anonymous());
        for length in [0, 60, 70, 200, 70_000] {
            let text = "x".repeat(length);
            server.state().set("k", &json!([length, text])).now_or_never().unwrap().unwrap();
            let call = format!(r#"{{"method":"echo","params":"{text}","correlationId":1}}"#);
            send(&mut peer, Opcode::RpcRequest, 1, call.as_bytes());
        }
        assert_eq!(opcodes(&mut peer), [Opcode::StateSnapshot, Opcode::RpcResponse].repeat(5));
    }

    #[test]
    fn a_handler_that_waits_is_run_on() {
        let server = Server::builder()
            .rpc("twice", |_: Context, (): ()| async move {
                tokio::task::yield_now().await;
                Ok(2)
            })
            .rpc("never", |_: Context, (): ()| std::future::pending::<Result<(), _>>())
            .build();
        let mut peer = server.peer(Protocol::V2, Identity::anonymous());
        for (id, method) in [(1, "twice"), (2, "never")] {
            let call = format!(r#"{{"method":"{method}","params":null,"correlationId":{id}}}"#);
            send(&mut peer, Opcode::RpcRequest, id, call.as_bytes());
        }
        assert_eq!(opcodes(&mut peer), [Opcode::Hello, Opcode::RpcResponse]);
        assert_eq!(opcodes(&mut peer), []);
    }

    #[test]
    fn ends_with_its_place_its_streams_and_its_rooms() {
        let server = Server::builder().limits(Limits { max_connections: 1, ..Limits::default() }).build();
        let mut peer = server.peer(Protocol::V2, Identity::user("ann"));
        send(&mut peer, Opcode::Subscribe, 1, br#"{"kind":"state","key":"k"}"#);
        assert_eq!(opcodes(&mut peer), [Opcode::Hello, Opcode::Subscribed, Opcode::StateSnapshot]);
        server.to_user("ann").emit("note", &1).now_or_never().unwrap().unwrap();
        assert_eq!(opcodes(&mut peer), [Opcode::ServerEvent]);
        let surplus = server.peer(Protocol::V2, Identity::user("bob"));
        assert_eq!(surplus.closing(), Some((1013, "too many connections".into())));
        drop(surplus);
        assert!(server.node().hub.known(StreamKind::State, "k").is_some());
        drop(peer);
        assert!(server.node().hub.known(StreamKind::State, "k").is_none());
        assert_eq!(server.connection_count(), 0);
    }
}
