//! The clock and timers of the host: tokio's, or the browser's under the same names.

#[cfg(target_arch = "wasm32")]
mod browser;
#[cfg(not(target_arch = "wasm32"))]
mod native;

#[cfg(target_arch = "wasm32")]
pub use browser::Instant;
#[cfg(target_arch = "wasm32")]
pub(crate) use browser::*;
#[cfg(not(target_arch = "wasm32"))]
pub use native::Instant;
#[cfg(not(target_arch = "wasm32"))]
pub(crate) use native::*;
