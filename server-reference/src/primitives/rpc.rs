//! Calls: handlers by name, and what they are given.

use std::{any::TypeId, collections::HashMap, panic::AssertUnwindSafe, sync::Arc};

use datasole_core::{Payload, codes};
use futures_util::{FutureExt, future::BoxFuture};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::value::{RawValue, to_raw_value};

use crate::{auth::Identity, connection::Connection, error::RpcError, mailbox::lock, server::Server};

/// What a handler knows of its caller, beside the parameters.
#[derive(Clone)]
pub struct Context {
    server: Server,
    connection: Arc<Connection>,
    identity: Arc<Identity>,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context")
            .field("connection", &self.connection.id())
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

impl Context {
    pub(crate) fn new(server: Server, connection: Arc<Connection>, identity: Arc<Identity>) -> Self {
        Self { server, connection, identity }
    }

    /// The server: states, events, rooms.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// Who calls.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The connection's id, as HELLO tells it the client.
    pub fn connection_id(&self) -> String {
        self.connection.id()
    }

    /// Enters the connection in a room; it leaves when it ends.
    ///
    /// # Errors
    ///
    /// When it is in [`Limits::max_rooms`](crate::Limits::max_rooms) rooms already, or has ended.
    pub fn join(&self, room: &str) -> Result<(), RpcError> {
        if self.server.hub().join_room(&self.connection, room) {
            return Ok(());
        }
        Err(RpcError::new("in too many rooms, or gone").code(codes::LIMIT))
    }

    /// Takes the connection out of a room.
    pub fn leave(&self, room: &str) {
        self.server.hub().leave_room(&self.connection, room);
    }

    /// Puts a value of the application's beside the connection, one of each type; the previous one is returned.
    pub fn insert<T: Clone + Send + Sync + 'static>(&self, value: T) -> Option<T> {
        lock(self.connection.store()).insert(value)
    }

    /// The value of that type beside the connection.
    pub fn get<T: Clone + Send + Sync + 'static>(&self) -> Option<T> {
        lock(self.connection.store()).get().cloned()
    }
}

/// What came with a call or an event, borrowed from the message.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Incoming<'a> {
    Json(&'a RawValue),
    Binary(&'a [u8]),
}

impl Incoming<'_> {
    pub(crate) fn to_payload(self) -> Payload {
        match self {
            Incoming::Json(text) => Payload::Json(text.to_owned()),
            Incoming::Binary(bytes) => Payload::Binary(bytes.to_vec()),
        }
    }

    pub(crate) fn parse<T: DeserializeOwned>(self) -> Result<T, RpcError> {
        match self {
            Incoming::Json(text) => {
                serde_json::from_str(text.get()).map_err(|error| RpcError::invalid_params(error.to_string()))
            }
            Incoming::Binary(_) => Err(RpcError::invalid_params("this method takes JSON, not bytes")),
        }
    }
}

pub(crate) type Outcome = Result<Payload, RpcError>;
pub(crate) type RpcHandler = Box<dyn Fn(Context, Incoming<'_>) -> BoxFuture<'static, Outcome> + Send + Sync>;

/// Handlers by method.
#[derive(Default)]
pub(crate) struct Methods(HashMap<String, RpcHandler>);

impl Methods {
    pub(crate) fn typed<P, R, F, Fut>(&mut self, name: String, f: F)
    where
        P: DeserializeOwned,
        R: Serialize + 'static,
        F: Fn(Context, P) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R, RpcError>> + Send + 'static,
    {
        let handler = move |context, incoming: Incoming<'_>| match incoming.parse() {
            Ok(params) => {
                let result = f(context, params);
                async move { to_payload(&result.await?) }.boxed()
            }
            Err(error) => std::future::ready(Err(error)).boxed(),
        };
        self.0.insert(name, Box::new(handler));
    }

    pub(crate) fn raw<F, Fut>(&mut self, name: String, f: F)
    where
        F: Fn(Context, Payload) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Outcome> + Send + 'static,
    {
        self.0.insert(name, Box::new(move |context, incoming| f(context, incoming.to_payload()).boxed()));
    }

    /// Starts a handler. A panic in it is the caller's error and nobody else's.
    pub(crate) fn call(&self, name: &str, context: Context, params: Incoming<'_>) -> BoxFuture<'static, Outcome> {
        let Some(handler) = self.0.get(name) else {
            let error = RpcError::new(format!("Method not found: {name}")).code(codes::METHOD_NOT_FOUND);
            return std::future::ready(Err(error)).boxed();
        };
        match std::panic::catch_unwind(AssertUnwindSafe(|| handler(context, params))) {
            Ok(future) => future,
            Err(_) => std::future::ready(Err(panicked())).boxed(),
        }
    }
}

pub(crate) fn panicked() -> RpcError {
    RpcError::new("internal error").code(codes::INTERNAL)
}

/// A unit result is void on the wire; everything else is JSON.
fn to_payload<R: Serialize + 'static>(result: &R) -> Outcome {
    if TypeId::of::<R>() == TypeId::of::<()>() {
        return Ok(Payload::Empty);
    }
    to_raw_value(result)
        .map(Payload::Json)
        .map_err(|error| RpcError::new(format!("the result cannot be written as JSON: {error}")).code(codes::INTERNAL))
}
