//! What a client has of its host: sockets, tasks and hints. Native programs have tokio's, pages the browser's.
//!
//! Both modules have the same names: [`Options`] and [`Dialer`] open a [`Socket`]; [`Runtime`] and [`Task`] run futures;
//! [`Hints`] tells of the network.

#[cfg(target_arch = "wasm32")]
mod browser;
#[cfg(not(target_arch = "wasm32"))]
mod native;
mod received;

#[cfg(target_arch = "wasm32")]
pub(crate) use browser::*;
#[cfg(not(target_arch = "wasm32"))]
pub(crate) use native::*;
pub(crate) use received::{MAX_UNSENT, Received};
