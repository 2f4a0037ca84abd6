//! HTTP and WebSockets: the routes, the accept loop, and what moves the bytes of connections.
//!
//! A transport moves bytes and knows when a connection has ended; the session knows the meaning of the bytes.

#[cfg(feature = "contract")]
mod contract;
mod credentials;
mod health;
mod lobby;
mod refused;
mod routes;
mod serve;
mod state;
mod websocket;

pub use self::serve::listen;
#[cfg(any(test, feature = "arbitrary"))]
pub(crate) use self::websocket::fuzz;
pub(crate) use self::{routes::router, serve::serve};
