//! The wire format of one message: a nine-byte header, a payload, and zlib around both when they are long.
//!
//! It knows nothing of what payloads mean (see [`wire`](crate::wire)), keeps no connection state, and copies a payload
//! only to inflate or deflate it.
//!
//! ```
//! use datasole_core::{Limits, frame::{Codec, Opcode}};
//! let mut codec = Codec::default();
//! let message = codec.encode(Opcode::Ping, 7, b"null", 256);
//! assert_eq!(message, b"\x07\0\0\0\x07\0\0\0\x04null");
//! let frame = codec.decode(&message, &Limits::default()).unwrap();
//! assert_eq!((frame.opcode, frame.correlation, frame.payload), (Opcode::Ping, 7, &b"null"[..]));
//! ```

#[cfg(any(target_arch = "wasm32", test, feature = "arbitrary"))]
mod adler;
#[cfg(all(not(target_arch = "wasm32"), any(test, feature = "arbitrary")))]
pub(crate) mod agree;
mod codec;
#[cfg(any(target_arch = "wasm32", test, feature = "arbitrary"))]
mod deflate;
#[cfg(any(target_arch = "wasm32", test, feature = "arbitrary"))]
mod inflate;
mod opcode;
mod zlib;

pub use codec::{Codec, decode};
pub use opcode::Opcode;

/// Bytes before the payload: opcode, correlation id, payload length; big-endian.
pub const HEADER_LEN: usize = 9;

/// The first byte of a zlib stream with a 32 KiB window (RFC 1950), which no opcode has.
pub const ZLIB_MARK: u8 = 0x78;

/// One decoded message; the payload is borrowed from the message or from the codec that inflated it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What it is.
    pub opcode: Opcode,
    /// Ties an answer to its question; 0 where there is none.
    pub correlation: u32,
    /// Its content.
    pub payload: &'a [u8],
}

/// Why a message is not a frame. Version 1 peers drop such a message and keep the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// Fewer bytes than the header has.
    #[error("message of {bytes} bytes is shorter than the {HEADER_LEN}-byte header")]
    Short {
        /// Its size.
        bytes: usize,
    },
    /// An opcode that no version has.
    #[error("unknown opcode {opcode:#04x}")]
    UnknownOpcode {
        /// The first byte.
        opcode: u8,
    },
    /// The declared payload is longer than allowed.
    #[error("payload of {bytes} bytes exceeds the limit of {limit}")]
    PayloadTooLong {
        /// The declared length.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The payload ends before its declared length.
    #[error("payload has {present} of {declared} bytes")]
    Truncated {
        /// The declared length.
        declared: usize,
        /// What there is.
        present: usize,
    },
    /// The compressed message is longer than allowed.
    #[error("compressed message of {bytes} bytes exceeds the limit of {limit}")]
    CompressedTooLong {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// Inflating was stopped at the limit.
    #[error("message inflates to more than the limit of {limit} bytes")]
    InflatedTooLong {
        /// The limit.
        limit: usize,
    },
    /// Not a valid or not a whole zlib stream.
    #[error("broken zlib stream")]
    BrokenZlib,
}

/// The first opcode that peers of a later version may use without asking.
const LATER: u8 = 0x30;

impl FrameError {
    /// Whether an endpoint of version 2 ignores the message: its opcode is unknown and from 0x30 up, so that it is a later
    /// version's. Every other error is a malformed message.
    ///
    /// ```
    /// use datasole_core::{Limits, frame::Codec};
    /// let refused = |opcode| Codec::default().decode(&[opcode, 0, 0, 0, 0, 0, 0, 0, 0], &Limits::default()).unwrap_err();
    /// assert!(refused(0x33).is_ignorable() && refused(0x6f).is_ignorable() && !refused(0x2f).is_ignorable());
    /// ```
    pub fn is_ignorable(&self) -> bool {
        matches!(self, Self::UnknownOpcode { opcode: LATER.. } if *self != Self::UnknownOpcode { opcode: ZLIB_MARK })
    }
}
