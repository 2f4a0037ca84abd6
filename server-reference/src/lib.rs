//! The datasole reference server: one connection per client for RPC, events and live state, as an axum router.
//!
//! ```no_run
//! use datasole_server::{Context, Server};
//! use serde_json::json;
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let server = Server::builder()
//!     .rpc("add", |_: Context, (a, b): (i64, i64)| async move { Ok(a + b) })
//!     .on("chat:message", |context: Context, message: serde_json::Value| async move {
//!         if let Err(error) = context.server().broadcast("chat:message", &message).await {
//!             eprintln!("{error}");
//!         }
//!     })
//!     .build();
//! server.state().set("dashboard", &json!({"visitors": 0})).await?;
//! let app = axum::Router::new().merge(server.router());
//! axum::serve(tokio::net::TcpListener::bind("127.0.0.1:4000").await?, app).await?;
//! # Ok(())
//! # }
//! ```
//!
//! Layers, each ignorant of the one above: `transport` (HTTP, WebSocket, one task per connection) → `session` (the
//! protocol, without a socket) → `hub` (streams, fan-out) → `primitives` (calls, events, states) → [`backend`].

mod assets;
mod auth;
pub mod backend;
mod builder;
pub mod clock;
mod connection;
mod error;
mod hub;
mod limits;
mod mailbox;
mod message;
mod metrics;
mod origin;
mod peer;
mod primitives;
mod server;
mod session;
#[cfg(test)]
mod tests;
mod transport;

pub use auth::{AuthError, AuthRequest, Identity};
pub use builder::Builder;
pub use connection::Protocol;
pub use datasole_core::crdt::{CrdtError, CrdtKind, CrdtLimits};
pub use datasole_core::{Payload, Position, StreamId, StreamKind, codes, patch};
#[cfg(feature = "docs")]
pub use error::DocError;
pub use error::{EditError, EventError, RpcError, StateError};
pub use limits::{Limits, Replay};
pub use metrics::MetricsSnapshot;
pub use peer::Peer;
#[cfg(feature = "docs")]
pub use primitives::docs::Docs;
#[cfg(all(feature = "docs", any(test, feature = "arbitrary")))]
pub use primitives::docs::fuzz;
pub use primitives::{
    crdt::{Counter, Crdts, Map, Register, Set},
    events::Target,
    presence::{Member, Presence},
    rpc::Context,
    state::{Draft, State},
};
pub use server::Server;
/// The library behind documents, for [`Docs::read`] and [`Docs::edit`].
#[cfg(feature = "docs")]
pub use yrs;
