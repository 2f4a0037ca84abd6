//! Opcodes: the kinds of frames. Version 1 has 0x01–0x0b; version 2 keeps those and adds 0x10–0x32. From 0x30 up
//! unknown ones are ignored: 0x60–0x6f are reserved for plugins, and 0x78 ([`ZLIB_MARK`](super::ZLIB_MARK)) is never one.

/// A frame's first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Opcode {
    /// C→S: call a method.
    RpcRequest = 0x01,
    /// S→C: its result or error.
    RpcResponse = 0x02,
    /// C→S: an event.
    ClientEvent = 0x03,
    /// S→C: an event.
    ServerEvent = 0x04,
    /// S→C: RFC 6902 operations on a state.
    StatePatch = 0x05,
    /// S→C: a whole state.
    StateSnapshot = 0x06,
    /// C→S: are you there?
    Ping = 0x07,
    /// S→C: yes.
    Pong = 0x08,
    /// S→C: a frame could not be served.
    Error = 0x09,
    /// Both ways: a CRDT operation.
    CrdtOp = 0x0a,
    /// S→C: a CRDT's state.
    CrdtState = 0x0b,
    /// S→C, first frame of version 2.
    Hello = 0x10,
    /// C→S: a token, at the start or to refresh it.
    Auth = 0x11,
    /// S→C: the token was accepted.
    Authed = 0x12,
    /// C→S: follow a stream.
    Subscribe = 0x13,
    /// S→C: followed; what comes next.
    Subscribed = 0x14,
    /// C→S: follow it no longer.
    Unsubscribe = 0x15,
    /// C→S: nobody waits for that call any more.
    Cancel = 0x16,
    /// S→C: a CRDT operation, a presence or a document's message took effect and is stored.
    Ack = 0x17,
    /// C→S: change a state through a registered function.
    Propose = 0x18,
    /// S→C: accepted or rejected.
    ProposeResult = 0x19,
    /// Both ways: presence values of a room.
    Presence = 0x1a,
    /// Both ways: a document's sync message, binary.
    Doc = 0x1b,
    /// C→S: the client's features; its first frame after a HELLO that has features.
    Client = 0x1c,
    /// Both ways: several messages in one; where both sides have the feature `batch`.
    Batch = 0x1d,
    /// C→S: [`Opcode::RpcRequest`] with raw bytes.
    RpcRequestBinary = 0x20,
    /// S→C: [`Opcode::RpcResponse`] with raw bytes.
    RpcResponseBinary = 0x21,
    /// C→S: [`Opcode::ClientEvent`] with raw bytes.
    ClientEventBinary = 0x22,
    /// S→C: [`Opcode::ServerEvent`] with raw bytes.
    ServerEventBinary = 0x23,
    /// S→C: an event or a patch in few bytes, its stream named by a number; where both sides have the feature `short`.
    Entry = 0x30,
    /// C→S: [`Opcode::RpcRequest`] in few bytes, likewise.
    Call = 0x31,
    /// S→C: the result of a call in few bytes, likewise.
    Result = 0x32,
}

impl Opcode {
    /// The opcode of a first byte.
    pub fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            0x01 => Self::RpcRequest,
            0x02 => Self::RpcResponse,
            0x03 => Self::ClientEvent,
            0x04 => Self::ServerEvent,
            0x05 => Self::StatePatch,
            0x06 => Self::StateSnapshot,
            0x07 => Self::Ping,
            0x08 => Self::Pong,
            0x09 => Self::Error,
            0x0a => Self::CrdtOp,
            0x0b => Self::CrdtState,
            0x10 => Self::Hello,
            0x11 => Self::Auth,
            0x12 => Self::Authed,
            0x13 => Self::Subscribe,
            0x14 => Self::Subscribed,
            0x15 => Self::Unsubscribe,
            0x16 => Self::Cancel,
            0x17 => Self::Ack,
            0x18 => Self::Propose,
            0x19 => Self::ProposeResult,
            0x1a => Self::Presence,
            0x1b => Self::Doc,
            0x1c => Self::Client,
            0x1d => Self::Batch,
            0x20 => Self::RpcRequestBinary,
            0x21 => Self::RpcResponseBinary,
            0x22 => Self::ClientEventBinary,
            0x23 => Self::ServerEventBinary,
            0x30 => Self::Entry,
            0x31 => Self::Call,
            0x32 => Self::Result,
            _ => return None,
        })
    }

    /// Whether version 1 peers know it.
    pub fn is_v1(self) -> bool {
        (self as u8) < 0x10
    }
}

#[cfg(test)]
mod tests {
    use super::Opcode;
    use crate::frame::ZLIB_MARK;

    #[test]
    fn bytes_and_opcodes_are_one_to_one() {
        let known: Vec<u8> = (0..=255).filter(|&byte| Opcode::from_byte(byte).is_some()).collect();
        for &byte in &known {
            assert_eq!(Opcode::from_byte(byte).map(|opcode| opcode as u8), Some(byte));
        }
        assert_eq!(known.len(), 32);
        assert!(!known.contains(&ZLIB_MARK), "a compressed message must not look like a frame");
    }
}
