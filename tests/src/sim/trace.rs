//! A digest of everything that clients and server put out, to compare two runs of one seed by.

use std::hash::{DefaultHasher, Hasher};

use datasole_core::{
    Limits, Output,
    frame::{Codec, Frame, Opcode},
    wire::{split_item, split_varuint},
};

/// What precedes a reading of the wall clock, in payloads and in what the core's outputs print: the only part of an
/// output that may differ between two runs.
const TIMES: [&str; 4] = ["\"timestamp\":", "\"time\":", "timestamp: ", "server_time: Some("];

/// The digest so far; the order of the outputs counts.
#[derive(Default)]
pub(super) struct Trace(DefaultHasher);

impl Trace {
    /// One output of a client.
    pub(super) fn output(&mut self, now: u64, client: &str, output: &Output) {
        self.add(now, client.as_bytes());
        match output {
            Output::Send { socket, message } => self.add(socket.0, message),
            other => self.add(0, &without_times(&format!("{other:?}"))),
        }
    }

    /// One message of the server, to the client at the other end of a link.
    pub(super) fn message(&mut self, now: u64, link: usize, codec: &mut Codec, message: &[u8]) {
        let Frame { opcode, correlation, payload } = codec.decode(message, &Limits::default()).unwrap();
        self.add(now, &link.to_be_bytes());
        self.add(u64::from(correlation), &[opcode as u8]);
        match (opcode, std::str::from_utf8(payload)) {
            (Opcode::Batch, _) => {
                let mut rest = payload;
                while let Some((item, after)) = split_item(rest) {
                    self.message(now, link, &mut Codec::default(), item);
                    rest = after;
                }
            }
            (Opcode::Entry, _) => {
                let (seq, content) = split_varuint(payload).unwrap();
                // Of an event the time comes first, with its high bit set; of a patch a bracket.
                let is_event = content.first().is_some_and(|first| *first >= 0x80);
                let content = if is_event { split_varuint(content).unwrap().1 } else { content };
                self.add(seq, content);
            }
            (_, Ok(text)) => self.add(0, &without_times(text)),
            (_, Err(_)) => self.add(0, payload),
        }
    }

    /// The server's end of a connection.
    pub(super) fn close(&mut self, now: u64, link: usize, code: u16) {
        self.add(now, &link.to_be_bytes());
        self.add(u64::from(code), b"close");
    }

    /// The digest of all that was added.
    pub(super) fn digest(&self) -> u64 {
        self.0.finish()
    }

    fn add(&mut self, number: u64, bytes: &[u8]) {
        self.0.write_u64(number);
        self.0.write_usize(bytes.len());
        self.0.write(bytes);
    }
}

/// The text with the digits of each wall-clock time taken out.
fn without_times(text: &str) -> Vec<u8> {
    let mut rest = text;
    let mut kept = Vec::with_capacity(text.len());
    while let Some(at) = TIMES.iter().filter_map(|name| rest.find(name).map(|at| at + name.len())).min() {
        kept.extend_from_slice(&rest.as_bytes()[..at]);
        rest = rest[at..].trim_start_matches(|c: char| c.is_ascii_digit());
    }
    kept.extend_from_slice(rest.as_bytes());
    kept
}

#[cfg(test)]
mod tests {
    use datasole_core::{SocketId, wire::push_varuint};

    use super::*;

    fn digest(add: impl FnOnce(&mut Trace)) -> u64 {
        let mut trace = Trace::default();
        add(&mut trace);
        trace.digest()
    }

    #[test]
    fn a_digest_depends_on_all_but_the_wall_clock() {
        let mut codec = Codec::default();
        let mut message = |now, link, text: &str| {
            let message = codec.encode(Opcode::ServerEvent, 0, text.as_bytes(), usize::MAX);
            digest(|trace| trace.message(now, link, &mut codec, &message))
        };
        let first = message(1, 1, r#"{"event":"a","data":7,"timestamp":123}"#);
        assert_eq!(message(1, 1, r#"{"event":"a","data":7,"timestamp":4}"#), first, "the wall clock");
        assert_ne!(message(2, 1, r#"{"event":"a","data":7,"timestamp":123}"#), first, "the world's clock");
        assert_ne!(message(1, 2, r#"{"event":"a","data":7,"timestamp":123}"#), first, "another link");
        assert_ne!(message(1, 1, r#"{"event":"a","data":8,"timestamp":123}"#), first, "other data");

        let mut entry = |time: u64, data: &[u8]| {
            let mut payload = vec![1];
            push_varuint(&mut payload, time);
            payload.extend_from_slice(data);
            let message = codec.encode(Opcode::Entry, 7, &payload, usize::MAX);
            digest(|trace| trace.message(1, 1, &mut codec, &message))
        };
        let short = entry(1_764_432_000_000, b"7");
        assert_eq!(entry(1_764_432_000_001, b"7"), short, "the wall clock");
        assert_ne!(entry(1_764_432_000_000, b"8"), short, "other data");

        let send = |message: &[u8]| Output::Send { socket: SocketId(1), message: message.into() };
        let one = digest(|trace| trace.output(1, "ann", &send(b"x")));
        assert_ne!(digest(|trace| trace.output(1, "bob", &send(b"x"))), one, "another client");
        assert_ne!(digest(|trace| trace.output(1, "ann", &send(b"y"))), one, "another message");
        assert_ne!(digest(|trace| trace.output(1, "ann", &Output::NeedToken)), one, "another output");
        let two = |a: &[u8], b: &[u8]| {
            digest(|trace| {
                trace.output(1, "ann", &send(a));
                trace.output(1, "ann", &send(b));
            })
        };
        assert_ne!(two(b"x", b"y"), two(b"y", b"x"), "the order");
        assert_ne!(digest(|trace| trace.close(1, 1, 4000)), digest(|trace| trace.close(1, 1, 4001)), "another code");
    }
}
