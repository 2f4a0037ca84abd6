//! zlib (RFC 1950) behind one interface: zlib-rs natively, `miniz_oxide` in wasm, where it is small and fast enough.

#[cfg(not(target_arch = "wasm32"))]
pub(super) use native::{Deflater, Inflater};
#[cfg(target_arch = "wasm32")]
pub(super) use portable::{Deflater, Inflater};

/// What one call of `Inflater::step` did.
pub(super) struct Step {
    /// Bytes of input used.
    pub(super) consumed: usize,
    /// Bytes of output written.
    pub(super) produced: usize,
    /// The stream has ended and its checksum is right.
    pub(super) finished: bool,
}

#[cfg(not(target_arch = "wasm32"))]
mod native {
    use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

    use super::Step;

    pub(in crate::frame) struct Inflater(Decompress);

    impl Inflater {
        pub(in crate::frame) fn new() -> Self {
            Self(Decompress::new(true))
        }

        pub(in crate::frame) fn reset(&mut self) {
            self.0.reset(true);
        }

        pub(in crate::frame) fn step(&mut self, input: &[u8], output: &mut [u8]) -> Option<Step> {
            let (read, written) = (self.0.total_in(), self.0.total_out());
            let status = self.0.decompress(input, output, FlushDecompress::None).ok()?;
            Some(Step {
                consumed: (self.0.total_in() - read) as usize,
                produced: (self.0.total_out() - written) as usize,
                finished: status == Status::StreamEnd,
            })
        }
    }

    pub(in crate::frame) struct Deflater(Compress);

    impl Deflater {
        /// Level 3: a third faster than 6 for 6 % more bytes (ARCHITECTURE, "Decisions").
        pub(in crate::frame) fn new() -> Self {
            Self(Compress::new(Compression::new(3), true))
        }

        /// Nothing when zlib fails, which it has no reason to on a fresh context.
        pub(in crate::frame) fn deflate(&mut self, plain: &[u8]) -> Option<Vec<u8>> {
            self.0.reset();
            let mut out = Vec::with_capacity(plain.len() / 2 + 64);
            loop {
                let read = self.0.total_in() as usize;
                match self.0.compress_vec(&plain[read..], &mut out, FlushCompress::Finish).ok()? {
                    Status::StreamEnd => return Some(out),
                    // Out of room.
                    Status::Ok | Status::BufError => out.reserve(out.capacity()),
                }
            }
        }
    }
}

#[cfg(any(target_arch = "wasm32", test))]
mod portable {
    use miniz_oxide::{
        DataFormat, MZError, MZFlush, MZStatus,
        deflate::{
            core::{CompressorOxide, create_comp_flags_from_zip_params},
            stream::deflate,
        },
        inflate::stream::{InflateState, inflate},
    };

    use super::Step;

    pub(in crate::frame) struct Inflater(Box<InflateState>);

    impl Inflater {
        pub(in crate::frame) fn new() -> Self {
            Self(InflateState::new_boxed(DataFormat::Zlib))
        }

        pub(in crate::frame) fn reset(&mut self) {
            self.0.reset(DataFormat::Zlib);
        }

        pub(in crate::frame) fn step(&mut self, input: &[u8], output: &mut [u8]) -> Option<Step> {
            let result = inflate(&mut self.0, input, output, MZFlush::None);
            let finished = match result.status {
                Ok(MZStatus::StreamEnd) => true,
                // No progress possible: the caller sees it by the zeros.
                Ok(_) | Err(MZError::Buf) => false,
                Err(_) => return None,
            };
            Some(Step { consumed: result.bytes_consumed, produced: result.bytes_written, finished })
        }
    }

    pub(in crate::frame) struct Deflater(Box<CompressorOxide>);

    impl Deflater {
        pub(in crate::frame) fn new() -> Self {
            // Level 3, window bits positive: zlib framing, as natively.
            Self(Box::new(CompressorOxide::new(create_comp_flags_from_zip_params(3, 1, 0))))
        }

