//! What applications use: calls, events, live states, CRDTs, presence and documents, each on top of the hub.

pub(crate) mod crdt;
#[cfg(feature = "docs")]
pub(crate) mod docs;
pub(crate) mod events;
mod place;
pub(crate) mod presence;
pub(crate) mod rpc;
pub(crate) mod state;
mod table;

pub(crate) use table::kinds;
