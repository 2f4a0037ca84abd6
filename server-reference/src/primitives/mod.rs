//! What applications use: calls, events and live state, each on top of the hub.

pub(crate) mod events;
pub(crate) mod rpc;
pub(crate) mod state;