        /// Nothing when the compressor fails, which it has no reason to on a fresh context.
        pub(in crate::frame) fn deflate(&mut self, plain: &[u8]) -> Option<Vec<u8>> {
            self.0.reset();
            let mut out = vec![0; plain.len() / 2 + 64];
            let (mut read, mut written) = (0, 0);
            loop {
                let result = deflate(&mut self.0, &plain[read..], &mut out[written..], MZFlush::Finish);
                read += result.bytes_consumed;
                written += result.bytes_written;
                match result.status {
                    Ok(MZStatus::StreamEnd) => {
                        out.truncate(written);
                        return Some(out);
                    }
                    // Out of room.
                    Ok(_) | Err(MZError::Buf) => out.resize(out.len() * 2, 0),
                    Err(_) => return None,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Step, native, portable};

    /// Inflates as the codec does, `chunk` bytes of output at a time: the result, or nothing for a broken stream.
    fn drain(mut step: impl FnMut(&[u8], &mut [u8]) -> Option<Step>, stream: &[u8], chunk: usize) -> Option<Vec<u8>> {
        let (mut read, mut plain, mut buffer) = (0, Vec::new(), vec![0; chunk]);
        loop {
            let Step { consumed, produced, finished } = step(&stream[read..], &mut buffer)?;
            read += consumed;
            plain.extend_from_slice(&buffer[..produced]);
            if finished {
                return Some(plain);
            }
            if consumed == 0 && produced == 0 {
                return None;
            }
        }
    }

    /// Both backends, each with one context for all streams, must say the same.
    fn check(streams: &[(Vec<u8>, Option<&[u8]>)]) {
        for chunk in [1, 9, 4096, 1024 * 1024] {
            let (mut native, mut portable) = (native::Inflater::new(), portable::Inflater::new());
            for (number, (stream, expected)) in streams.iter().enumerate() {
                native.reset();
                portable.reset();
                let natively = drain(|input, output| native.step(input, output), stream, chunk);
                let portably = drain(|input, output| portable.step(input, output), stream, chunk);
                assert!(natively.as_deref() == *expected, "native, stream {number}, {chunk} at a time");
                assert!(portably.as_deref() == *expected, "portable, stream {number}, {chunk} at a time");
            }
        }
    }

    #[test]
    fn both_backends_read_each_other() {
        let long: Vec<u8> = (0..70_000u32).map(|i| (i.wrapping_mul(i) % 251) as u8).collect();
        let noise: Vec<u8> =
            (0..70_000u64).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29) >> 40) as u8).collect();
        let (mut native, mut portable) = (native::Deflater::new(), portable::Deflater::new());
        let mut streams = Vec::new();
        for plain in [&b""[..], b"x", &[b'a'; 40_000], &long, &noise] {
            for stream in [native.deflate(plain).unwrap(), portable.deflate(plain).unwrap()] {
                assert_eq!(stream[0], 0x78);
                streams.push((stream, Some(plain)));
            }
        }
        check(&streams);
    }

    #[test]
    fn broken_streams_are_refused_and_the_context_goes_on() {
        let plain = b"hello hello hello hello";
        let good = native::Deflater::new().deflate(plain).unwrap();
        let with = |at: usize, byte: u8| {
            let mut stream = good.clone();
            stream[at] = byte;
            stream
        };
        let needs_dictionary = [&[0x78, 0x20, 1, 2, 3, 4][..], &good[2..]].concat();
        assert_eq!((0x7820 % 31, 0x20 & 0x20), (0, 0x20), "a valid header that asks for a preset dictionary");
        let trailing = [&good[..], b"more"].concat();
        check(&[
            (good.clone(), Some(plain)),
            (needs_dictionary, None),
            (good.clone(), Some(plain)),
            (with(1, good[1] ^ 1), None),
            (with(good.len() - 1, good[good.len() - 1] ^ 1), None),
            (vec![0x78, 0x9c, 0x07], None),
            (vec![0x78, 0x9c], None),
            (vec![], None),
            (good[..good.len() - 1].to_vec(), None),
            (trailing, Some(plain)),
            (good.clone(), Some(plain)),
        ]);
    }

    #[test]
    fn the_vectors_mean_the_same_to_both() {
        let vectors = include_str!("../../../tests/vectors/v1-frames.json");
        let vectors: serde_json::Value = serde_json::from_str(vectors).unwrap();
        let mut compressed = [0, 0];
        for (list, count) in ["frames", "malformed"].iter().zip(&mut compressed) {
            for record in vectors[list].as_array().unwrap() {
                let hex = record["wire"].as_str().unwrap();
                let stream: Vec<u8> =
                    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect();
                if stream.first() == Some(&0x78) {
                    let (mut native, mut portable) = (native::Inflater::new(), portable::Inflater::new());
                    let plain = drain(|input, output| native.step(input, output), &stream, 4096);
                    assert!(plain.is_some() || *list == "malformed", "{}", record["name"]);
                    let portably = drain(|input, output| portable.step(input, output), &stream, 4096);
                    assert!(portably == plain, "{}", record["name"]);
                    *count += 1;
                }
            }
        }
        assert!(compressed[0] >= 4 && compressed[1] >= 1, "{compressed:?}");
    }
}
