//! zlib (RFC 1950) behind one interface: zlib-rs natively, in wasm the smallest that is as fast as a library.

#[cfg(not(target_arch = "wasm32"))]
pub(super) use native::Contexts;

#[cfg(target_arch = "wasm32")]
use super::{deflate::Deflater, inflate::Inflater};

/// The contexts of one codec, made when they are first used.
#[cfg(target_arch = "wasm32")]
#[derive(Default)]
pub(super) struct Contexts {
    inflater: Option<Inflater>,
    deflater: Option<Deflater>,
}

#[cfg(target_arch = "wasm32")]
impl Contexts {
    pub(super) fn inflate<R>(&mut self, f: impl FnOnce(&mut Inflater) -> R) -> R {
        f(self.inflater.get_or_insert_with(Inflater::new))
    }

    pub(super) fn deflate(&mut self, plain: &[u8]) -> Option<Vec<u8>> {
        self.deflater.get_or_insert_with(Deflater::new).deflate(plain)
    }
}

/// Reads one stream after the other.
pub(super) trait Inflate {
    /// Begins a stream.
    fn reset(&mut self);

    /// Goes on writing into `out` from `at` on: where the bytes end then. Stops at the end of the stream, or when fewer than
    /// [`MAX_MATCH`] bytes are free. The [`WINDOW`] written last has to be in front of `at`. Nothing for a broken stream.
    fn step(&mut self, stream: &[u8], out: &mut [u8], at: usize) -> Option<usize>;

    /// Whether the stream has ended, with the right checksum.
    fn finished(&self) -> bool;
}

/// The longest match; bytes. Inflating stops when there is less room than this.
pub(super) const MAX_MATCH: usize = 258;

/// How far back a match may begin; bytes.
pub(super) const WINDOW: usize = 32 * 1024;

#[cfg(not(target_arch = "wasm32"))]
pub(super) mod native {
    use std::cell::RefCell;

    use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

    use super::Inflate;

    thread_local! {
        static INFLATER: RefCell<Inflater> = RefCell::new(Inflater::new());
        static DEFLATER: RefCell<Deflater> = RefCell::new(Deflater::new());
    }

    /// The contexts of the thread. They are large, and of use to one message at a time: clients that are idle have none.
    #[derive(Default)]
    pub(in crate::frame) struct Contexts;

    impl Contexts {
        pub(in crate::frame) fn inflate<R>(&mut self, f: impl FnOnce(&mut Inflater) -> R) -> R {
            INFLATER.with_borrow_mut(f)
        }

        pub(in crate::frame) fn deflate(&mut self, plain: &[u8]) -> Option<Vec<u8>> {
            DEFLATER.with_borrow_mut(|deflater| deflater.deflate(plain))
        }
    }

    /// The context, and whether its stream has ended.
    pub(in crate::frame) struct Inflater(Decompress, bool);

    impl Inflater {
        pub(in crate::frame) fn new() -> Self {
            Self(Decompress::new(true), false)
        }
    }

    impl Inflate for Inflater {
        fn reset(&mut self) {
            self.0.reset(true);
            self.1 = false;
        }

        fn step(&mut self, stream: &[u8], out: &mut [u8], at: usize) -> Option<usize> {
            let (read, written) = (self.0.total_in(), self.0.total_out());
            let (rest, room) = (stream.get(read as usize..)?, out.get_mut(at..)?);
            self.1 = self.0.decompress(rest, room, FlushDecompress::None).ok()? == Status::StreamEnd;
            let produced = self.0.total_out() - written;
            let moved = self.1 || produced > 0 || self.0.total_in() > read;
            moved.then_some(at + produced as usize)
        }

