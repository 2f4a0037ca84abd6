//! What a client has of its host: sockets, a clock, tasks and hints. Native programs have tokio's, pages the browser's.
//!
//! Both modules have the same names: [`Options`] and [`Dialer`] open a [`Socket`]; [`Instant`], [`sleep_until`],
//! [`timeout`] and [`unix_time`] are the clock; [`Runtime`] and [`Task`] run futures; [`Hints`] tells of the network.

#[cfg(target_arch = "wasm32")]
mod browser;
#[cfg(not(target_arch = "wasm32"))]
mod native;

use bytes::Bytes;
use datasole_core::SocketClose;

#[cfg(target_arch = "wasm32")]
pub use browser::Instant;
#[cfg(target_arch = "wasm32")]
pub(crate) use browser::*;
#[cfg(not(target_arch = "wasm32"))]
pub use native::Instant;
#[cfg(not(target_arch = "wasm32"))]
pub(crate) use native::*;

/// Encoded messages waiting for the network, above which calls and events wait for room; bytes.
pub(crate) const MAX_UNSENT: usize = 4 * 1024 * 1024;

/// A message or state change of a socket.
#[derive(Debug)]
pub(crate) enum Received {
    Message(Bytes),
    /// Less than [`MAX_UNSENT`] bytes are left to be sent, after there were more.
    Room,
    Closed(SocketClose),
}
