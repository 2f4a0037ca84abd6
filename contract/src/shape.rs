//! The traits that [`contract!`](crate::contract) implements: a name, and the types that belong to it.

use std::{borrow::Cow, fmt};

use serde::{Serialize, de::DeserializeOwned};
use ts_rs::TS;

use crate::{Collector, crdt::CrdtType};

/// A whole contract.
pub trait Contract: 'static {
    /// The name in Rust; `{NAME}Contract` in TypeScript.
    const NAME: &'static str;

    /// Hands every entry over.
    fn collect(to: &mut Collector);
}

/// The parameters of a call, which name the method and its result.
pub trait Method: Serialize + DeserializeOwned + TS + Send + 'static {
    /// The method's name on the wire.
    const NAME: &'static str;
    /// The result.
    type Output: Serialize + DeserializeOwned + TS + Send + 'static;
    /// The `data` of the method's own errors; `()` if it has none.
    type Error: Serialize + DeserializeOwned + TS + Send + 'static;

    /// Checks what a type cannot say. The server calls it before the handler.
    ///
    /// # Errors
    ///
    /// [`Invalid`] goes to the caller as invalid parameters (-32602).
    fn check(&self) -> Result<(), Invalid> {
        Ok(())
    }
}

/// The data of an event, which name it.
pub trait Event: Serialize + DeserializeOwned + TS + Send + 'static {
    /// The event's name on the wire.
    const NAME: &'static str;
    /// Who sends it.
    const DIRECTION: Direction;
}

/// The senders of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Clients.
    Up,
    /// The server.
    Down,
    /// Clients and the server.
    Both,
}

/// The key of a live state, or of a family of states such as `board:{id}`.
pub trait Key {
    /// The key with its fields in braces.
    const PATTERN: &'static str;
    /// The state's value.
    type Value: Serialize + DeserializeOwned + TS + Send + 'static;

    /// The key on the wire.
    fn key(&self) -> Cow<'static, str>;
}

/// The key of a CRDT.
pub trait CrdtKey {
    /// The key with its fields in braces.
    const PATTERN: &'static str;
    /// The CRDT's type, with that of its values.
    type Type: CrdtType;

    /// The key on the wire.
    fn key(&self) -> Cow<'static, str>;
}

/// The name of a presence room.
pub trait RoomKey {
    /// The room with its fields in braces.
    const PATTERN: &'static str;
    /// The value that each member shows.
    type Value: Serialize + DeserializeOwned + TS + Send + 'static;

    /// The room on the wire.
    fn key(&self) -> Cow<'static, str>;
}

/// The key of a document.
pub trait DocKey {
    /// The key with its fields in braces.
    const PATTERN: &'static str;

    /// The key on the wire.
    fn key(&self) -> Cow<'static, str>;
}

/// The reason why parameters are refused that have the right types.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// A JSON Pointer (RFC 6901) to the part that is meant.
    pub path: String,
    /// A sentence for the caller.
    pub message: String,
}

impl Invalid {
    /// `path` is a JSON Pointer (RFC 6901), empty for the whole.
    pub fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { path: path.into(), message: message.into() }
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

impl std::error::Error for Invalid {}
