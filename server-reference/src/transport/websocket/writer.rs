//! Frames of the server (RFC 6455, section 5.2), which carry no mask.

use super::frame::Opcode;

/// FIN and the opcodes in use.
const BINARY: u8 = 0x82;
const CLOSE: u8 = 0x88;
const PING: u8 = 0x89;
const PONG: u8 = 0x8a;

/// Appends the header of a binary message of so many bytes.
pub(super) fn binary(out: &mut Vec<u8>, length: usize) {
    header(out, BINARY, length);
}

/// Appends a WebSocket close frame.
pub(super) fn close(out: &mut Vec<u8>, code: u16, reason: &str) {
    let reason = &reason.as_bytes()[..reason.floor_char_boundary(123)];
    header(out, CLOSE, 2 + reason.len());
    out.extend_from_slice(&code.to_be_bytes());
    out.extend_from_slice(reason);
}

/// Appends an empty WebSocket ping.
pub(super) fn ping(out: &mut Vec<u8>) {
    header(out, PING, 0);
}

/// Appends the answer to a ping, or to a close, which is one with the same payload.
pub(super) fn answer(out: &mut Vec<u8>, to: Opcode, payload: &[u8]) {
    header(out, if to == Opcode::Close { CLOSE } else { PONG }, payload.len());
    out.extend_from_slice(payload);
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
        for length in [0, 1, 116, 117, 125, 126, 65_526, 65_527, 65_535, 65_536, 200_000] {
            let payload = vec![b'x'; length];
            let mut out = Vec::new();
            binary(&mut out, length);
            out.extend_from_slice(&payload);
            close(&mut out, 4001, "fell behind");
            let mut peer = WebSocket::from_raw_socket(std::io::Cursor::new(out), Role::Client, None);
            assert!(peer.read().unwrap().into_data() == payload, "payload of {length} bytes");
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
