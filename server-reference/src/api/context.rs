//! [`Context`]: a handler's view of the server, its connection and its user.

use std::{any::TypeId, collections::BTreeMap, net::SocketAddr, sync::Arc, time::SystemTime};

use datasole_core::codes;

use super::Server;
use crate::{
    auth::Identity,
    connection::{self, Protocol},
    error::RpcError,
    protocol::Caller,
    sync::lock,
};

/// The server, the connection and the user of a call or an event; a handler gets it beside the parameters.
#[derive(Clone)]
pub struct Context {
    server: Server,
    connection: Connection,
    identity: Arc<Identity>,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context")
            .field("connection", &self.connection)
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

impl From<Caller> for Context {
    fn from(caller: Caller) -> Self {
        let Caller { node, connection, identity } = caller;
        Self { server: Server::of(node), connection: Connection(connection), identity }
    }
}

impl Context {
    /// The server: states, events, groups.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// The application's own data of this type, as [`Builder::data`](crate::Builder::data) was given it.
    ///
    /// ```
    /// use datasole_server::{Context, Server};
    /// struct Prices { milk: u32 }
    /// let server = Server::builder()
    ///     .data(Prices { milk: 3 })
    ///     .rpc("milk", |context: Context, (): ()| async move { Ok(context.data::<Prices>()?.milk) })
    ///     .build();
    /// # drop(server);
    /// ```
    ///
    /// # Errors
    ///
    /// Fails if there is none of that type; the client learns only that the server failed.
    pub fn data<T: Send + Sync + 'static>(&self) -> Result<&T, RpcError> {
        let data = self.server.node().data.get(&TypeId::of::<T>()).and_then(|data| data.downcast_ref());
        data.ok_or_else(|| {
            tracing::error!(r#type = std::any::type_name::<T>(), "the server was built without such data");
            RpcError::new("internal error").code(codes::INTERNAL)
        })
    }

    /// The user who calls.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The connection on which the call or event arrived.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// The connection's id, as in HELLO.
    pub fn connection_id(&self) -> String {
        self.connection.id()
    }

    /// Puts the connection into a group (see [`Server::to_group`]); it leaves when it ends.
    ///
    /// # Errors
    ///
    /// Fails if the connection is in [`Limits::max_groups`](crate::Limits::max_groups) groups already, or has ended.
    pub async fn join_group(&self, group: &str) -> Result<(), RpcError> {
        if self.server.node().hub.join_group(&self.connection.0, group).await {
            return Ok(());
        }
        Err(RpcError::new("too many groups, or the connection has ended").code(codes::LIMIT))
    }

    /// Takes the connection out of a group.
    pub async fn leave_group(&self, group: &str) {
        self.server.node().hub.leave_group(&self.connection.0, group);
    }

    /// Puts a value of the application's beside the connection, one of each type; the previous one is returned.
    pub fn insert<T: Clone + Send + Sync + 'static>(&self, value: T) -> Option<T> {
        lock(&self.connection.0.own().values).insert(value)
    }

    /// The value of that type beside the connection.
    pub fn get<T: Clone + Send + Sync + 'static>(&self) -> Option<T> {
        lock(&self.connection.0.own().values).get().cloned()
    }
}

/// One client's connection; from [`Context::connection`].
#[derive(Clone)]
pub struct Connection(Arc<connection::Connection>);

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("id", &self.id()).finish_non_exhaustive()
    }
}

impl Connection {
    /// The connection's id, as in HELLO; unique across restarts of the server.
    pub fn id(&self) -> String {
        self.0.id()
    }

    /// The version that the client speaks.
    pub fn protocol(&self) -> Protocol {
        self.0.protocol()
    }

    /// The client's address: the peer of the socket or, behind a [trusted proxy](crate::Builder::trust_proxy), the one that
    /// the proxy names, with port 0; `None` without a socket.
    pub fn remote_addr(&self) -> Option<SocketAddr> {
        self.0.remote()
    }

    /// The time at which the connection was opened.
    pub fn connected_at(&self) -> SystemTime {
        self.0.since()
    }

    /// Sets a tag; the value it had before is returned.
    pub fn set_tag(&self, name: impl Into<String>, value: impl Into<String>) -> Option<String> {
        lock(&self.0.own().tags).insert(name.into(), value.into())
    }

    /// The value of a tag.
    pub fn tag(&self, name: &str) -> Option<String> {
        lock(&self.0.own().tags).get(name).cloned()
    }

    /// Removes a tag; the value it had is returned.
    pub fn remove_tag(&self, name: &str) -> Option<String> {
        lock(&self.0.own().tags).remove(name)
    }

    /// All tags.
    pub fn tags(&self) -> BTreeMap<String, String> {
        lock(&self.0.own().tags).clone()
    }
}
