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
        /// Level 3: a third faster than 6 for 6 % more bytes (DESIGN, "Server").
        pub(in crate::frame) fn new() -> Self {
            Self(Compress::new(Compression::new(3), true))
        }

        pub(in crate::frame) fn deflate(&mut self, plain: &[u8]) -> Vec<u8> {
            self.0.reset();
            let mut out = Vec::with_capacity(plain.len() / 2 + 64);
            loop {
                let read = self.0.total_in() as usize;
                match self.0.compress_vec(&plain[read..], &mut out, FlushCompress::Finish) {
                    Ok(Status::StreamEnd) => return out,
                    // Out of room: zlib never fails otherwise on a fresh context.
                    Ok(_) | Err(_) => out.reserve(out.capacity().max(64)),
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

        pub(in crate::frame) fn deflate(&mut self, plain: &[u8]) -> Vec<u8> {
            self.0.reset();
            let mut out = vec![0; plain.len() / 2 + 64];
            let (mut read, mut written) = (0, 0);
            loop {
                let result = deflate(&mut self.0, &plain[read..], &mut out[written..], MZFlush::Finish);
                read += result.bytes_consumed;
                written += result.bytes_written;
                if matches!(result.status, Ok(MZStatus::StreamEnd)) {
                    out.truncate(written);
                    return out;
                }
                out.resize(out.len() * 2, 0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{native, portable};

    #[test]
    fn both_backends_read_each_other() {
        let plain: Vec<u8> = (0..70_000u32).map(|i| (i * i % 251) as u8).collect();
        for compressed in [native::Deflater::new().deflate(&plain), portable::Deflater::new().deflate(&plain)] {
            assert_eq!(compressed[0], 0x78);
            let mut out = vec![0; plain.len() + 1];
            let step = native::Inflater::new().step(&compressed, &mut out).unwrap();
            assert!(step.finished && out[..step.produced] == plain[..]);
            let mut inflater = portable::Inflater::new();
            let (mut read, mut written) = (0, 0);
            loop {
                let step = inflater.step(&compressed[read..], &mut out[written..]).unwrap();
                read += step.consumed;
                written += step.produced;
                if step.finished {
                    break;
                }
                assert!(step.consumed + step.produced > 0, "no progress");
            }
            assert!(out[..written] == plain[..]);
        }
    }

    #[test]
    fn contexts_are_reusable() {
        let mut deflater = portable::Deflater::new();
        let first = deflater.deflate(b"hello hello hello hello");
        assert_eq!(deflater.deflate(b"hello hello hello hello"), first);
    }
}
