//! CRDTs: values that several clients edit at once, online or not, and that end the same everywhere.
//!
//! An edit counts here at once; the core sends it when it can. Each key that is open has one replica
//! ([`datasole_core::crdt::Replica`]), shared by its handles.

mod crdts;
mod handles;
mod replicas;
mod storage;

pub use crdts::Crdts;
pub use handles::{Counter, GCounter, GSet, Map, Register, Replicated, Set, kinds};
pub(crate) use replicas::{Policy, Replicas};
pub use storage::CrdtStorage;
