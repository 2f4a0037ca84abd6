//! [`Peer`]: one client of the server, over a transport of the host's own.
//!
//! A peer connects any transport to the server as `transport` connects WebSockets, without a socket and without
//! waiting. The host keeps the heartbeat: a peer never drops a silent client.

use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered, task::noop_waker_ref};
use tokio::time::Instant;

use super::Server;
use crate::{admission::Seat, auth::Identity, connection::Protocol, message::Outgoing, protocol::Session, task::Task};

/// A client of a [`Server`] over a transport of your own. Pass each message of the client to
/// [`receive`](Self::receive), send the messages of [`poll_message`](Self::poll_message) until it returns `None`, then
/// check [`closing`](Self::closing). Dropping the peer ends the connection.
///
/// A peer does not wake the host. Other clients, running handlers and the application may queue messages at any time,
/// so poll after everything that may have queued one. Handlers that use tokio's timers or sockets need its runtime
/// around these calls.
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
    /// Connects an authenticated client. Over [`Limits::max_connections`](crate::Limits::max_connections) and during
    /// shutdown, [`Peer::closing`] returns a close code at once.
    pub fn peer(&self, protocol: Protocol, identity: Identity) -> Peer {
        let node = self.node().clone();
        let connection = node.connection(protocol, None);
        let seat = node.seat(None).ok();
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
    /// Takes one message of the client: one datasole frame, compressed or not. A malformed message is answered or
    /// dropped, as the protocol prescribes.
    ///
    /// The answers are not bounded by [`Limits::max_queue`](crate::Limits::max_queue): do not read on from a client
    /// that does not read them.
    pub fn receive(&mut self, message: &[u8]) {
        let spawn = &mut |task| self.tasks.push(task);
        self.session.receive(message, &mut self.out, spawn);
        while self.session.is_busy() {
            self.session.go_on(&mut self.out, spawn);
        }
        self.run_tasks();
    }

    /// The next message for the client. Messages not polled yet count toward
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

    /// The close code and reason, if the connection is to be closed. Send the remaining messages of
    /// [`poll_message`](Self::poll_message) first.
    pub fn closing(&self) -> Option<(u16, String)> {
        let connection = self.session.connection();
        if connection.expires().is_some_and(|at| at <= Instant::now()) {
            return Some((datasole_core::wire::CLOSE_UNAUTHORIZED, "expired".into()));
        }
        connection.mailbox().closing().map(|close| (close.code, close.reason))
    }

    /// The connection's id, as in HELLO.
    pub fn connection_id(&self) -> String {
        self.session.connection().id()
    }

    /// Ends the connection: it leaves every stream and room, and the handlers of its calls are dropped. Dropping the
    /// peer does the same, but does not wait for a backend that takes its time to let go of a stream.
    pub async fn end(mut self) {
        if let Some(task) = self.session.end().await {
            task.await;
        }
    }

    /// Runs handlers up to their next wait.
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
