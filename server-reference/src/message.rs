//! Outgoing messages: datasole frames, known to no transport.
//!
//! A message for many connections is made once ([`shared`]), and its bytes are shared; an answer to one connection is
//! written straight into its output ([`Outgoing::write`]). The header of a transport is written as the message is
//! gathered.

use std::cell::RefCell;

use bytes::Bytes;
use datasole_core::frame::{Codec, HEADER_LEN, Opcode};
use serde::Serialize;

use crate::entry::exact;

thread_local! {
    /// The zlib contexts are large: one per thread, not per connection.
    static CODEC: RefCell<Codec> = RefCell::new(Codec::default());
}

/// Runs `f` with this thread's codec. Not reentrant.
pub(crate) fn with_codec<R>(f: impl FnOnce(&mut Codec) -> R) -> R {
    CODEC.with_borrow_mut(f)
}

/// Writes a transport's header for a message of so many bytes.
pub(crate) type Header = fn(&mut Vec<u8>, usize);

/// Messages gathered for one connection, each behind its transport's header.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) bytes: Vec<u8>,
    /// The number of messages in it.
    pub(crate) messages: u64,
    header: Header,
}

impl Outgoing {
    pub(crate) fn new(header: Header) -> Self {
        Self { bytes: Vec::new(), messages: 0, header }
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    fn start(&mut self, length: usize) {
        self.messages += 1;
        (self.header)(&mut self.bytes, length);
    }

    /// Appends a message that has been made.
    pub(crate) fn push(&mut self, message: &[u8]) {
        self.start(message.len());
        self.bytes.extend_from_slice(message);
    }

    /// Begins a frame that is not compressed, whose payload, of exactly so many bytes, is to be written next.
    pub(crate) fn begin(&mut self, opcode: Opcode, payload: usize) -> &mut Vec<u8> {
        self.start(HEADER_LEN + payload);
        head(&mut self.bytes, opcode, 0, payload);
        &mut self.bytes
    }

    /// Appends a frame, compressed when it is longer than `compress_above`.
    pub(crate) fn write(&mut self, opcode: Opcode, correlation: u32, payload: &[u8], compress_above: usize) {
        let plain = HEADER_LEN + payload.len();
        if plain > compress_above {
            let message = with_codec(|codec| codec.encode(opcode, correlation, payload, compress_above));
            return self.push(&message);
        }
        self.start(plain);
        head(&mut self.bytes, opcode, correlation, payload.len());
        self.bytes.extend_from_slice(payload);
    }
}

/// A message to be shared between connections.
pub(crate) fn shared(opcode: Opcode, correlation: u32, payload: &[u8], compress_above: usize) -> Bytes {
    framed(opcode, correlation, payload.len(), compress_above, |out| out.extend_from_slice(payload))
}

/// A message to be shared between connections, whose payload, of about so many bytes, is written in place.
pub(crate) fn framed(
    opcode: Opcode,
    correlation: u32,
    about: usize,
    compress_above: usize,
    payload: impl FnOnce(&mut Vec<u8>),
) -> Bytes {
    let plain = exact(|plain| {
        plain.reserve(HEADER_LEN + about);
        head(plain, opcode, correlation, 0);
        payload(plain);
        let length = u32::try_from(plain.len() - HEADER_LEN).unwrap_or(u32::MAX);
        plain[HEADER_LEN - 4..HEADER_LEN].copy_from_slice(&length.to_be_bytes());
    });
    compressed(plain, compress_above)
}

/// The same message, compressed where it is longer than `compress_above`.
pub(crate) fn compressed(plain: Bytes, compress_above: usize) -> Bytes {
    if plain.len() <= compress_above {
        return plain;
    }
    let short = with_codec(|codec| codec.deflate(&plain));
    short.map_or(plain, |short| short.into_boxed_slice().into())
}

fn head(out: &mut Vec<u8>, opcode: Opcode, correlation: u32, payload: usize) {
    out.push(opcode as u8);
    out.extend_from_slice(&correlation.to_be_bytes());
    out.extend_from_slice(&u32::try_from(payload).unwrap_or(u32::MAX).to_be_bytes());
}

/// Writes a wire struct. Those hold strings, numbers and checked JSON text: writing them to memory cannot fail.
pub(crate) fn json(body: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(body).unwrap_or_default()
}

/// A JSON object being written, with members whose JSON is there already.
pub(crate) struct Object<'a> {
    out: &'a mut Vec<u8>,
    next: u8,
}

/// Bytes that an object needs beside its key, its content and the names of its members.
pub(crate) const OBJECT: usize = 128;

