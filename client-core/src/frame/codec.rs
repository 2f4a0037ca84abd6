//! Messages to frames and back. One [`Codec`] per thread or client: it keeps one buffer and, in wasm, the zlib contexts, which
//! elsewhere are the thread's.

use super::{
    Frame, FrameError, HEADER_LEN, Opcode, ZLIB_MARK,
    zlib::{Contexts, Inflate, MAX_MATCH, WINDOW},
};
use crate::config::Limits;

/// What the inflate buffer may keep between messages; bytes.
const KEEP: usize = 64 * 1024;

/// Reusable state of the zlib layer. Messages do not depend on each other.
#[derive(Default)]
pub struct Codec {
    contexts: Contexts,
    inflated: Vec<u8>,
}

impl std::fmt::Debug for Codec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Codec").field("kept_bytes", &self.inflated.capacity()).finish_non_exhaustive()
    }
}

impl Codec {
    /// Reads a message. Bytes after the payload are ignored; a compressed message is known by its first byte.
    ///
    /// Allocates at most `max_payload` bytes and 64 KiB, whatever the message claims.
    ///
    /// # Errors
    ///
    /// [`FrameError`]; the codec stays usable.
    pub fn decode<'a>(&'a mut self, message: &'a [u8], limits: &Limits) -> Result<Frame<'a>, FrameError> {
        if message.first() == Some(&ZLIB_MARK) {
            let out = &mut self.inflated;
            let end = self.contexts.inflate(|inflater| inflate(inflater, message, limits, out))?;
            decode(self.inflated.get(..end).unwrap_or_default(), limits.max_payload)
        } else {
            decode(message, limits.max_payload)
        }
    }

    /// Writes a message, compressed when header and payload together exceed `compress_above` bytes.
    ///
    /// The caller keeps payloads below the peer's limit, and thereby below `u32::MAX`.
    pub fn encode(&mut self, opcode: Opcode, correlation: u32, payload: &[u8], compress_above: usize) -> Vec<u8> {
        let mut plain = Vec::with_capacity(HEADER_LEN + payload.len());
        encode_plain(opcode, correlation, payload, &mut plain);
        self.compress(plain, compress_above)
    }

    /// Compresses a plain message when it exceeds `compress_above` bytes; a shorter one is returned
    /// as it is.
    pub fn compress(&mut self, plain: Vec<u8>, compress_above: usize) -> Vec<u8> {
        if plain.len() <= compress_above {
            return plain;
        }
        // A receiver takes either: it goes by the first byte.
        self.deflate(&plain).unwrap_or(plain)
    }

    /// The same message compressed; `None` where it cannot be, and goes as it is.
    pub fn deflate(&mut self, plain: &[u8]) -> Option<Vec<u8>> {
        self.contexts.deflate(plain)
    }
}

/// Inflates what there is room for, and the header at least, then no more than it declares; what follows is only checked. Returns
/// where the message ends in `out`. The bytes behind are an earlier message's: a message that finds room needs none made and cleared.
fn inflate(
    inflater: &mut impl Inflate,
    message: &[u8],
    limits: &Limits,
    out: &mut Vec<u8>,
) -> Result<usize, FrameError> {
    if message.len() > limits.max_compressed {
        return Err(FrameError::CompressedTooLong { bytes: message.len(), limit: limits.max_compressed });
    }
    inflater.reset();
    if out.capacity() > KEEP {
        *out = Vec::new();
    }
    if out.len() < HEADER_LEN + MAX_MATCH {
        out.resize(HEADER_LEN + MAX_MATCH, 0);
    }

    // Of the bytes up to `end`, the first `kept` are the frame; of those after it, some may have been dropped.
    let (mut kept, mut end, mut dropped) = (0, 0, 0);
    loop {
        end = inflater.step(message, out, end).ok_or(FrameError::BrokenZlib)?;
        if end + dropped > limits.max_inflated {
            return Err(FrameError::InflatedTooLong { limit: limits.max_inflated });
        }
        if inflater.finished() {
            return Ok(end);
        }
        if kept == 0 && end >= HEADER_LEN {
            let declared = header(out, limits.max_payload)?.2;
            kept = (HEADER_LEN + declared).min(limits.max_inflated);
        }
        let mut size = kept + MAX_MATCH;
        if end > kept {
            size = kept + 2 * WINDOW;
            if end + MAX_MATCH > size {
                let window = kept + WINDOW;
                out.copy_within(end - WINDOW..end, kept);
                dropped += end - window;
                end = window;
            }
        }
        out.resize(size, 0);
    }
}

/// Reads an uncompressed message.
///
/// # Errors
///
/// [`FrameError`], also for a compressed one, whose first byte is no opcode.
pub fn decode(message: &[u8], max_payload: usize) -> Result<Frame<'_>, FrameError> {
    let (opcode, correlation, declared) = header(message, max_payload)?;
    let rest = &message[HEADER_LEN..];
    let payload = rest.get(..declared).ok_or(FrameError::Truncated { declared, present: rest.len() })?;
    Ok(Frame { opcode, correlation, payload })
}

fn header(message: &[u8], max_payload: usize) -> Result<(Opcode, u32, usize), FrameError> {
    let &[opcode, c0, c1, c2, c3, l0, l1, l2, l3, ..] = message else {
        return Err(FrameError::Short { bytes: message.len() });
    };
    let opcode = Opcode::from_byte(opcode).ok_or(FrameError::UnknownOpcode { opcode })?;
    let bytes = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
    if bytes > max_payload {
        return Err(FrameError::PayloadTooLong { bytes, limit: max_payload });
    }
    Ok((opcode, u32::from_be_bytes([c0, c1, c2, c3]), bytes))
}

