//! The datasole reference server: RPC, events, live states, CRDTs, presence and documents over one connection per client,
//! as an axum router.
//!
//! Features, none of them by default: `docs` adds Yjs documents (`Server::docs`), `sqlite` durable storage in one file
//! (`backend::Sqlite`); `redis`, `postgres` and `nats` several servers as one (`backend::Redis`, `Postgres`, `Nats`).
//!
//! ```no_run
//! use datasole_server::{Context, Server};
//! use serde_json::json;
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let server = Server::builder()
//!     .rpc("add", |_: Context, (a, b): (i64, i64)| async move { Ok(a + b) })
//!     .on("chat:message", |context: Context, message: serde_json::Value| async move {
//!         context.server().broadcast("chat:message", &message).await
//!     })
//!     .build();
//! server.state().set("dashboard", &json!({"visitors": 0})).await?;
//! let app = axum::Router::new().merge(server.router());
//! axum::serve(tokio::net::TcpListener::bind("127.0.0.1:4000").await?, app).await?;
//! # Ok(())
//! # }
//! ```
//!
//! Floors, each ignorant of those above: a base of connections, mailboxes and limits; [`backend`], where streams are
//! stored; `hub`, streams and fan-out; `primitives`, the content of each kind of stream; `gate`, the limits and policies
//! that every frame passes; `protocol`, a client without a socket; `transport`, HTTP and WebSockets; and `api`, the handles
//! of applications. The glossary is in ARCHITECTURE.md.

mod access;
mod account;
mod admission;
mod answer;
mod api;
mod assets;
mod auth;
pub mod backend;
mod budget;
pub mod clock;
mod connection;
#[cfg(feature = "contract")]
mod contract;
mod desk;
mod entry;
mod error;
mod few;
mod gate;
mod hub;
mod limits;
mod mailbox;
mod message;
mod metrics;
mod primitives;
mod protocol;
mod sync;
mod task;
#[cfg(test)]
mod tests;
mod transport;

/// Bodies of the fuzz targets.
#[cfg(any(test, feature = "arbitrary"))]
#[doc(hidden)]
pub mod fuzz {
    pub use crate::admission::fuzz::header;
    #[cfg(feature = "docs")]
    pub use crate::primitives::docs::fuzz::document;
    pub use crate::transport::fuzz::websocket;
}

pub use admission::{Network, NetworkError, Origin, OriginError};
#[cfg(feature = "contract")]
pub use api::{At, ContractMismatch};
pub use api::{Builder, Connection, Context, Peer, Server};
pub use auth::{AuthError, AuthRequest, Identity};
pub use connection::Protocol;
pub use datasole_core::crdt::{CrdtError, CrdtKind, CrdtLimits};
pub use datasole_core::{Payload, Position, StreamId, StreamKind, codes, patch, tree::Tree};
pub use error::RpcError;
pub use limits::{Limits, Replay};
pub use metrics::MetricsSnapshot;
#[cfg(feature = "docs")]
pub use primitives::docs::{DocError, Docs};
pub use primitives::{
    crdt::{Counter, Crdts, EditError, Map, Register, Set},
    events::{EventError, EventOutcome, Target},
    presence::{Member, Presence},
    state::{Draft, State, StateError},
};
pub use transport::listen;
/// The library behind documents, for [`Docs::read`] and [`Docs::edit`].
#[cfg(feature = "docs")]
pub use yrs;