/// The most bytes of a message whose payload is such an object, before compression.
pub(crate) fn most(key: &str, content: &[u8]) -> usize {
    // A character takes at most six bytes for each of its own, as \u00xx.
    HEADER_LEN + OBJECT + 6 * key.len() + content.len()
}

/// The same where the payload is a key, a member of this JSON, and a position.
pub(crate) fn most_placed(key: &str, member: &str, json: &[u8]) -> usize {
    const DIGITS: usize = 20;
    let escapes = key.bytes().filter(|byte| matches!(byte, 0..0x20 | b'"' | b'\\')).count();
    let names = r#"{"key":"","":,"epoch":,"seq":}"#.len() + member.len();
    HEADER_LEN + names + key.len() + 5 * escapes + json.len() + 2 * DIGITS
}

/// Bytes that the numbers before the content of a short entry need.
pub(crate) const NUMBERS: usize = 20;

impl<'a> Object<'a> {
    pub(crate) fn new(out: &'a mut Vec<u8>) -> Self {
        Self { out, next: b'{' }
    }

    /// A member of this JSON.
    pub(crate) fn raw(self, name: &str, json: &[u8]) -> Self {
        let member = self.member(name);
        member.out.extend_from_slice(json);
        member
    }

    /// A member that is a text.
    pub(crate) fn text(self, name: &str, text: &str) -> Self {
        let member = self.member(name);
        // Text can always be written to memory.
        let _ = serde_json::to_writer(&mut *member.out, text);
        member
    }

    /// A member that is a number.
    pub(crate) fn number(self, name: &str, number: u64) -> Self {
        let member = self.member(name);
        let _ = serde_json::to_writer(&mut *member.out, &number);
        member
    }

    /// The members that tell a stream's position.
    pub(crate) fn position(self, position: datasole_core::Position) -> Self {
        self.number("epoch", position.epoch).number("seq", position.seq)
    }

    pub(crate) fn end(self) {
        self.out.push(b'}');
    }

    fn member(mut self, name: &str) -> Self {
        self.out.push(self.next);
        self.next = b',';
        self.out.push(b'"');
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
        self
    }
}

#[cfg(test)]
mod tests {
    use datasole_core::{Position, frame};

    use super::*;

    #[test]
    fn what_is_shared_and_what_is_written_are_the_same_frame() {
        for (length, above) in [(0, 256), (247, 256), (248, 256), (70_000, 256), (70_000, usize::MAX)] {
            let payload = vec![b'x'; length];
            let message = shared(Opcode::RpcResponse, 3, &payload, above);
            let mut out = Outgoing::new(|out, length| out.extend_from_slice(&(length as u32).to_be_bytes()));
            out.write(Opcode::RpcResponse, 3, &payload, above);
            out.push(&message);
            let (first, second) = out.bytes.split_at(out.len() / 2);
            assert!(first == second && first[4..] == message[..]);
            let limits = datasole_core::Limits::default();
            let read = with_codec(|codec| codec.decode(&message, &limits).map(|frame| frame.payload.to_vec()));
            assert!(read.unwrap() == payload, "{length} bytes, compressed above {above}");
        }
    }

    #[test]
    fn no_message_of_a_position_is_longer_than_the_most() {
        let bytes = |key: &str, number| {
            let position = Position { epoch: number, seq: number };
            let message = framed(Opcode::CrdtOp, 0, 0, usize::MAX, |out| {
                Object::new(out).text("key", key).raw("op", b"{}").position(position).end();
            });
            (message.len(), most_placed(key, "op", b"{}"))
        };
        for key in ["", "votes", "\u{1}\u{1f}", "é"] {
            let (bytes, most) = bytes(key, u64::MAX);
            assert_eq!(bytes, most, "{key:?}");
        }
        let all: String = (0..=255).map(char::from).collect();
        for number in [0, 1 << 53, u64::MAX] {
            let (bytes, most) = bytes(&all, number);
            assert!(bytes <= most, "{bytes} of {most}");
        }
    }

    #[test]
    fn an_object_is_what_serde_would_have_written() {
        let message = framed(Opcode::StatePatch, 0, 0, usize::MAX, |out| {
            Object::new(out)
                .text("key", "\"\u{1}é")
                .raw("patches", b"[]")
                .position(Position { epoch: 1, seq: 2 })
                .end();
        });
        let body = datasole_core::wire::StatePatch {
            key: "\"\u{1}é".into(),
            patches: serde_json::from_str("[]").unwrap(),
            epoch: Some(1),
            seq: Some(2),
        };
        assert_eq!(frame::decode(&message, 1_000).unwrap().payload, json(&body));
    }
}
