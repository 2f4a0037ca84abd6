//! The client against a scripted server, one binary for all of it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod calls;
mod connecting;
mod crdt;
#[cfg(feature = "docs")]
mod doc;
mod events;
mod fake;
mod lifecycle;
mod presence;
mod state;
