//! Where streams live, how nodes talk and where short-lived values are kept: three contracts, so that each engine does
//! what it is good at.
//!
//! - [`Log`]: ordered streams, the only truth. Nothing acknowledged is lost but what the engine declares.
//! - [`Bus`]: messages between nodes, each delivered at most once.
//! - [`Kv`]: values that expire, quotas and leases.
//!
//! [`memory`] implements all three for the nodes of one process, `sqlite` keeps log and values in a file; `redis`,
//! `postgres` and `nats` are servers that many processes share. [`Engines`] opens any of them by URL. A custom [`Log`]
//! alone is enough for one node ([`Backend::alone`]). [`conformance`] is the suite each of them passes.

#[cfg(any(feature = "nats", feature = "postgres", feature = "redis"))]
mod authorities;
#[cfg(feature = "postgres")]
mod backoff;
pub mod bus;
#[cfg(any(test, feature = "arbitrary"))]
pub mod chaos;
pub mod conformance;
mod engines;
mod epoch;
mod error;
mod feed;
mod judge;
pub mod kv;
pub mod log;
pub mod memory;
#[cfg(any(feature = "postgres", feature = "redis"))]
mod name;
#[cfg(feature = "nats")]
pub mod nats;
mod node;
mod outlet;
#[cfg(feature = "postgres")]
pub mod postgres;
mod quota;
#[cfg(feature = "redis")]
pub mod redis;
#[cfg(any(feature = "nats", feature = "redis"))]
mod senders;
#[cfg(feature = "sqlite")]
pub mod sqlite;
mod url;

pub use async_trait::async_trait;
pub use bus::Bus;
pub use engines::{Engines, Urls};
pub use epoch::{Epochs, epoch};
pub use error::BackendError;
pub use kv::Kv;
pub use log::Log;
pub use memory::Memory;
#[cfg(feature = "nats")]
pub use nats::Nats;
pub use node::Backend;
#[cfg(feature = "postgres")]
pub use postgres::Postgres;
#[cfg(feature = "redis")]
pub use redis::Redis;
#[cfg(feature = "sqlite")]
pub use sqlite::Sqlite;
