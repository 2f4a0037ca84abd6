//! Headers of the frames that clients send (RFC 6455, section 5.2), and the rules that a frame can break.

use thiserror::Error;

/// Bytes of the longest header of a client's frame.
pub(super) const LONGEST: usize = 14;
/// Bytes of the shortest one, which all control frames have.
pub(super) const SHORTEST: usize = 6;
/// Bytes of the longest payload of a control frame.
const CONTROL: u8 = 125;
/// The largest length that a header may announce.
const LARGEST: u64 = u64::MAX >> 1;

const FIN: u8 = 0x80;
const RESERVED: u8 = 0x70;
const MASKED: u8 = 0x80;

/// The kind of a frame, or of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opcode {
    Continuation,
    Text,
    Binary,
    Close,
    Ping,
    Pong,
}

impl Opcode {
    pub(super) fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }
}

/// A rule that the peer has broken.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub(super) enum Violation {
    #[error("WebSocket protocol violation")]
    Protocol,
    /// A close without a mask, as some proxies say goodbye.
    #[error("a close without a mask")]
    BareClose,
    #[error("message too big")]
    TooBig,
    #[error("not UTF-8")]
    Utf8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) fin: bool,
    pub(super) opcode: Opcode,
    pub(super) mask: [u8; 4],
    /// Bytes of the payload.
    pub(super) length: u64,
}

impl Header {
    /// Reads the header that `bytes` begin with: it, and its length; `None` where its end is missing. A header that breaks a
    /// rule fails as soon as that can be seen.
    pub(super) fn read(bytes: &[u8]) -> Result<Option<(Self, usize)>, Violation> {
        let Some((&first, rest)) = bytes.split_first() else { return Ok(None) };
        let fin = first & FIN != 0;
        let opcode = match first & 0x0f {
            _ if first & RESERVED != 0 => return Err(Violation::Protocol),
            0x0 => Opcode::Continuation,
            0x1 => Opcode::Text,
            0x2 => Opcode::Binary,
            0x8 => Opcode::Close,
            0x9 => Opcode::Ping,
            0xa => Opcode::Pong,
            _ => return Err(Violation::Protocol),
        };
        if opcode.is_control() && !fin {
            return Err(Violation::Protocol);
        }
        let Some((&second, rest)) = rest.split_first() else { return Ok(None) };
        let short = second & !MASKED;
        if opcode.is_control() && short > CONTROL {
            return Err(Violation::Protocol);
        }
        if second & MASKED == 0 {
            return Err(if opcode == Opcode::Close { Violation::BareClose } else { Violation::Protocol });
        }
        let (length, rest) = match short {
            126 => match rest.split_first_chunk() {
                Some((length, rest)) => (u16::from_be_bytes(*length).into(), rest),
                None => return Ok(None),
            },
            127 => match rest.split_first_chunk() {
                Some((length, rest)) => (u64::from_be_bytes(*length), rest),
                None => return Ok(None),
            },
            length => (length.into(), rest),
        };
        // As short as it can be, and of 63 bits.
        let is_long = short == 126 && length <= CONTROL.into() || short == 127 && length <= u16::MAX.into();
        if is_long || length > LARGEST {
            return Err(Violation::Protocol);
        }
        let Some((&mask, rest)) = rest.split_first_chunk() else { return Ok(None) };
        Ok(Some((Self { fin, opcode, mask, length }, bytes.len() - rest.len())))
    }
}

/// Takes the mask off the payload of a frame.
pub(super) fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    let [a, b, c, d] = mask;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let mut words = payload.chunks_exact_mut(8);
    for word in &mut words {
        if let Ok(bytes) = <[u8; 8]>::try_from(&*word) {
            word.copy_from_slice(&(u64::from_ne_bytes(bytes) ^ wide).to_ne_bytes());
        }
    }
    for (byte, mask) in words.into_remainder().iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
}

