//! What applications use: calls, events, live states, CRDTs, presence and documents, each on top of the hub.

pub(crate) mod crdt;
#[cfg(feature = "docs")]
pub(crate) mod docs;
pub(crate) mod events;
pub(crate) mod presence;
mod reservation;
pub(crate) mod rpc;
pub(crate) mod state;
mod table;

pub(crate) use table::kinds;
