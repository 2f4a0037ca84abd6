//! [`Received`]: what a socket tells, whoever's it is.

use bytes::Bytes;
use datasole_core::SocketClose;

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
