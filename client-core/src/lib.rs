//! The datasole core: one connection's worth of protocol, without the connection.
//!
//! [`Client`] is fed and drained. Nothing in this crate reads a clock, opens a socket, draws a random number or starts
//! a thread: the host passes time ([`Millis`]), bytes ([`Input`]) and 32 bytes of entropy ([`Seed`]) in, and performs
//! the [`Output`]s that come out. The same code runs in a Web Worker and under tokio, and a recorded session replays as
//! a test.
//!
//! # The drive loop
//!
//! **After every input and every command, drain the outputs until `None`, then re-arm the one timer.**
//!
//! ```
//! use datasole_core::{Client, Config, Input, Millis, Output, Seed};
//!
//! let mut client = Client::new(Config::new("wss://example.org/__ds"), Seed([7; 32]));
//! client.connect(Millis(0));
//! while let Some(output) = client.poll_output() {
//!     match output {
//!         Output::OpenSocket { socket, url, protocols } => {
//!             // open it; later: client.handle_input(now, Input::SocketOpened { socket, protocol })
//!             # let _ = (socket, protocols);
//!             assert_eq!(url, "wss://example.org/__ds");
//!         }
//!         Output::Send { .. } | Output::CloseSocket { .. } | Output::NeedToken | Output::Event(_) => {}
//!     }
//! }
//! if let Some(deadline) = client.poll_timeout() {
//!     client.handle_input(deadline, Input::Timeout);
//! }
//! ```
//!
//! # What is not here
//!
//! No clock, no randomness beyond the seed, no sockets, no threads, no callbacks, no logging, no `async`. A peer cannot
//! make this crate panic, return an error from [`Client::handle_input`], or grow without bound: misbehaviour becomes a
//! [`DisconnectReason`]. Payloads the core only forwards are never parsed into a tree ([`Payload`]).
//!
//! The glossary is in ARCHITECTURE.md.

#[doc(hidden)]
pub mod awareness;
mod client;
mod config;
pub mod crdt;
mod error;
mod event;
pub mod frame;
#[cfg(any(test, feature = "arbitrary"))]
pub mod fuzz;
mod json;
#[cfg(feature = "mirror")]
mod mirror;
pub mod patch;
mod queue;
mod read;
mod reconnect;
mod rng;
mod rpc;
mod session;
mod stream;
mod subscriptions;
mod sync;
mod table;
mod time;
pub mod tree;
pub mod wire;
mod write;

pub use client::Client;
pub use config::{Config, Limits, Reconnect, TokenVia};
pub use error::{CallError, CommandError, codes};
pub use event::{
    CallId, CloseVerdict, DisconnectReason, EditOutcome, Event, Hint, Input, Output, Payload, Progress, Question,
    Request, SocketClose, SocketId, Status, SubscriptionId, SyncPhase,
};
pub use json::{push_json_string, value};
pub use rng::Seed;
pub use stream::{Position, StreamId, StreamKind};
pub use time::{Millis, TimerKind};
