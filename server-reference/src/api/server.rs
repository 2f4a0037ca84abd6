//! [`Server`]: the handle that applications hold.

use std::{io, sync::Arc};

use axum::Router;
use datasole_core::Payload;
use serde::Serialize;
use serde_json::value::to_raw_value;
use tokio::net::TcpListener;

#[cfg(feature = "docs")]
use crate::primitives::docs::Docs;
use crate::{
    hub::Audience,
    metrics::MetricsSnapshot,
    primitives::{
        crdt::Crdts,
        events::{self, EventError, Target},
        presence::Presence,
        state::State,
    },
    protocol::Node,
    transport,
};

/// A datasole server. Cloning yields another handle to the same one.
///
/// ```no_run
/// use datasole_server::{Context, Server};
/// # async fn example() -> std::io::Result<()> {
/// let server = Server::builder().rpc("echo", |_: Context, x: serde_json::Value| async move { Ok(x) }).build();
/// let app = axum::Router::new().merge(server.router());
/// axum::serve(tokio::net::TcpListener::bind("127.0.0.1:4000").await?, app).await
/// # }
/// ```
#[derive(Clone)]
pub struct Server {
    node: Arc<Node>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server")
            .field("path", &self.node.path)
            .field("open", &self.connection_count())
            .finish_non_exhaustive()
    }
}

impl Server {
    /// The live states.
    pub fn state(&self) -> State<'_> {
        State::new(&self.node.hub)
    }

    /// The CRDTs.
    pub fn crdt(&self) -> Crdts<'_> {
        Crdts::new(&self.node.hub, &self.node.crdts)
    }

    /// A presence room and its members.
    ///
    /// ```
    /// # async fn example(server: datasole_server::Server) {
    /// for member in server.presence("lobby").list().await {
    ///     println!("{} is here: {}", member.user_id, member.value);
    /// }
    /// # }
    /// ```
    pub fn presence<'a>(&'a self, room: &'a str) -> Presence<'a> {
        Presence::new(&self.node.hub, room)
    }

    /// The shared documents.
    #[cfg(feature = "docs")]
    pub fn docs(&self) -> Docs<'_> {
        Docs::new(&self.node.hub, &self.node.docs)
    }

    /// Publishes an event to all subscribers of its topic, and to every version 1 client, on every node. A topic without
    /// history is a stream of its own on each node, where events of other nodes arrive at most once.
    ///
    /// # Errors
    ///
    /// Fails if the event does not fit in a frame or cannot be written as JSON, or if the backend of its history fails.
    pub async fn broadcast(&self, event: &str, data: &impl Serialize) -> Result<(), EventError> {
        self.broadcast_payload(event, Payload::Json(to_raw_value(data)?)).await
    }

    /// Like [`broadcast`](Self::broadcast), with JSON text or raw bytes.
    ///
    /// # Errors
    ///
    /// As [`broadcast`](Self::broadcast).
    pub async fn broadcast_payload(&self, event: &str, data: Payload) -> Result<(), EventError> {
        events::broadcast(&self.node.hub, &self.node.histories, event, data).await
    }

    /// The connections of a group, on every node (see [`Context::join_group`](crate::Context::join_group)). The application makes
    /// groups; clients enter the rooms of [`presence`](Self::presence).
    pub fn to_group<'a>(&'a self, group: &'a str) -> Target<'a> {
        Target::new(&self.node.hub, Audience::Group(group))
    }

    /// All connections of a user, on every node. Other nodes know of a new connection shortly after its HELLO.
    pub fn to_user<'a>(&'a self, user_id: &'a str) -> Target<'a> {
        Target::new(&self.node.hub, Audience::User(user_id))
    }

    /// The connection with this id, of any node.
    pub fn to_connection<'a>(&'a self, connection_id: &'a str) -> Target<'a> {
        Target::new(&self.node.hub, Audience::Connection(connection_id))
    }

    /// Ends a connection of any node, if there is one of this id, with a close code (1000, 1008, or 4000–4999 of the
    /// application's).
    pub async fn disconnect(&self, connection_id: &str, code: u16, reason: &str) {
        self.node.hub.disconnect(connection_id, code, reason).await;
    }

    /// Connections open now, those not yet authenticated included.
    pub fn connection_count(&self) -> usize {
        self.node.connection_count()
    }

    /// The server's counters since it started.
    pub fn metrics_snapshot(&self) -> MetricsSnapshot {
        self.node.metrics_snapshot()
    }

    /// Closes every connection with 1001 and waits until all are gone, at most
    /// [`Limits::close_timeout`](crate::Limits::close_timeout). New ones are refused from now on.
    pub async fn shutdown(&self) {
        self.node.shutdown().await;
    }

    /// Routes for the endpoint, the browser assets and `health`, all at and below the server's path. Mount them in any
    /// axum app with `merge`.
    pub fn router(&self) -> Router {
        transport::router(self.node.clone())
    }

    /// Serves `router` (this server's, merged into whatever else there is) on a listener until [`shutdown`] is called.
    ///
    /// Beyond `axum::serve`, it bounds the time a client may take for its request, knows the peers' addresses, and
    /// ends when the server shuts down.
    ///
    /// # Errors
    ///
    /// Fails if the listener's own address cannot be read; a failing `accept` is tried again.
    ///
    /// [`shutdown`]: Server::shutdown
    pub async fn serve(&self, listener: &TcpListener, router: Router) -> io::Result<()> {
        transport::serve(&self.node, listener, router).await
    }

    pub(super) fn of(node: Arc<Node>) -> Self {
        Self { node }
    }

    pub(crate) fn node(&self) -> &Arc<Node> {
        &self.node
    }
}