fn encode_plain(opcode: Opcode, correlation: u32, payload: &[u8], out: &mut Vec<u8>) {
    out.push(opcode as u8);
    out.extend_from_slice(&correlation.to_be_bytes());
    out.extend_from_slice(&u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(payload);
}

#[cfg(test)]
mod tests {
    use super::{super::zlib::native::Inflater, *};

    fn roundtrip(payload: &[u8], compress_above: usize) {
        let mut codec = Codec::default();
        let message = codec.encode(Opcode::RpcResponse, 9, payload, compress_above);
        assert_eq!(message[0] == ZLIB_MARK, HEADER_LEN + payload.len() > compress_above);
        let frame = codec.decode(&message, &Limits::default()).unwrap();
        assert_eq!((frame.opcode, frame.correlation, frame.payload), (Opcode::RpcResponse, 9, payload));
    }

    #[test]
    fn compresses_above_the_threshold_only() {
        for bytes in [0, 1, 246, 247, 248, 249, 5_000, 1024 * 1024] {
            roundtrip(&vec![b'a'; bytes], 256);
        }
        let noise: Vec<u8> = (0..100_000u64).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect();
        roundtrip(&noise, 256);
        roundtrip(b"x", 0);
    }

    #[test]
    fn payload_limit_holds_below_at_and_above() {
        let limits = Limits { max_payload: 1_000, ..Limits::default() };
        for compress_above in [256, usize::MAX] {
            for (bytes, fits) in [(999, true), (1_000, true), (1_001, false)] {
                let mut codec = Codec::default();
                let message = codec.encode(Opcode::Ping, 0, &vec![b' '; bytes], compress_above);
                assert_eq!(codec.decode(&message, &limits).is_ok(), fits, "{bytes} bytes");
            }
        }
    }

    #[test]
    fn compressed_limit_holds_below_at_and_above() {
        let mut codec = Codec::default();
        let message = codec.encode(Opcode::Ping, 0, &[b' '; 1_000], 256);
        for (limit, fits) in [(message.len() - 1, false), (message.len(), true), (message.len() + 1, true)] {
            let limits = Limits { max_compressed: limit, ..Limits::default() };
            assert_eq!(codec.decode(&message, &limits).is_ok(), fits);
        }
    }

    #[test]
    fn inflated_limit_counts_what_follows_the_payload() {
        let mut codec = Codec::default();
        let mut plain = vec![Opcode::Ping as u8, 0, 0, 0, 0, 0, 0, 0, 4];
        plain.extend_from_slice(b"null");
        plain.resize(20_000, b' ');
        let message = codec.compress(plain, 256);
        for (limit, fits) in [(19_999, false), (20_000, true), (20_001, true)] {
            let limits = Limits { max_inflated: limit, ..Limits::default() };
            assert_eq!(codec.decode(&message, &limits).map(|frame| frame.payload.len()).ok(), fits.then_some(4));
        }
    }

    #[test]
    fn what_follows_the_payload_is_checked_without_being_kept() {
        let mut codec = Codec::default();
        // Far matches from beyond what is kept at once, and a last block that begins there.
        let text = b"what follows the payload ".repeat(1_600);
        for bytes in [60_000, 65_535, 65_536, 70_000, 300_000] {
            let mut plain = vec![Opcode::Ping as u8, 0, 0, 0, 0, 0, 0, 0, 4];
            plain.extend_from_slice(b"null");
            plain.extend(text.iter().cycle().take(bytes));
            plain.extend((0..40_000u32).map(|i| (i.wrapping_mul(i) >> 3) as u8));
            let mut message = codec.compress(plain, 256);
            what_follows(&mut Inflater::new(), &message, Ok(b"null"));
            what_follows(&mut super::super::inflate::Inflater::new(), &message, Ok(b"null"));
            *message.last_mut().unwrap() ^= 1;
            what_follows(&mut Inflater::new(), &message, Err(FrameError::BrokenZlib));
            what_follows(&mut super::super::inflate::Inflater::new(), &message, Err(FrameError::BrokenZlib));
        }
    }

    fn what_follows(inflater: &mut impl Inflate, message: &[u8], expected: Result<&[u8], FrameError>) {
        let mut out = Vec::new();
        let payload =
            inflate(inflater, message, &Limits::default(), &mut out).map(|end| decode(&out[..end], 4).unwrap().payload);
        assert_eq!(payload, expected);
        assert!(out.capacity() < 128 * 1024);
    }

    #[test]
    fn what_an_earlier_message_has_left_is_not_read() {
        let mut codec = Codec::default();
        for bytes in [5_000, 300, 4_000, 60_000, 70_000, 1_000] {
            let payload: Vec<u8> = (0..bytes).map(|at| at as u8).collect();
            let message = codec.encode(Opcode::StatePatch, 1, &payload, 256);
            assert_eq!(codec.decode(&message, &Limits::default()).unwrap().payload, payload);
            let mut short = vec![Opcode::Ping as u8, 0, 0, 0, 0, 0, 0, 1, 44];
            short.extend_from_slice(&[b' '; 299]);
            let message = codec.deflate(&short).unwrap();
            let cut_off = FrameError::Truncated { declared: 300, present: 299 };
            assert_eq!(codec.decode(&message, &Limits::default()).unwrap_err(), cut_off);
        }
    }

    #[test]
    fn every_truncation_of_a_compressed_message_is_refused_and_the_codec_goes_on() {
        let mut codec = Codec::default();
        let message = codec.encode(Opcode::StatePatch, 1, &[b'a'; 700], 256);
        for end in 1..message.len() {
            assert!(codec.decode(&message[..end], &Limits::default()).is_err(), "cut at {end}");
        }
        assert!(codec.decode(&message, &Limits::default()).is_ok());
    }
}
