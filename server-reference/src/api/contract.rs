//! Servers by contract: handlers whose names follow from their types, and states by typed keys.

use datasole_contract::{Contract, ContractError, Event, Key, Method};
use datasole_core::{Position, codes};

use super::{Builder, Context, Server};
use crate::{
    contract::Published,
    error::RpcError,
    primitives::{
        events::{EventError, EventOutcome, Target},
        state::{Draft, StateError},
    },
};

/// The reason why a server does not offer what its contract says.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ContractMismatch {
    /// The types are no contract.
    #[error(transparent)]
    Contract(#[from] ContractError),
    /// Methods, or events that clients send, have no handler.
    #[error("the contract {contract} names what has no handler: {}", names.join(", "))]
    Missing {
        /// The contract.
        contract: String,
        /// `rpc NAME` and `event NAME`.
        names: Vec<String>,
    },
}

impl Builder {
    /// Binds the server to a contract. Builds with debug assertions serve it as `contract.ts` and `contract.json` below the
    /// server's path. [`try_build`](Self::try_build) fails if a method, or an event that clients send, has no handler;
    /// [`build`](Self::build) logs it. A handler that the contract does not name is logged.
    ///
    /// ```
    /// use datasole_contract::{TS, contract};
    /// use datasole_server::{Context, RpcError, Server};
    /// use serde::{Deserialize, Serialize};
    ///
    /// #[derive(Serialize, Deserialize, TS)]
    /// pub struct Add { a: i32, b: i32 }
    /// #[derive(Serialize, Deserialize, TS)]
    /// pub struct Board { votes: u32 }
    /// contract! { pub App { rpc { Add = "add" -> i32; } state { Dashboard = "dashboard" => Board; } } }
    ///
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// let server = Server::builder()
    ///     .contract::<App>()
    ///     .method(|_: Context, add: Add| async move { Ok(add.a + add.b) })
    ///     .try_build()?;
    /// server.at(Dashboard).set(&Board { votes: 0 }).await?;
    /// server.at(Dashboard).patch(|board| board.votes += 1).await?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn contract<C: Contract>(mut self) -> Self {
        self.contract = Some(Published::of::<C>());
        self
    }

    /// Registers the handler of a contract's method: the type of its parameter names it. See [`rpc`](Self::rpc).
    /// Parameters that [`Method::check`] refuses do not reach the handler.
    #[must_use]
    pub fn method<M, F, Fut>(self, handler: F) -> Self
    where
        M: Method,
        F: Fn(Context, M) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<M::Output, RpcError>> + Send + 'static,
    {
        self.rpc(M::NAME, move |context, params: M| {
            let answer = match params.check() {
                Ok(()) => Ok(handler(context, params)),
                Err(invalid) => {
                    let message = if invalid.path.is_empty() { invalid.message.clone() } else { invalid.to_string() };
                    let path = serde_json::json!({ "path": invalid.path });
                    Err(RpcError::new(message).code(codes::INVALID_PARAMS).data(&path))
                }
            };
            async move { answer?.await }
        })
    }

    /// Registers the handler of a contract's event: the type of its data names it. See [`on`](Self::on).
    #[must_use]
    pub fn event<E, F, Fut>(self, handler: F) -> Self
    where
        E: Event,
        F: Fn(Context, E) -> Fut + Send + Sync + 'static,
        Fut: Future<Output: EventOutcome> + Send + 'static,
    {
        self.on(E::NAME, handler)
    }

    /// The server, if it offers what its contract says.
    ///
    /// # Errors
    ///
    /// Fails if the types are no contract, or something that the contract names has no handler.
    pub fn try_build(self) -> Result<Server, ContractMismatch> {
        match self.contract.as_ref() {
            Some(Err(error)) => return Err(error.clone().into()),
            Some(Ok(contract)) => {
                let names = self.missing(contract);
                if !names.is_empty() {
                    return Err(ContractMismatch::Missing { contract: contract.description.name.clone(), names });
                }
            }
            None => {}
        }
        Ok(self.build())
    }

    /// Logs what does not fit.
    pub(super) fn tell_mismatch(&self) {
        let contract = match &self.contract {
            None => return,
            Some(Err(error)) => return tracing::error!(%error, "the server has no contract"),
            Some(Ok(contract)) => contract,
        };
        let names = self.missing(contract);
        if !names.is_empty() {
            tracing::error!(contract = contract.description.name, ?names, "the contract names what has no handler");
        }
        let mut more: Vec<&str> =
            self.methods.names().filter(|&name| !contract.description.rpc.contains_key(name)).collect();
        more.extend(self.handlers.names().filter(|&name| !contract.description.events.contains_key(name)));
        if !more.is_empty() {
            more.sort_unstable();
            tracing::warn!(contract = contract.description.name, names = ?more, "handlers that the contract does not name");
        }
    }

    /// The methods and events of a contract without a handler.
    fn missing(&self, contract: &Published) -> Vec<String> {
        let methods = contract.description.rpc.keys().filter(|name| !self.methods.has(name));
        let events =
            contract.description.events.iter().filter(|(name, event)| event.shape.up && !self.handlers.has(name));
        methods.map(|name| format!("rpc {name}")).chain(events.map(|(name, _)| format!("event {name}"))).collect()
    }
}