        fn finished(&self) -> bool {
            self.1
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{
        super::{
            agree::{drain, with_checksum},
            deflate, inflate,
        },
        native,
    };

    /// Both backends, each with one context for all streams, must say the same.
    fn check(streams: &[(Vec<u8>, Option<&[u8]>)]) {
        for chunk in [1, 9, 4096, 1024 * 1024] {
            check_by(chunk, streams);
        }
    }

    fn check_by(chunk: usize, streams: &[(Vec<u8>, Option<&[u8]>)]) {
        let (mut native, mut portable) = (native::Inflater::new(), inflate::Inflater::new());
        for (number, (stream, expected)) in streams.iter().enumerate() {
            let natively = drain(&mut native, stream, chunk);
            let portably = drain(&mut portable, stream, chunk);
            assert!(natively.as_deref() == *expected, "native, stream {number}, {chunk} at a time");
            assert!(portably.as_deref() == *expected, "portable, stream {number}, {chunk} at a time");
        }
    }

    #[test]
    fn both_backends_read_both_compressors() {
        let long: Vec<u8> = (0..70_000u32).map(|i| (i.wrapping_mul(i) % 251) as u8).collect();
        let noise = noise(70_000);
        let (mut native, mut portable) = (native::Deflater::new(), deflate::Deflater::new());
        let mut streams = Vec::new();
        for plain in [&b""[..], b"x", &[b'a'; 40_000], &long, &noise] {
            let stream = native.deflate(plain).unwrap();
            assert_eq!(stream[0], 0x78);
            streams.push((stream, Some(plain)));
            // Only what becomes shorter.
            assert_eq!(portable.deflate(plain).is_some(), plain.len() > 1 && *plain != noise);
            streams.extend(portable.deflate(plain).map(|stream| (stream, Some(plain))));
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

    fn noise(bytes: u64) -> Vec<u8> {
        let mut state = 1u64;
        let next = |_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        };
        (0..bytes).map(next).collect()
    }

    /// Lists of records as applications send them, of about this many bytes.
    fn records(bytes: usize) -> Vec<u8> {
        let (mut text, mut random) = (String::from("["), noise(64 * bytes as u64).into_iter());
        while text.len() < bytes {
            let [a, b, c] = [(); 3].map(|()| random.next().unwrap_or_default());
            let name = ["Ann", "Bob", "Carla", "Dmitri", "Eve", "Fatima"][a as usize % 6];
            text += &format!(
                r#"{{"id":{},"name":"{name} {b:x}","email":"{name}.{c}@example.org","active":{},"score":{}.{b},"tags":["t{}"]}},"#,
                text.len(),
                a % 2 == 0,
                u32::from(b) * u32::from(c),
                c % 9,
            );
        }
        text.pop();
        (text + "]").into()
    }

    #[test]
    fn texts_become_nearly_as_short_as_by_the_library() {
        for bytes in [300, 1_000, 7_000, 40_000, 300_000] {
            let plain = records(bytes);
            let ours = deflate::Deflater::new().deflate(&plain).unwrap().len();
            let theirs = miniz_oxide::deflate::compress_to_vec_zlib(&plain, 6).len();
            assert!(ours * 100 <= theirs * 115, "{bytes} bytes become {ours}, by the library {theirs}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_come_back(
            parts in proptest::collection::vec(
                (proptest::collection::vec(any::<u8>(), 1..20), 1..60usize),
                0..40,
            ),
            gap in 0..70_000usize,
        ) {
            let repeated: Vec<u8> = parts.iter().flat_map(|(part, times)| part.repeat(*times)).collect();
            let plain = [&repeated[..], &noise(gap as u64), &repeated].concat();
            let mut deflater = deflate::Deflater::new();
            // With what an earlier message left behind.
            let first = deflater.deflate(&repeated);
            let streams = [(first, &repeated), (deflater.deflate(&plain), &plain)];
            check_by(4096, &streams.into_iter().filter_map(|(stream, plain)| Some((stream?, Some(&plain[..])))).collect::<Vec<_>>());
        }

        /// Streams of every level, in which bytes have been changed: either backend refuses them, or both read the same.
        #[test]
        fn changed_streams_mean_the_same_to_both(
            bytes in 0..3_000usize,
            level in 0..10u8,
            changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..4),
            chunk in 1..5_000usize,
        ) {
            let plain = [records(bytes), noise(bytes as u64 / 8)].concat();
            let mut stream = miniz_oxide::deflate::compress_to_vec_zlib(&plain, level);
            for (at, byte) in changes {
                // Codes of their own begin early.
                let at = at.index(stream.len().min(200));
                stream[at] = byte;
            }
            let stream = with_checksum(stream);
            let natively = drain(&mut native::Inflater::new(), &stream, chunk);
            let portably = drain(&mut inflate::Inflater::new(), &stream, chunk);
            prop_assert!(natively == portably, "{:?} {:?}", natively.map(|plain| plain.len()), portably.map(|plain| plain.len()));
        }
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
                    let plain = drain(&mut native::Inflater::new(), &stream, 4096);
                    assert!(plain.is_some() || *list == "malformed", "{}", record["name"]);
                    let portably = drain(&mut inflate::Inflater::new(), &stream, 4096);
                    assert!(portably == plain, "{}", record["name"]);
                    *count += 1;
                }
            }
        }
        assert!(compressed[0] >= 4 && compressed[1] >= 1, "{compressed:?}");
    }
}
