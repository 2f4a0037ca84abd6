//! [`Letter`]: a message between nodes, in the bytes that the bus carries.
//!
//! A version byte, a kind byte, a flag byte (1: not for clients of version 1), numbers in big-endian, then the content up
//! to the end. Another version or kind, a flag that is not known or too few bytes make it malformed.

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes};
use datasole_core::StreamKind;

/// The version of the format.
const VERSION: u8 = 1;
/// The flag of what clients of version 1 do not understand.
const V2_ONLY: u8 = 1;

/// A message between nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Letter {
    pub(super) to: To,
    pub(super) v2_only: bool,
    /// A frame for clients; of [`To::Stream`] the entry, of [`To::Close`] the reason, of [`To::Shares`] the changes,
    /// of [`To::Born`] the key.
    pub(super) message: Bytes,
}

/// The receivers on the other node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum To {
    /// The members of the topic, a user's or a group's.
    Members,
    /// The stream of the topic.
    Stream,
    /// The followers of the topic's stream: what connections of the sender share there.
    Shares,
    /// Every node: the sender has begun to share.
    Greeting,
    /// Nodes with clients of version 1: a stream of this kind has come into being.
    Born(StreamKind),
    /// Clients of version 1 that may read the topic of this name.
    V1(Arc<str>),
    /// The connection of this number.
    Connection(u64),
    /// The same, which is to end with this code.
    Close { serial: u64, code: u16 },
}

impl Letter {
    /// The bytes that the bus carries.
    pub(super) fn encode(&self) -> Bytes {
        let name = if let To::V1(name) = &self.to { name.len() } else { 0 };
        let mut out = Vec::with_capacity(13 + name + self.message.len());
        let (kind, flags) = (self.to.kind(), if self.v2_only { V2_ONLY } else { 0 });
        out.extend_from_slice(&[VERSION, kind, flags]);
        match &self.to {
            To::Members | To::Stream | To::Shares | To::Greeting => {}
            To::Born(kind) => out.put_u8(*kind as u8),
            To::V1(name) => {
                out.put_u32(u32::try_from(name.len()).unwrap_or(u32::MAX));
                out.extend_from_slice(name.as_bytes());
            }
            To::Connection(serial) => out.put_u64(*serial),
            To::Close { serial, code } => {
                out.put_u64(*serial);
                out.put_u16(*code);
            }
        }
        out.extend_from_slice(&self.message);
        out.into()
    }

    /// Reads a message; `None` if it is malformed.
    pub(super) fn decode(bytes: &Bytes) -> Option<Self> {
        let mut rest = bytes.clone();
        let (version, kind, flags) = (rest.try_get_u8().ok()?, rest.try_get_u8().ok()?, rest.try_get_u8().ok()?);
        if version != VERSION || flags > V2_ONLY {
            return None;
        }
        let to = match kind {
            b'm' => To::Members,
            b'e' => To::Stream,
            b's' => To::Shares,
            b'h' => To::Greeting,
            b'b' => {
                let kind = usize::from(rest.try_get_u8().ok()?);
                To::Born(StreamKind::ALL.into_iter().find(|known| *known as usize == kind)?)
            }
            b'v' => {
                let length = usize::try_from(rest.try_get_u32().ok()?).ok()?;
                if rest.len() < length {
                    return None;
                }
                To::V1(std::str::from_utf8(&rest.split_to(length)).ok()?.into())
            }
            b'c' => To::Connection(rest.try_get_u64().ok()?),
            b'x' => To::Close { serial: rest.try_get_u64().ok()?, code: rest.try_get_u16().ok()? },
            _ => return None,
        };
        Some(Self { to, v2_only: flags == V2_ONLY, message: rest })
    }
}

impl To {
    fn kind(&self) -> u8 {
        match self {
            Self::Members => b'm',
            Self::Stream => b'e',
            Self::Shares => b's',
            Self::Greeting => b'h',
            Self::Born(_) => b'b',
            Self::V1(_) => b'v',
            Self::Connection(_) => b'c',
            Self::Close { .. } => b'x',
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_what_is_cut_is_malformed() {
        let kinds = [
            (To::Members, 3),
            (To::Stream, 3),
            (To::Shares, 3),
            (To::Greeting, 3),
            (To::Born(StreamKind::Crdt), 4),
            (To::V1("näme".into()), 12),
            (To::Connection(u64::MAX), 11),
            (To::Close { serial: 1, code: 4_999 }, 13),
        ];
        for (to, head) in kinds {
            for v2_only in [false, true] {
                let letter = Letter { to: to.clone(), v2_only, message: Bytes::from_static(b"message") };
                let bytes = letter.encode();
                assert_eq!(Letter::decode(&bytes), Some(letter));
                for length in 0..bytes.len() {
                    let cut = Letter::decode(&bytes.slice(..length));
                    assert_eq!(cut.is_some(), length >= head, "{to:?} cut to {length} bytes");
                }
            }
        }
        for malformed in [
            &b""[..],
            b"\x02m\0x",
            b"\x01?\0x",
            b"\x01m\x02x",
            b"\x01b\0\xffx",
            b"\x01v\0\0\0\0\x01\xff",
            b"\x01v\0\xff\xff\xff\xffx",
        ] {
            assert_eq!(Letter::decode(&Bytes::from_static(malformed)), None, "{malformed:?}");
        }
    }
}
