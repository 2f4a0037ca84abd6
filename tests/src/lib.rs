//! What the tests of several crates share: a running server, a raw peer, documents that cost much, a large table, a trace of edits, a proxy that
//! cuts connections, a counted heap, and seeded randomness.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

pub mod converge;
pub mod document;
pub mod heap;
pub mod history;
pub mod jepsen;
pub mod nodes;
pub mod peer;
pub mod port;
pub mod proxy;
pub mod random;
pub mod running;
pub mod sim;
pub mod table;
pub mod trace;

/// The README's examples are compiled as documentation tests.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;
