//! Engines that are servers of their own pass the conformance suite. Each is started on a free port in a temporary
//! folder, and stopped.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod clients;
mod late;
mod nats;
#[path = "../../../tests/src/port.rs"]
#[expect(unreachable_pub, reason = "a crate that cannot be used here has the file, too")]
mod port;
#[cfg(unix)]
mod postgres;
mod redis;
mod running;
mod tls;
mod writers;
