//! Engines that are servers of their own pass the conformance suite. Each is started on a free port in a temporary
//! folder, and stopped.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod clients;
mod late;
mod nats;
#[cfg(unix)]
mod postgres;
mod redis;
mod running;
mod tls;
mod writers;
