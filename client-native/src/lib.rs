//! The native datasole client: typed calls, events and live state over one connection that comes back by itself.
//!
//! ```no_run
//! use datasole_client::Client;
//! use serde_json::{Value, json};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::builder("https://example.org").token("secret").connect().await?;
//!
//! let sum: Value = client.call("add", &json!({"a": 1, "b": 2})).await?;
//! println!("{sum}");
//!
//! client.emit("chat:message", "hello").await?;
//! let mut chat = client.events::<String>("chat:message")?;
//! println!("{:?}", chat.next().await);
//!
//! let mut dashboard = client.state::<Value>("dashboard")?;
//! while dashboard.changed().await.is_ok() {
//!     println!("{:?}", dashboard.get()?);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # How it behaves
//!
//! - A [`Client`] is a handle; clone it freely. One task does the work. Dropping the last clone closes gracefully.
//! - The connection is kept up: calls in flight when it is lost fail (they may have been carried out), subscriptions go
//!   on. A [`State`] is right again after each reconnect; [`Events`] say so where something was missed.
//! - Everything is bounded ([`Limits`], [`Builder::event_buffer`]). A slow reader loses its oldest events and is told.
//! - Each error has a `code()` and says with `retryable()` whether trying again makes sense.
//!
//! # What is not here
//!
//! No protocol: frames, resuming, deadlines and patches are [`datasole_core`]'s. No log of payloads, URLs or tokens.
//!
//! # Features
//!
//! `rustls-native-roots` (default) and `rustls-webpki-roots` choose whose certificates `wss` trusts; with neither there
//! is no TLS. With both, both are trusted.

mod builder;
mod driver;
mod error;
mod events;
mod handle;
mod router;
mod socket;
mod state;
mod status;
#[cfg(feature = "__tls")]
mod tls;

pub use builder::Builder;
pub use datasole_core::{
    CallError as CallFailure, CommandError, DisconnectReason, Hint, Limits, Payload, Reconnect, SocketClose, TokenVia,
    codes,
};
pub use error::{CallError, ConnectError, DecodeError, EmitError, EventError, StateError};
pub use events::{Event, Events};
pub use handle::{CallOptions, Client};
#[cfg(feature = "__tls")]
pub use rustls;
pub use state::State;
pub use status::Status;
