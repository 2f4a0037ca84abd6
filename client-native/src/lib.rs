//! The native datasole client: typed calls, events, live states and shared data over one connection that reconnects by
//! itself.
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
//! Data that several edit at once, online or not ([`Crdts`], [`Presence`], and with the feature `docs` `Document`):
//!
//! ```no_run
//! # async fn example(client: datasole_client::Client) -> Result<(), Box<dyn std::error::Error>> {
//! let likes = client.crdt().counter("likes")?;
//! likes.increment(1)?;
//! println!("{}, {}", likes.value(), likes.status());
//!
//! let room = client.presence::<String>("lobby")?;
//! room.join(&"Ann".to_owned())?;
//!
//! client.crdt().synced().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # How it behaves
//!
//! - A [`Client`] is a handle; clone it freely. One task does the work. Dropping the last clone closes gracefully.
//! - The connection is kept up. Calls in flight when it is lost fail (they may have been carried out); subscriptions
//!   resume. A [`State`] is current again after each reconnect; [`Events`] report missed events as
//!   [`EventError::Missed`].
//! - Edits of CRDTs and documents apply locally at once, are sent when there is a connection, and are resent after it was
//!   lost, until the server acknowledges them. Edits are idempotent: none counts twice. `status()` tells how many are
//!   pending, `synced()` waits until none is, and [`Client::refusals`] yields those that the server refused. With a
//!   [`CrdtStorage`] edits of CRDTs survive a restart of the program; edits of a document survive with its `yrs::Doc`.
//! - Everything is bounded ([`Limits`], [`Builder::event_buffer`]). A slow reader loses its oldest events and is told.
//! - Each error has a `code()` and says with `retryable()` whether a retry may succeed.
//!
//! # In a window
//!
//! A program whose loop is that of a toolkit (egui, iced, Slint) owns a runtime, and draws anew when it is told to. Handles are read
//! and used on any thread, without waiting, whether there is a connection or not.
//!
//! ```no_run
//! use datasole_client::{Client, State};
//! use serde_json::Value;
//! use tokio::runtime::Runtime;
//!
//! struct App {
//!     visitors: State<Value>,
//!     /// Before the runtime, so that it closes gracefully.
//!     client: Client,
//!     runtime: Runtime,
//! }
//!
//! impl App {
//!     /// `repaint`: in egui, `move || context.request_repaint()`.
//!     fn new(repaint: impl Fn() + Send + Sync + 'static) -> Result<Self, Box<dyn std::error::Error>> {
//!         let runtime = Runtime::new()?;
//!         let client = {
//!             let _entered = runtime.enter();
//!             Client::builder("http://127.0.0.1:4000").start()?
//!         };
//!         client.on_change(repaint);
//!         Ok(Self { visitors: client.state("dashboard")?, client, runtime })
//!     }
//!
//!     /// The text of each frame.
//!     fn shown(&self) -> String {
//!         match self.visitors.get() {
//!             Ok(Some(board)) => format!("{} visitors ({})", board["visitors"], self.client.status()),
//!             Ok(None) => self.client.status().to_string(),
//!             Err(error) => error.to_string(),
//!         }
//!     }
//!
//!     /// What a button does.
//!     fn visit(&self) {
//!         let client = self.client.clone();
//!         self.runtime.spawn(async move {
//!             if let Err(error) = client.call::<_, Value>("visit", &()).await {
//!                 eprintln!("{error}");
//!             }
//!         });
//!     }
//! }
//! ```
//!
//! # In a browser
//!
//! For `wasm32-unknown-unknown` the same handles run over the browser's WebSocket and timers, in a page or in a worker of a
//! program that is Rust itself (Leptos, Dioxus, egui, plain `web-sys`): `examples/rust-page`. No runtime is needed; the
//! browser's events `online`, `offline`, `pageshow` and `visibilitychange` are [`Hint`]s by themselves. A browser chooses
//! headers, proxy and trust: those options of [`Builder`] are not there, and neither is a reason for a refused
//! connection. A token provider need not be `Send`.
//!
//! # What is not here
//!
//! No protocol: frames, resuming, deadlines and patches are [`datasole_core`]'s. No log of payloads, URLs or tokens.
//! The glossary is in ARCHITECTURE.md.
//!
//! # Features
//!
//! `rustls-native-roots` (default) and `rustls-webpki-roots` choose whose certificates `wss` trusts; with neither there
//! is no TLS. With both, both are trusted.
//!
//! `contract`: calls, events, states and the rest by the types of a
//! [contract](https://docs.rs/datasole-contract), which server and browser share.
//!
//! `docs`: documents that are shared with Yjs editors, through [yrs](https://docs.rs/yrs).

mod builder;
mod clock;
#[cfg(feature = "contract")]
mod contract;
mod crdt;
#[cfg(feature = "docs")]
mod doc;
mod driver;
mod error;
mod events;
mod follow;
mod handle;
#[cfg(not(target_arch = "wasm32"))]
mod handshake;
mod host;
mod inbox;
mod presence;
mod refusal;
mod router;
mod signal;
mod state;
mod status;
#[cfg(all(test, feature = "docs"))]
mod transcripts;
mod watch;

pub use builder::{Builder, Urls};
pub use clock::Instant;
#[cfg(feature = "contract")]
pub use contract::NativeCrdt;
pub use crdt::{Counter, CrdtStorage, Crdts, GCounter, GSet, Map, Register, Replicated, Set, kinds};
pub use datasole_core::{
    CallError as CallFailure, CommandError, DisconnectReason, Hint, Limits, Payload, Reconnect, SocketClose, TokenVia,
    codes,
    crdt::{CrdtError, CrdtLimits},
    tree::Tree,
};
#[cfg(feature = "docs")]
pub use doc::{Awareness, Document};
#[cfg(feature = "docs")]
pub use error::DocError;
pub use error::{
    CallError, ConnectError, DecodeError, EditError, EmitError, EventError, FollowError, PresenceError, StateError,
};
pub use events::{Event, Events};
pub use follow::Changes;
pub use handle::{CallOptions, Client};
pub use presence::{Member, Presence};
pub use refusal::{Refusal, Refusals};
#[cfg(all(feature = "__tls", not(target_arch = "wasm32")))]
pub use rustls;
pub use state::State;
pub use status::{Status, SyncStatus};
#[cfg(feature = "docs")]
pub use yrs;