/// Checks the payload of a close frame: a code that a peer may send and a reason in UTF-8, or nothing.
pub(super) fn check_close(payload: &[u8]) -> Result<(), Violation> {
    let Some((code, reason)) = payload.split_first_chunk() else {
        return if payload.is_empty() { Ok(()) } else { Err(Violation::Protocol) };
    };
    std::str::from_utf8(reason).map_err(|_| Violation::Utf8)?;
    match u16::from_be_bytes(*code) {
        1000..=1003 | 1007..=1014 | 3000..=4999 => Ok(()),
        _ => Err(Violation::Protocol),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MASK: [u8; 4] = [1, 2, 3, 4];

    fn header(bytes: &[u8]) -> Result<Option<(Header, usize)>, Violation> {
        Header::read(bytes)
    }

    #[test]
    fn lengths_are_as_short_as_they_can_be_and_their_first_bit_is_0() {
        let read =
            |bytes: &[u8]| header(&[bytes, &MASK, b"x"].concat()).map(|read| read.map(|(read, at)| (read.length, at)));
        for (bytes, expected) in [
            (&b"\x82\x80"[..], Ok(Some((0, 6)))),
            (b"\x82\xfd", Ok(Some((125, 6)))),
            (b"\x82\xfe\0\x7d", Err(Violation::Protocol)),
            (b"\x82\xfe\0\x7e", Ok(Some((126, 8)))),
            (b"\x82\xfe\xff\xff", Ok(Some((65_535, 8)))),
            (b"\x82\xff\0\0\0\0\0\0\xff\xff", Err(Violation::Protocol)),
            (b"\x82\xff\0\0\0\0\0\x01\0\0", Ok(Some((65_536, 14)))),
            (b"\x82\xff\x7f\xff\xff\xff\xff\xff\xff\xff", Ok(Some((u64::MAX >> 1, 14)))),
            (b"\x82\xff\x80\0\0\0\0\0\0\0", Err(Violation::Protocol)),
            (b"\x82\xff\xff\xff\xff\xff\xff\xff\xff\xff", Err(Violation::Protocol)),
        ] {
            assert_eq!(read(bytes), expected, "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn a_header_without_its_end_waits_for_it() {
        for whole in [&b"\x81\x85abcd"[..], b"\x02\xfe\x01\0abcd", b"\x82\xff\0\0\0\0\0\x01\0\0abcd"] {
            for end in 0..whole.len() {
                assert_eq!(header(&whole[..end]), Ok(None), "{}", whole[..end].escape_ascii());
            }
            assert_eq!(header(whole).unwrap().unwrap().1, whole.len());
        }
    }

    #[test]
    fn every_first_byte_is_known_or_a_violation() {
        for first in 0..=u8::MAX {
            let opcode = match first {
                0x00 | 0x80 => Some(Opcode::Continuation),
                0x01 | 0x81 => Some(Opcode::Text),
                0x02 | 0x82 => Some(Opcode::Binary),
                0x88 => Some(Opcode::Close),
                0x89 => Some(Opcode::Ping),
                0x8a => Some(Opcode::Pong),
                _ => None,
            };
            let read =
                header(&[first, 0x80, 1, 2, 3, 4]).map(|read| read.map(|(header, _)| (header.opcode, header.fin)));
            let expected = opcode.map(|opcode| Some((opcode, first & 0x80 != 0))).ok_or(Violation::Protocol);
            assert_eq!(read, expected, "{first:#x}");
            // The first byte is enough to see it.
            assert_eq!(header(&[first]).is_err(), opcode.is_none(), "{first:#x}");
        }
    }

    #[test]
    fn control_frames_are_short_and_all_are_masked() {
        for first in [0x88, 0x89, 0x8a] {
            assert!(header(&[first, 0x80 | 125]).is_ok());
            for length in [126, 127] {
                assert_eq!(header(&[first, 0x80 | length]), Err(Violation::Protocol));
            }
        }
        assert_eq!(header(b"\x82\x01"), Err(Violation::Protocol));
        assert_eq!(header(b"\x89\x00"), Err(Violation::Protocol));
        for bare in [0, 2, 125] {
            assert_eq!(header(&[0x88, bare]), Err(Violation::BareClose));
        }
        assert_eq!(header(b"\x88\x7e"), Err(Violation::Protocol));
    }

    #[test]
    fn the_mask_is_taken_off_at_every_length() {
        for length in 0..70_usize {
            let plain: Vec<u8> = (0..length).map(|n| n as u8).collect();
            let mut payload: Vec<u8> = plain.iter().enumerate().map(|(n, byte)| byte ^ MASK[n % 4]).collect();
            unmask(&mut payload, MASK);
            assert_eq!(payload, plain);
        }
    }

    #[test]
    fn closes_have_a_code_that_may_be_sent() {
        for code in 0..=u16::MAX {
            let may = matches!(code, 1000 | 1001 | 1002 | 1003 | 1007..=1014 | 3000..=4999);
            let expected = if may { Ok(()) } else { Err(Violation::Protocol) };
            assert_eq!(check_close(&code.to_be_bytes()), expected, "{code}");
        }
        assert_eq!(check_close(b""), Ok(()));
        assert_eq!(check_close(b"\x03"), Err(Violation::Protocol));
        assert_eq!(check_close(b"\x03\xe8tsch\xc3\xbc\xc3\x9f"), Ok(()));
        assert_eq!(check_close(b"\x03\xe8\xff"), Err(Violation::Utf8));
        assert_eq!(check_close(b"\x03\xe8\xc3"), Err(Violation::Utf8), "cut off");
    }
}
