//! Both backends of zlib over the same streams: for the tests, and the body of the fuzz target `inflate`.

use flate2::{Decompress, FlushDecompress, Status};

use super::{
    adler::Adler,
    deflate, inflate,
    zlib::{Inflate, MAX_MATCH, native},
};

/// More than a stream may become; bytes.
const MOST: usize = 1 << 20;

/// Inflates by steps of `chunk` bytes of room and more: the result, or nothing for a broken or an endless stream.
pub(super) fn drain(inflater: &mut impl Inflate, stream: &[u8], chunk: usize) -> Option<Vec<u8>> {
    inflater.reset();
    let (mut plain, mut end) = (Vec::new(), 0);
    while !inflater.finished() {
        plain.resize(end + MAX_MATCH + chunk - 1, 0);
        end = inflater.step(stream, &mut plain, end)?;
        if end > MOST {
            return None;
        }
    }
    plain.truncate(end);
    Some(plain)
}

/// Replaces the checksum of a stream by that of its content, if the blocks can be read.
pub(super) fn with_checksum(mut stream: Vec<u8>) -> Vec<u8> {
    let (mut raw, mut plain) = (Decompress::new(false), Vec::with_capacity(MOST));
    let read = stream.get(2..).map(|blocks| raw.decompress_vec(blocks, &mut plain, FlushDecompress::Finish));
    if matches!(read, Some(Ok(Status::StreamEnd))) {
        stream.truncate(2 + raw.total_in() as usize);
        let mut sum = Adler::default();
        sum.add(&plain);
        stream.extend(sum.value().to_be_bytes());
    }
    stream
}

/// Any bytes, as a stream, as the blocks of one with a right checksum, and as a content: both backends refuse a stream or
/// read the same, and read whatever either compressor wrote.
///
/// # Panics
///
/// Panics if they differ.
pub fn streams(data: &[u8]) {
    let Some((&size, data)) = data.split_first() else { return };
    let chunk = 1 + usize::from(size) * usize::from(size);
    let (mut natively, mut portably) = (native::Inflater::new(), inflate::Inflater::new());
    let blocks = with_checksum([&[0x78, 0x9c], data].concat());
    for stream in [data, &blocks] {
        let plain = drain(&mut natively, stream, chunk);
        assert!(drain(&mut portably, stream, chunk) == plain, "the backends read different things");
    }
    let written = [native::Deflater::new().deflate(data), deflate::Deflater::new().deflate(data)];
    for stream in written.into_iter().flatten() {
        for plain in [drain(&mut natively, &stream, chunk), drain(&mut portably, &stream, chunk)] {
            assert!(plain.as_deref() == Some(data), "lost in compressing");
        }
    }
}
