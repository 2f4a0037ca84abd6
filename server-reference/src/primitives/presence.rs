//! Presence: who is in a room, and with what value. Nothing is stored.

use std::sync::Arc;

use datasole_core::codes;
use serde_json::value::{RawValue, to_raw_value};

use crate::{
    connection::Connection,
    hub::Stream,
    session::{Request, Task},
};

/// Those in a room.
#[derive(Debug, Default)]
pub(crate) struct Room {}

impl Room {
    pub(crate) fn is_empty(&self) -> bool {
        true
    }

    /// Everybody, as `members` of PRESENCE.
    pub(crate) fn whole(&self) -> Option<Box<RawValue>> {
        to_raw_value(&[(); 0]).ok()
    }
}

/// Serves a PRESENCE frame.
pub(crate) fn receive(request: Request, _payload: &[u8]) -> Option<Task> {
    request.refuse(codes::NOT_FOUND, "this server has no presence rooms", None);
    None
}

/// The connection has ended: it leaves every room; those rooms, to be released.
pub(crate) fn leave(_connection: &Arc<Connection>) -> Vec<Arc<Stream>> {
    Vec::new()
}
