//! Outgoing messages: datasole frames inside WebSocket frames (RFC 6455, section 5.2; server frames carry no mask).
//!
//! A message for many connections is made once ([`shared`]) and its bytes are shared; an answer to one connection is
//! written straight into its output buffer ([`write()`]).

use std::{cell::RefCell, ops::Range};

use bytes::Bytes;
use datasole_core::frame::{Codec, HEADER_LEN, Opcode};

/// FIN and the opcodes in use.
const BINARY: u8 = 0x82;
const CLOSE: u8 = 0x88;
const PING: u8 = 0x89;

thread_local! {
    /// The zlib contexts are large: one per thread, not per connection.
    static CODEC: RefCell<Codec> = RefCell::new(Codec::default());
}

/// Runs `f` with this thread's codec. Not reentrant.
pub(crate) fn with_codec<R>(f: impl FnOnce(&mut Codec) -> R) -> R {
    CODEC.with_borrow_mut(f)
}

/// A whole message to be shared between connections.
pub(crate) fn shared(opcode: Opcode, correlation: u32, payload: &[u8], compress_above: usize) -> Bytes {
    let mut out = Vec::with_capacity(10 + HEADER_LEN + payload.len().min(compress_above.max(1024)));
    write(&mut out, opcode, correlation, payload, compress_above);
    Bytes::from(out)
}

/// Appends a whole message to a connection's output.
pub(crate) fn write(out: &mut Vec<u8>, opcode: Opcode, correlation: u32, payload: &[u8], compress_above: usize) {
    let plain = HEADER_LEN + payload.len();
    if plain > compress_above {
        let message = with_codec(|codec| codec.encode(opcode, correlation, payload, compress_above));
        header(out, BINARY, message.len());
        out.extend_from_slice(&message);
        return;
    }
    header(out, BINARY, plain);
    out.push(opcode as u8);
    out.extend_from_slice(&correlation.to_be_bytes());
    out.extend_from_slice(&u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(payload);
}

/// Appends a WebSocket close frame.
pub(crate) fn close(out: &mut Vec<u8>, code: u16, reason: &str) {
    let reason = &reason.as_bytes()[..reason.floor_char_boundary(123)];
    header(out, CLOSE, 2 + reason.len());
    out.extend_from_slice(&code.to_be_bytes());
    out.extend_from_slice(reason);
}

/// Appends an empty WebSocket ping.
pub(crate) fn ping(out: &mut Vec<u8>) {
    header(out, PING, 0);
}

/// Where the body of the first of these messages lies, which are our own and whole; `None` when there is none.
pub(crate) fn body(out: &[u8]) -> Option<Range<usize>> {
    let number = |bytes: &[u8]| bytes.iter().fold(0, |number, &byte| number << 8 | usize::from(byte));
    let (start, length) = match *out.get(1)? {
        126 => (4, number(out.get(2..4)?)),
        127 => (10, number(out.get(2..10)?)),
        length => (2, usize::from(length)),
    };
    Some(start..start + length)
}

fn header(out: &mut Vec<u8>, first: u8, length: usize) {
    out.push(first);
    match length {
        0..=125 => out.push(length as u8),
        126..=0xffff => {
            out.push(126);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        _ => {
            out.push(127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio_tungstenite::tungstenite::protocol::{Role, WebSocket};

    use super::*;

    /// Reads our bytes with tungstenite: the framing must be right at every length class.
    #[test]
    fn tungstenite_reads_what_we_frame() {
        for length in [0, 1, 116, 117, 125, 126, 65_526, 65_527, 200_000] {
            let payload = vec![b'x'; length];
            let mut out = Vec::new();
            write(&mut out, Opcode::RpcResponse, 3, &payload, usize::MAX);
            close(&mut out, 4001, "fell behind");
            let body = body(&out).unwrap();
            assert_eq!(out[body.end], CLOSE);
            let unframed = out[body].to_vec();
            let mut peer = WebSocket::from_raw_socket(std::io::Cursor::new(out), Role::Client, None);
            let message = peer.read().unwrap().into_data();
            assert!(unframed == message);
            let limits = datasole_core::Limits::default();
            let frame = with_codec(|codec| {
                let frame = codec.decode(&message, &limits).unwrap();
                (frame.opcode, frame.correlation, frame.payload.to_vec())
            });
            assert!(frame == (Opcode::RpcResponse, 3, payload), "payload of {length} bytes");
            assert!(peer.read().unwrap().is_close());
        }
    }

    #[test]
    fn a_ping_is_empty() {
        let mut out = Vec::new();
        ping(&mut out);
        assert_eq!(out, [0x89, 0]);
    }
}