impl Server {
    /// Publishes a contract's event to all subscribers. See [`broadcast`](Self::broadcast).
    ///
    /// # Errors
    ///
    /// As [`broadcast`](Self::broadcast).
    pub async fn publish<E: Event>(&self, event: &E) -> Result<(), EventError> {
        self.broadcast(E::NAME, event).await
    }

    /// The live state of a contract's key.
    pub fn at<K: Key>(&self, key: K) -> At<'_, K> {
        At { server: self, key }
    }
}

impl Target<'_> {
    /// Sends a contract's event to the receivers. See [`emit`](Self::emit).
    ///
    /// # Errors
    ///
    /// As [`emit`](Self::emit).
    pub async fn send<E: Event>(self, event: &E) -> Result<(), EventError> {
        self.emit(E::NAME, event).await
    }
}

/// The live state of a contract's key; from [`Server::at`].
#[derive(Clone, Copy, Debug)]
pub struct At<'a, K> {
    server: &'a Server,
    key: K,
}

impl<K: Key> At<'_, K> {
    /// The value; `None` where there is none.
    ///
    /// # Errors
    ///
    /// Fails if the backend fails, or the value is not of the key's type.
    pub async fn get(&self) -> Result<Option<K::Value>, StateError> {
        self.server.state().get_as(&self.key.key()).await
    }

    /// Sets the value. Clients receive the difference, or the whole if that is shorter.
    ///
    /// # Errors
    ///
    /// A value that would not fit in a frame is refused and not stored.
    pub async fn set(&self, value: &K::Value) -> Result<Position, StateError> {
        self.server.state().set(&self.key.key(), value).await
    }

    /// Changes the value in place. Clients receive the difference. See [`State::edit`](crate::State::edit).
    ///
    /// # Errors
    ///
    /// Fails if there is no value, or the new one would not fit in a frame; nothing is changed then.
    pub async fn patch(&self, mut f: impl FnMut(&mut K::Value) + Send) -> Result<Position, StateError> {
        let edit = |value: &mut K::Value| {
            f(value);
            Ok(())
        };
        self.server.state().edit(&self.key.key(), edit).await
    }

    /// Changes the value by JSON Pointers, without comparing values. See [`State::update`](crate::State::update).
    ///
    /// # Errors
    ///
    /// As [`State::update`](crate::State::update).
    pub async fn update<F>(&self, f: F) -> Result<Position, StateError>
    where
        F: FnMut(&mut Draft<'_>) -> Result<(), StateError> + Send,
    {
        self.server.state().update(&self.key.key(), f).await
    }

    /// Removes the state.
    ///
    /// # Errors
    ///
    /// Fails if the backend fails. A state that does not exist is no error.
    pub async fn remove(&self) -> Result<(), StateError> {
        self.server.state().remove(&self.key.key()).await
    }
}
