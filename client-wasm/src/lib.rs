//! The datasole core for JavaScript: a class that is fed by a host and drained in batches of text.
//!
//! The same build runs in a dedicated worker and on the thread that loads it. The host (`npm/src/engine.ts`) owns what
//! calls back: sockets and the timer. A panic here ends in a wasm trap, which only JavaScript can catch, so every entry
//! into this crate must be a call of the host's.
//!
//! [`Driver`] is all of it that needs no JavaScript: natively, it does a recorded session again (`datasole replay`).
//!
//! # What is not here
//!
//! No protocol (that is `datasole-core`), no callbacks held by wasm, no JSON trees: payloads are copied as text from a
//! frame into a batch (`message`), and one `JSON.parse` on the other side reads the whole batch.
//!
//! The glossary is in ARCHITECTURE.md.

#[cfg(target_arch = "wasm32")]
mod allocator;
mod core;
#[cfg(feature = "direct")]
mod direct;
mod driver;
mod host;
mod message;

pub use crate::core::Core;
pub use crate::driver::{Driver, World, payload};
pub use crate::host::{Host, Options, Settings};
